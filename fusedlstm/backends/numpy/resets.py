"""Reset the states of rows that begin a new sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray

    Reset: TypeAlias = tuple[NumpyArray, NumpyArray]  # the h and c that rows are reset to


def select_rows(a: NumpyArray, rows: NumpyArray, value: NumpyArray | None) -> None:
    """Write zeros, or the rows of `value` (B, K) or (1, K), to the marked rows. This selects, so an old NaN is gone."""
    if value is None:
        a[rows] = 0
    elif len(value) == 1:
        a[rows] = value[0]
    else:
        a[rows] = value[rows]


def with_rows(c: NumpyArray, rows: NumpyArray, value: NumpyArray | None, into: NumpyArray) -> NumpyArray:
    """Copy `c` to `into`, reset the marked rows there, and return `into`, which may be `c` itself."""
    np.copyto(into, c)
    select_rows(into, rows, value)
    return into


def reset_state(h: NumpyArray, c: NumpyArray, rows: NumpyArray, reset: Reset | None, into: NumpyArray) -> NumpyArray:
    """Reset the marked rows: those of h in place, those of c in `into`, which is returned."""
    reset_h, reset_c = reset or (None, None)
    select_rows(h, rows, reset_h)
    return with_rows(c, rows, reset_c, into)


def part_of(reset: Reset | None, part: slice) -> Reset | None:
    """Return the part of a reset for some rows of a batch."""
    if reset is None or len(reset[0]) == 1:
        return reset
    return reset[0][part], reset[1][part]
