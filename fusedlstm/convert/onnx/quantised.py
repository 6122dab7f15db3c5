"""Fold QuantizeLinear and DequantizeLinear of constants, as onnxruntime computes them, bit for bit.

Around a float LSTM they stand before its weights. Where they round x or h instead, no weights compute the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.convert.onnx.axes import MOVES
from fusedlstm.convert.onnx.tensors import INTEGERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.graph import Value
    from fusedlstm.convert.onnx.node import LSTM
    from fusedlstm.convert.onnx.operators import Arguments

_MOST_BETWEEN = 30  # operators between a DequantizeLinear and an LSTM
_HINT = "Weights can't represent that: export the model before it is quantised"


def _dequantize(given: Arguments) -> NumpyArray:
    """Return (q - zero point) * scale, computed in float32, in the scale's dtype."""
    array, scale, zero = _inputs(given)
    if array.dtype.name not in (*INTEGERS.values(), "int32"):
        raise ValueError(f"from {array.dtype}, not from integers of 8, 16 or 32 bits")
    if zero.dtype != array.dtype or (array.dtype.name == "int32" and zero.any()):
        raise ValueError(f"a zero point {zero.dtype} for {array.dtype}, which for int32 must be 0")
    given.count(array.size * 12)
    with np.errstate(all="ignore"):
        values = (array.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale.astype(np.float32)
        return np.asarray(values.astype(scale.dtype))


def _quantize(given: Arguments) -> NumpyArray:
    """Return x / scale, rounded to even, plus the zero point, within the limits of the zero point's dtype."""
    array, scale, zero = _inputs(given)
    if array.dtype != scale.dtype or zero.dtype.name not in INTEGERS.values():
        raise ValueError(f"from {array.dtype} by a scale {scale.dtype} to {zero.dtype}")
    if not np.isfinite(array).all():
        raise ValueError("numbers that are not finite")
    limits = np.iinfo(zero.dtype)
    given.count(array.size * 12)
    with np.errstate(all="ignore"):
        rounded = np.rint(array.astype(np.float32) / scale.astype(np.float32)) + zero.astype(np.float32)
        return np.asarray(np.clip(rounded, limits.min, limits.max).astype(zero.dtype))


def _inputs(given: Arguments) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """Return the values, and the scale and zero point in a shape that broadcasts to them."""
    unknown = [name for name, value in given.attributes.items() if name not in ("axis", "saturate") and value]
    if unknown:
        raise ValueError(f"the attribute {unknown[0]}")
    array, scale = given.input(0), given.input(1)
    if scale.dtype.name not in dtypes.NAMES:
        raise ValueError(f"a scale of dtype {scale.dtype}")
    if given.node.value(2) is not None:
        zero = given.input(2)
    else:
        zero = np.zeros(scale.shape, np.uint8 if array.dtype.kind not in "iu" else array.dtype)
    if zero.shape != scale.shape:
        raise ValueError(f"a zero point {zero.shape} for a scale {scale.shape}")
    return array, _along(array, scale, given), _along(array, zero, given)


def _along(array: NumpyArray, one: NumpyArray, given: Arguments) -> NumpyArray:
    """Return a scale or zero point, of which there is one for all numbers or for each index of an axis."""
    if one.size == 1:
        return one.reshape(())
    axis = range(array.ndim)[given.attributes.get("axis", 1)]
    if one.shape != (array.shape[axis],):
        raise ValueError(f"a scale {one.shape} for axis {axis} of {array.shape}")
    return one.reshape([-1 if k == axis else 1 for k in range(array.ndim)])


OPERATORS: dict[str, Callable[[Arguments], NumpyArray]] = {
    f"{domain}{name}": function
    for domain in ("", "com.microsoft.")
    for name, function in (("DequantizeLinear", _dequantize), ("QuantizeLinear", _quantize))
}


def refuse_rounded(constants: Constants, lowest: Sequence[LSTM], every: Sequence[LSTM]) -> None:
    """Raise WeightsFileError if the model rounds the lowest layer's X, or a layer's state, to integers.

    Args:
        constants: the model's constants.
        lowest: the nodes of the lowest layer.
        every: those of all layers.
    """
    inputs: list[tuple[str, int, Any]] = [("X", 0, lowest), ("initial_h", 5, every), ("initial_c", 6, every)]
    for name, index, lstms in inputs:
        for lstm in lstms:
            node = _rounding(lstm.node.value(index), constants)
            if node is not None:
                wanted, got = "its values as they are", f"{node.op} {node.name!r}, which rounds them to integers"
                constants.model.refuse(f"{name} of the LSTM {lstm.label!r}", wanted, got, _HINT)


def _rounding(value: Value | None, constants: Constants) -> Any:
    """Return the DequantizeLinear of a value that is not a constant; None without one."""
    from fusedlstm.convert.onnx.constants import NotConstantError

    for _ in range(_MOST_BETWEEN):
        if value is None or value.node is None:
            return None
        node = value.node
        if node.op.removeprefix("com.microsoft.") == "DequantizeLinear":
            try:
                constants.array(node.scope, node.input(0), "its values")
            except NotConstantError:
                return node
            return None
        if node.op not in (*MOVES, "Identity"):
            return None
        value = node.value(0)
    return None
