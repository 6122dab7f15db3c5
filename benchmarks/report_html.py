"""Render a report as one self-contained HTML page, also for phones, light or dark as the reader prefers."""

from __future__ import annotations

import base64
from functools import singledispatch
from html import escape

from benchmarks.blocks import Block, Bullets, Details, Heading, Paragraph, Pictures, Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --soft: #5c5c5c; --line: #d9d9d9; --ours: #fdf0e6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #16181b; --soft: #a3a3a3; --line: #3a3d41; --ours: #3a2717; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 78rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1.1rem; margin: 2rem 0 0.5rem; }
h4 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
p, ul { max-width: 60rem; }
ul { padding-left: 1.2rem; }
.table { overflow-x: auto; margin: 0.75rem 0; }
table { border-collapse: separate; border-spacing: 0; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper);
  white-space: normal; min-width: 10rem; }
@media (max-width: 40rem) {
  table { font-size: 0.8125rem; }
  th, td { padding: 0.25rem 0.4rem; }
  th { white-space: normal; }
}
tr.strong td { font-weight: 600; background: var(--ours); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: 1.5rem;
  margin: 1rem 0; align-items: start; }
.pictures img { width: 100%; height: auto; max-width: 34rem; display: block; }
summary { cursor: pointer; margin: 1rem 0; font-weight: 600; }
"""


def render(blocks: list[Block]) -> str:
    """Return the whole page."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body = "\n".join(_block(block) for block in blocks)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _text(text: str) -> str:
    """Escape, and keep sizes such as N = 128 in one line."""
    return escape(text).replace(" = ", "&nbsp;=&nbsp;").replace(" / ", "&nbsp;/ ")


@singledispatch
def _block(block: Block) -> str:
    raise TypeError(block)


@_block.register
def _(block: Heading) -> str:
    return f"<h{block.level}>{_text(block.text)}</h{block.level}>"


@_block.register
def _(block: Paragraph) -> str:
    return f"<p>{_text(block.text)}</p>"


@_block.register
def _(block: Bullets) -> str:
    items = (f"<li>{f'<b>{_text(name)}:</b> ' if name else ''}{_text(text)}</li>" for name, text in block.items)
    return "<ul>\n" + "\n".join(items) + "\n</ul>"


@_block.register
def _(block: Table) -> str:
    lines = ["<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in block.header) + "</tr>"]
    for index, row in enumerate(block.rows):
        start = '<tr class="strong">' if index in block.strong else "<tr>"
        lines.append(start + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>")
    return '<div class="table"><table>\n' + "\n".join(lines) + "\n</table></div>"


@_block.register
def _(block: Pictures) -> str:
    images = []
    for one in block.pictures:
        data = base64.b64encode(one.adaptive_svg().encode()).decode()
        images.append(f'<img alt="{escape(one.words)}" src="data:image/svg+xml;base64,{data}">')
    return '<div class="pictures">\n' + "\n".join(images) + "\n</div>"


@_block.register
def _(block: Details) -> str:
    inner = "\n".join(_block(one) for one in block.blocks)
    return f"<details>\n<summary>{_text(block.summary)}</summary>\n{inner}\n</details>"
