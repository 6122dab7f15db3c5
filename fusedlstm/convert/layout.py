"""Describe where a system keeps the arrays of one cell.

Each system's LAYOUTS are next to its code. Tests compare each layout with outputs of the real system. Comments mark
what is known only from source code or documentation. They also give the version that introduced a default, and the
default before it, as weights don't record a version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

# The name of one array with the blocks of all gates, or the names of one array per gate in the layout's order.
Names: TypeAlias = str | tuple[str, ...]


def each(name: str, letters: str) -> tuple[str, ...]:
    """Return the names of one array per gate: each("w_{}", "ifgo") gives w_i, w_f, w_g, w_o."""
    return tuple(name.format(letter) for letter in letters)


def all_names(names: Names) -> tuple[str, ...]:
    """Return the names of one array or of several."""
    return (names,) if isinstance(names, str) else names


@dataclass(frozen=True)
class Layout:
    """Where a system keeps the arrays of one cell. Names are relative to the cell's scope.

    Attributes:
        gates: the order of the blocks, such as "igfo". A coupled gate has no block, and becomes zeros.
        columns: whether gates are columns (I, 4N), for x @ kernel. Otherwise they are rows (4N, I). A projection is
            (N, P) with columns, else (P, N).
        weight_ih: the weights of x.
        weight_hh: the weights of h; empty if both are one array (I + P, 4N), with rows [x; h].
        biases: the biases that are summed, each (4N,).
        has_bias: whether a cell always has biases.
        peephole: one array of three blocks of N, or three names in the order i, f, o; empty for none.
        peepholes: the order of the blocks in one array.
        weight_hr: the projection; empty for none.
        interleaved: whether the gates of a unit are adjacent (row 4n + k), rather than the units of a gate.
        forget_bias: what the system adds to the forget gate at every step, besides its arrays.
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
