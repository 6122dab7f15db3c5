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
        c: the largest difference of c, which is float32 beside 16-bit dtypes.
    """

    dtype: str
    precision: str
    h: float
    c: float


# Units in the last place just below 1: 90 of float64 and 50 of float32, for sums of up to a hundred products; 4 of
# TF32, whose products are of numbers with 10-bit mantissas; 1 of 16 bits, as h is rounded by half a unit, and the other
# half is for what is rounded before.
ARITHMETICS = {
    "float64": Arithmetic("float64", "highest", h=1e-14, c=1e-14),
    "float32": Arithmetic("float32", "highest", h=3e-6, c=3e-6),
    "tf32": Arithmetic("float32", "high", h=2**-9, c=2**-9),
    "float16": Arithmetic("float16", "highest", h=2**-11, c=1e-5),
    "bfloat16": Arithmetic("bfloat16", "highest", h=2**-8, c=1e-5),
}
NAMES = tuple(ARITHMETICS)
