"""Render a report as Markdown, with its pictures as files beside it."""

from __future__ import annotations

import html
import re
from functools import singledispatch

from benchmarks.blocks import Block, Bullets, Details, Heading, Paragraph, Pictures, Table

FOLDER = "pictures"


def render(blocks: list[Block]) -> str:
    """Return the whole text."""
    return "\n\n".join(_block(block) for block in blocks) + "\n"


@singledispatch
def _block(block: Block) -> str:
    raise TypeError(block)


@_block.register
def _(block: Heading) -> str:
    return f"{'#' * block.level} {_text(block.text)}"


@_block.register
def _(block: Paragraph) -> str:
    return _text(block.text)


@_block.register
def _(block: Bullets) -> str:
    return "\n".join(f"- {f'**{_text(name)}:** ' if name else ''}{_text(text)}" for name, text in block.items)


@_block.register
def _(block: Table) -> str:
    _, *columns = zip(block.header, *block.rows, strict=True)
    lines = [_row(block.header), _row(["---", *("---:" if _figures(cells[1:]) else "---" for cells in columns)])]
    for index, row in enumerate(block.rows):
        strong = index in block.strong
        lines.append(_row([f"**{_text(cell)}**" if strong and cell else _text(cell) for cell in row]))
    return "\n".join(lines)


@_block.register
def _(block: Pictures) -> str:
    return "\n".join(f"![{_text(one.words)}]({FOLDER}/{one.name}.png)" for one in block.pictures)


@_block.register
def _(block: Details) -> str:
    inner = "\n\n".join(_block(one) for one in block.blocks)
    return f"<details>\n<summary>{html.escape(block.summary)}</summary>\n\n{inner}\n\n</details>"


def _figures(cells: tuple[str, ...]) -> bool:
    """Whether a column has figures, to be aligned on the right."""
    return all(re.match(r"[\d<]", cell) for cell in cells if cell)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(text: str) -> str:
    """Escape Markdown and HTML."""
    return re.sub(r"([|*_`\[\]\\])", r"\\\1", html.escape(text, quote=False))
