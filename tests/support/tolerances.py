"""The largest absolute difference of a step in each dtype from float64, for values of order 1.

float64 and float32: a few units in the last place of sums of a few hundred products. 16-bit types: x, h and the weights
are rounded before tests begin, and h once at the end, by half a unit in (-1, 1).
"""

ONE_STEP = {"float64": 1e-14, "float32": 3e-6, "float16": 2**-11, "bfloat16": 2**-8}


def of(dtype, sum_length):
    """Return the tolerance for sums of this length. Errors of sums grow with their length; rounding of h doesn't."""
    return ONE_STEP[str(dtype)] * max(1.0, sum_length / 100)
