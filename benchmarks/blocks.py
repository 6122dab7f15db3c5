"""The blocks of a report, before it is rendered as Markdown or HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from benchmarks.picture_style import Picture


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of items (name, text). A name may be empty."""

    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Cells of text. The first column has names. Columns of figures are aligned right. Strong rows are emphasised."""

    header: list[str]
    rows: list[list[str]]
    strong: frozenset[int] = frozenset()

    def without_empty_columns(self) -> Table:
        """Return the table without its empty columns."""
        kept = [column for column in range(len(self.header)) if any(row[column] for row in self.rows)]
        rows = [[row[column] for column in kept] for row in self.rows]
        return Table([self.header[column] for column in kept], rows, self.strong)


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side, as many as fit."""

    pictures: list[Picture]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded behind a summary."""

    summary: str
    blocks: list[Block]


Block: TypeAlias = Heading | Paragraph | Bullets | Table | Pictures | Details
