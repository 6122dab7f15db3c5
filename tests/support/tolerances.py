"""How far a step in each dtype may be from float64, absolutely, for values of order 1.

float64 and float32: a few units in the last place of sums of a few hundred products. The 16-bit types
round x, h and the weights before the tests begin, and h once at the end: half a unit of h in (-1, 1).
"""

ONE_STEP = {"float64": 1e-14, "float32": 3e-6, "float16": 2**-11, "bfloat16": 2**-8}


def of(dtype, sum_length):
    """Sums grow errors with their length; rounding of h does not."""
    return ONE_STEP[str(dtype)] * max(1.0, sum_length / 100)
