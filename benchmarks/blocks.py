"""What a report is made of, before it is Markdown or a page."""

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
    """Items, each a name, which may be empty, and a text."""

    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Cells of text; the first column is of names, the others of figures. Strong rows stand out."""

    header: list[str]
    rows: list[list[str]]
    strong: frozenset[int] = frozenset()

    def without_empty_columns(self) -> Table:
        """Return the columns that say anything."""
        kept = [column for column in range(len(self.header)) if any(row[column] for row in self.rows)]
        rows = [[row[column] for column in kept] for row in self.rows]
        return Table([self.header[column] for column in kept], rows, self.strong)


@dataclass(frozen=True)
class Pictures:
    """Pictures beside each other, as many as there is room for."""

    pictures: list[Picture]


@dataclass(frozen=True)
class Details:
    """Blocks that are shown when they are asked for."""

    summary: str
    blocks: list[Block]


Block: TypeAlias = Heading | Paragraph | Bullets | Table | Pictures | Details
