"""Describe where a system keeps the arrays of one cell.

Each system's LAYOUTS stand with its code. Tests compare each layout with outputs of the real system. A comment says
where only source code or documents tell. It also says since which version a default applies and what came before, as
weights don't tell a version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

# One array with the blocks of all gates, by its name, or one array a gate, by their names in the layout's order.
Names: TypeAlias = str | tuple[str, ...]


def each(name: str, letters: str) -> tuple[str, ...]:
    """Return the names of one array a gate: each("w_{}", "ifgo") is w_i, w_f, w_g, w_o."""
    return tuple(name.format(letter) for letter in letters)


def all_names(names: Names) -> tuple[str, ...]:
    """Return the names of one array or of several."""
    return (names,) if isinstance(names, str) else names


@dataclass(frozen=True)
class Layout:
    """Where a system keeps the arrays of one cell, by the names they have below the cell's own scope.

    Attributes:
        gates: the order of the blocks, such as "igfo"; a coupled gate has none, and becomes zeros.
        columns: whether gates stand side by side, as x @ kernel wants: (I, 4N); else in rows, (4N, I). A
            projection is (N, P) with columns, else (P, N).
        weight_ih: what x is multiplied by.
        weight_hh: what h is multiplied by; empty where both are one array: (I + P, 4N), rows [x; h].
        biases: all that are added, each (4N,).
        has_bias: whether a cell always has them.
        peephole: one array of three blocks of N, or three names in the order i, f, o; empty for none.
        peepholes: the order of the blocks of one array.
        weight_hr: the projection; empty for none.
        interleaved: whether the gates of a unit stand together (row 4n + k), instead of units of a gate.
        forget_bias: what the system adds at every step, besides its arrays.
    """

    gates: str
    columns: bool
    weight_ih: Names
    weight_hh: Names = ""
    biases: tuple[Names, ...] = ()
    has_bias: bool = False
    peephole: Names = ""
    peepholes: str = "ifo"
    weight_hr: str = ""
    interleaved: bool = False
    forget_bias: float = 0.0

    def names(self) -> frozenset[str]:
        """Return the names of all arrays in the layout."""
        parts = (self.weight_ih, self.weight_hh, *self.biases, self.peephole, self.weight_hr)
        return frozenset(name for names in parts for name in all_names(names) if name)
