"""Fold QuantizeLinear and DequantizeLinear of constants, as onnxruntime computes them, bit for bit.

Around a float LSTM they stand before its weights. rounding.py refuses those that round x or h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.convert.onnx.tensors import INTEGERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.onnx.operators import Arguments


def _dequantize(given: Arguments) -> NumpyArray:
    """Return (q - zero point) * scale, computed in float32, in the scale's dtype."""
    array, scale, zero = _inputs(given)
    if array.dtype.name not in (*INTEGERS.values(), "int32"):
        raise ValueError(f"wanted integers of 8, 16 or 32 bits; got {array.dtype}")
    if zero.dtype != array.dtype:
        raise ValueError(f"wanted a zero point of dtype {array.dtype}; got {zero.dtype}")
    if array.dtype.name == "int32" and zero.any():
        raise ValueError("wanted 0 as the zero point of int32; got another number")
    given.count(array.size * 12)
    with np.errstate(all="ignore"):
        values = (array.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale.astype(np.float32)
        return np.asarray(values.astype(scale.dtype))


def _quantize(given: Arguments) -> NumpyArray:
    """Return x / scale, rounded to even, plus the zero point, within the limits of the zero point's dtype."""
    array, scale, zero = _inputs(given)
    if array.dtype != scale.dtype or zero.dtype.name not in INTEGERS.values():
        raise ValueError(
            f"wanted values with the scale's dtype {scale.dtype}, to 8 or 16 bits; got {array.dtype} to {zero.dtype}"
        )
    if not np.isfinite(array).all():
        raise ValueError("wanted finite numbers; got NaN or infinity")
    limits = np.iinfo(zero.dtype)
    given.count(array.size * 12)
    with np.errstate(all="ignore"):
        rounded = np.rint(array.astype(np.float32) / scale.astype(np.float32)) + zero.astype(np.float32)
        return np.asarray(np.clip(rounded, limits.min, limits.max).astype(zero.dtype))


def _inputs(given: Arguments) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """Return the values, and the scale and zero point in a shape that broadcasts to them."""
    unknown = [name for name, value in given.attributes.items() if name not in ("axis", "saturate") and value]
    if unknown:
        raise ValueError(f"wanted no attributes but axis and saturate; got {unknown[0]}")
    array, scale = given.input(0), given.input(1)
    if scale.dtype.name not in dtypes.NAMES:
        raise ValueError(f"wanted a scale of floats; got {scale.dtype}")
    if given.node.value(2) is not None:
        zero = given.input(2)
    else:
        zero = np.zeros(scale.shape, np.uint8 if array.dtype.kind not in "iu" else array.dtype)
    if zero.shape != scale.shape:
        raise ValueError(f"wanted a zero point of the scale's shape {scale.shape}; got shape {zero.shape}")
    return array, _along(array, scale, given), _along(array, zero, given)


def _along(array: NumpyArray, one: NumpyArray, given: Arguments) -> NumpyArray:
    """Return a scale or zero point, of which there is one for all numbers or for each index of an axis."""
    if one.size == 1:
        return one.reshape(())
    axis = range(array.ndim)[given.attributes.get("axis", 1)]
    if one.shape != (array.shape[axis],):
        raise ValueError(
            f"wanted one scale, or {array.shape[axis]} for axis {axis} of {array.shape}; got shape {one.shape}"
        )
    return one.reshape([-1 if k == axis else 1 for k in range(array.ndim)])


OPERATORS: dict[str, Callable[[Arguments], NumpyArray]] = {
    f"{domain}{name}": function
    for domain in ("", "com.microsoft.")
    for name, function in (("DequantizeLinear", _dequantize), ("QuantizeLinear", _quantize))
}
