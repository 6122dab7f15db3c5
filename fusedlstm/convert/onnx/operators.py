"""Evaluate operators on constants in NumPy: those that move elements, and those that compute shapes."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.convert.onnx.tensors import FLOATS, INTS, MOST_DIMS, to_array

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.onnx.graph import Node, Scope
    from fusedlstm.convert.onnx.source import Model


def few(name: str, values: Any) -> list[int]:
    """Return a few integers, such as axes. Raise for many, as the work may grow with their square."""
    if len(values) > MOST_DIMS:
        raise ValueError(f"{len(values)} numbers as {name}")
    return [int(value) for value in values]


class Evaluator(Protocol):
    """Evaluates the inputs of an operator."""

    model: Model

    def array(self, scope: Scope, name: str, what: str, level: int) -> NumpyArray:
        """Return the constant with a name."""
        ...

    def shape(self, scope: Scope, name: str, what: str, level: int) -> list[int]:
        """Return the shape of a value."""
        ...


class Arguments:
    """The arguments of an operator, read on access."""

    def __init__(self, constants: Evaluator, node: Node, what: str, level: int, output: int) -> None:
        self.constants, self.node, self.what, self.level, self.output = constants, node, what, level, output
        self.attributes = node.attributes()

    def input(self, index: int) -> NumpyArray:
        """Return an input."""
        name = self.node.input(index)
        return self.constants.array(self.node.scope, name, self.what, self.level + 1)

    def integers(self, name: str, index: int) -> list[int] | None:
        """Return integers that are an attribute in earlier opsets and an input in later ones."""
        if name in self.attributes:
            return few(name, self.attributes[name])
        if self.node.value(index) is None:
            return None
        array = self.input(index)
        if array.dtype.kind != "i" or array.ndim > 1:
            raise ValueError(f"{name} of dtype {array.dtype} and shape {array.shape}")
        return few(name, array.reshape(-1))

    def sizes(self, index: int) -> list[int]:
        """Return an input that is a shape."""
        sizes = self.integers("shape", index)
        if sizes is None or min(sizes, default=0) < 0:
            raise ValueError(f"{sizes} as a shape")
        return sizes

    def count(self, size: int) -> None:
        """Count bytes that are about to be allocated."""
        self.constants.model.count_copy(self.what, size)

    def count_broadcast(self, *arrays: NumpyArray) -> None:
        """Count the bytes of the arrays' broadcast."""
        size = math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
        self.count(size * max(array.itemsize for array in arrays))


def _identity(given: Arguments) -> NumpyArray:
    return given.input(0)


def _squeeze(given: Arguments) -> NumpyArray:
    axes = given.integers("axes", 1)
    return np.squeeze(given.input(0), None if axes is None else tuple(axes))


def _unsqueeze(given: Arguments) -> NumpyArray:
    axes = given.integers("axes", 1)
    if axes is None:
        raise ValueError("no axes")
    return np.expand_dims(given.input(0), tuple(axes))


def _transpose(given: Arguments) -> NumpyArray:
    return np.transpose(given.input(0), given.attributes.get("perm"))


def _reshape(given: Arguments) -> NumpyArray:
    array, shape = given.input(0), given.integers("shape", 1)
    if shape is None:
        raise ValueError("no shape")
    if not given.attributes.get("allowzero"):
        shape = [array.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    given.count(array.nbytes)  # a transposed array is copied
    return array.reshape(shape)


def _slice(given: Arguments) -> NumpyArray:
    array, starts, ends = given.input(0), given.integers("starts", 1), given.integers("ends", 2)
    if starts is None or ends is None:
        raise ValueError("no starts or no ends")
    axes, steps = given.integers("axes", 3), given.integers("steps", 4)
    axes = list(range(len(starts))) if axes is None else [range(array.ndim)[axis] for axis in axes]
    steps = [1] * len(starts) if steps is None else steps
    index: list[Any] = [slice(None)] * array.ndim
    # Python's slices are ONNX's: negative numbers count from the end, and larger ones stop there.
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return np.asarray(array[tuple(index)])


def _split(given: Arguments) -> NumpyArray:
    array, count = given.input(0), len(given.node.proto.output)
    axis = range(array.ndim)[given.attributes.get("axis", 0)]
    sizes = given.integers("split", 1)
    if sizes is None:
        one = -(-array.shape[axis] // count)
        sizes = [min(one, array.shape[axis] - k * one) for k in range(count)]
    if len(sizes) != count or min(sizes) < 0 or sum(sizes) != array.shape[axis]:
        raise ValueError(f"{sizes} of {array.shape[axis]} for {count} outputs")
    start = sum(sizes[: given.output])
    return np.take(array, range(start, start + sizes[given.output]), axis)


def _concat(given: Arguments) -> NumpyArray:
    arrays = [given.input(index) for index in range(len(given.node.proto.input))]
    if len({array.dtype for array in arrays}) != 1:
        raise ValueError(f"dtypes {', '.join(str(array.dtype) for array in arrays) or 'of nothing'}")
    given.count(sum(array.nbytes for array in arrays))
    return np.concatenate(arrays, given.attributes["axis"])


def _cast(given: Arguments) -> NumpyArray:
    array, to = given.input(0), (FLOATS | INTS).get(given.attributes.get("to", 0))
    kinds = (dtypes.NAMES, tuple(INTS.values()))
    if to is None or not any(array.dtype.name in kind and to in kind for kind in kinds):
        raise ValueError(f"from {array.dtype} to {to or 'another dtype'}, not between floats or between integers")
    dtype = dtypes.resolve(to) if to in dtypes.NAMES else np.dtype(to)
    given.count(array.size * dtype.itemsize)
    with np.errstate(all="ignore"):  # as in ONNX, a number too large for the new dtype becomes an infinity
        return array.astype(dtype)


def _shape(given: Arguments) -> NumpyArray:
    shape = given.constants.shape(given.node.scope, given.node.input(0), given.what, given.level + 1)
    return np.array(shape[given.attributes.get("start", 0) : given.attributes.get("end", len(shape))], np.int64)


def _gather(given: Arguments) -> NumpyArray:
    array, indices = given.input(0), given.input(1)
    if indices.dtype.kind != "i":
        raise ValueError(f"indices of dtype {indices.dtype}")
    axis = range(array.ndim)[given.attributes.get("axis", 0)]
    size = math.prod((*array.shape[:axis], *indices.shape, *array.shape[axis + 1 :])) * array.itemsize
    given.count(size)
    return np.take(array, indices, axis)


def _expand(given: Arguments) -> NumpyArray:
    array, shape = given.input(0), tuple(given.sizes(1))
    rank = max(array.ndim, len(shape))
    both = [(1,) * (rank - len(each)) + tuple(each) for each in (array.shape, shape)]
    wanted = tuple(a if b == 1 else b for a, b in zip(*both, strict=True))
    given.count(math.prod(wanted) * array.itemsize)
    return np.broadcast_to(array, wanted)


def _tile(given: Arguments) -> NumpyArray:
    array, repeats = given.input(0), given.sizes(1)
    if len(repeats) != array.ndim:
        raise ValueError(f"{len(repeats)} repeats of {array.ndim} axes")
    given.count(array.nbytes * math.prod(repeats))
    return np.tile(array, repeats)


def _constant_of_shape(given: Arguments) -> NumpyArray:
    shape, tensor = given.sizes(0), given.attributes.get("value")
    value = np.zeros(1, np.float32) if tensor is None else to_array(given.constants.model, tensor, given.what)
    if value.size != 1:
        raise ValueError(f"{value.size} numbers as value")
    given.count(math.prod(shape) * value.itemsize)
    return np.broadcast_to(value.reshape(()), shape)


def _where(given: Arguments) -> NumpyArray:
    condition, a, b = (given.input(index) for index in range(3))
    if condition.dtype != bool or a.dtype != b.dtype:
        raise ValueError(f"dtypes {condition.dtype}, {a.dtype} and {b.dtype}")
    given.count_broadcast(condition, a, b)
    return np.where(condition, a, b)


def _of_integers(function: Callable[[NumpyArray, NumpyArray], NumpyArray]) -> Callable[[Arguments], NumpyArray]:
    """Return an operator on integers, as in shapes. On weights, it would round."""

    def evaluate(given: Arguments) -> NumpyArray:
        a, b = given.input(0), given.input(1)
        if a.dtype != b.dtype or a.dtype.kind != "i":
            raise ValueError(f"dtypes {a.dtype} and {b.dtype}, not of one integer dtype")
        given.count_broadcast(a, b)
        return np.asarray(function(a, b))

    return evaluate


OPERATORS: dict[str, Callable[[Arguments], NumpyArray]] = {
    "Identity": _identity,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Cast": _cast,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
    "Where": _where,
    "Shape": _shape,
    "Equal": _of_integers(operator.eq),
    "Add": _of_integers(operator.add),
    "Sub": _of_integers(operator.sub),
    "Mul": _of_integers(operator.mul),
}
