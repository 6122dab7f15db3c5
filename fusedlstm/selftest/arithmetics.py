"""The kinds of arithmetic that are tested, and how far a step may be from the formula in float64."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arithmetic:
    """A dtype at a precision, and the largest differences after one step, in numbers of order 1.

    Attributes:
        dtype: the dtype of x and h.
        precision: as in LSTMCell.
        h: the largest difference of h, which is rounded to the dtype once.
        c: the largest difference of c, which is float32 if h has 16 bits.
    """

    dtype: str
    precision: str
    h: float
    c: float


# In units in the last place just below 1, h may differ by 90 (float64) and 50 (float32), as sums have up to a hundred
# products, by 4 (TF32), as factors have 10-bit mantissas, and by 1 (16 bits). Half of that 1 is for the rounding of h,
# and half for roundings before it.
ARITHMETICS = {
    "float64": Arithmetic("float64", "highest", h=1e-14, c=1e-14),
    "float32": Arithmetic("float32", "highest", h=3e-6, c=3e-6),
    "tf32": Arithmetic("float32", "high", h=2**-9, c=2**-9),
    "float16": Arithmetic("float16", "highest", h=2**-11, c=1e-5),
    "bfloat16": Arithmetic("bfloat16", "highest", h=2**-8, c=1e-5),
}
NAMES = tuple(ARITHMETICS)
