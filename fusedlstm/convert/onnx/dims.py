"""Compute sizes and shapes in which T and B may be unknown. A size is a number times any such letters."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

from fusedlstm.convert.onnx.operators import few
from fusedlstm.convert.onnx.tensors import MOST_DIMS
from fusedlstm.errors import WeightsFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.graph import Value
    from fusedlstm.convert.onnx.node import LSTM

Dim: TypeAlias = tuple[int, tuple[str, ...]]  # 2 T B is (2, ("B", "T"))
ONE: Dim = (1, ())
_MOST_LEVELS = 30  # operators in a chain; exporters stay below ten


def product(dims: Iterable[Dim]) -> Dim:
    """Return the product of sizes."""
    number = 1
    letters: list[str] = []
    for factor, symbols in dims:
        number *= factor
        letters += symbols
    return number, tuple(sorted(letters))


def quotient(dim: Dim, by: Dim) -> Dim | None:
    """Return the quotient of sizes, or None if it is not a size."""
    left = Counter(dim[1])
    left.subtract(Counter(by[1]))
    if by[0] < 1 or dim[0] % by[0] or min(left.values(), default=0) < 0:
        return None
    return dim[0] // by[0], tuple(sorted(left.elements()))


class Dims:
    """Follows what a model computes from the shapes of an LSTM's input and output.

    Args:
        constants: the model's constants.
        dims_of: a function that returns the sizes of a value's axes if an LSTM determines them, or None.
    """

    def __init__(self, constants: Constants, dims_of: Callable[[Value, LSTM], list[Dim] | None]) -> None:
        self.constants, self.dims_of = constants, dims_of
        self._known: dict[tuple[int, str, int, bool], list[Dim]] = {}

    def vector(self, value: Value, lstm: LSTM, *, repeated: bool = False, level: int = 0) -> list[Dim]:
        """Return the numbers of a shape, or one number as a vector of one.

        Args:
            value: the shape.
            lstm: the LSTM that T and B belong to.
            repeated: whether Expand and Tile may repeat a number, which is then returned once.
            level: how many operators are between it and the value that was asked for.

        Raises:
            WeightsFileError: it can't be followed.
        """
        key = (*value.key, id(lstm), repeated)
        if key not in self._known:
            self._known[key] = self._evaluate(value, lstm, repeated, level)
        return self._known[key]

    def _evaluate(self, value: Value, lstm: LSTM, repeated: bool, level: int) -> list[Dim]:
        if level > _MOST_LEVELS:
            raise WeightsFileError(f"a chain of more than {_MOST_LEVELS} operators")
        op = "" if value.node is None else value.node.op
        if op not in _OPERATORS and not (repeated and op in _REPEATING):
            array = self.constants.array(value.scope, value.name, "a shape")
            if array.dtype.kind != "i":
                raise WeightsFileError(f"a shape of dtype {array.dtype}")
            if repeated and len(array.reshape(-1)) and (array == array.flat[0]).all():
                array = array.reshape(-1)[:1]
            return [(number, ()) for number in few("a shape", array.reshape(-1))]
        result = (_OPERATORS | _REPEATING)[op](_Shape(self, value, lstm, repeated, level))
        if len(result) > MOST_DIMS or any(abs(number) >= 2**63 or len(letters) > 9 for number, letters in result):
            raise WeightsFileError("a shape that no array has")
        return result


class _Shape:
    """An operator applied to shapes."""

    def __init__(self, dims: Dims, value: Value, lstm: LSTM, repeated: bool, level: int) -> None:
        assert value.node is not None
        self.dims, self.node, self.lstm, self.repeated, self.level = dims, value.node, lstm, repeated, level
        self.attributes = value.node.attributes()

    def input(self, index: int) -> list[Dim]:
        """Return an input."""
        value = self.node.scope.look_up(self.node.input(index))
        return self.dims.vector(value, self.lstm, repeated=self.repeated, level=self.level + 1)

    def numbers(self, index: int) -> list[int] | None:
        """Return a constant input; None if there is none."""
        if self.node.value(index) is None:
            return None
        array = self.dims.constants.array(self.node.scope, self.node.input(index), "a shape")
        return few("a shape", array.reshape(-1))


def _shape(given: _Shape) -> list[Dim]:
    dims = given.dims.dims_of(given.node.scope.look_up(given.node.input(0)), given.lstm)
    if dims is None:
        raise WeightsFileError("the shape of a value other than the LSTM's")
    return dims[given.attributes.get("start", 0) : given.attributes.get("end", len(dims))]


def _gather(given: _Shape) -> list[Dim]:
    dims = given.input(0)
    return [dims[index] for index in given.numbers(1) or []]


def _slice(given: _Shape) -> list[Dim]:
    parts: list[Any] = [given.attributes.get(name, given.numbers(1 + k)) for k, name in enumerate(("starts", "ends"))]
    steps = given.numbers(4) or [1]
    if any(part is None or len(part) != 1 for part in (*parts, steps)):
        raise WeightsFileError("a slice of a shape")
    return given.input(0)[slice(parts[0][0], parts[1][0], steps[0])]


def _concat(given: _Shape) -> list[Dim]:
    return [dim for index in range(len(given.node.proto.input)) for dim in given.input(index)]


def _mul(given: _Shape) -> list[Dim]:
    a, b = given.input(0), given.input(1)
    if len(a) != 1 or len(b) != 1:
        raise WeightsFileError("a product of shapes")
    return [product([*a, *b])]


def _same(given: _Shape) -> list[Dim]:
    return given.input(0)


def _reshape(given: _Shape) -> list[Dim]:
    """Follow a Reshape of one number to a vector, or of a vector to one number."""
    if given.numbers(1) not in ([-1], [1], []):
        raise WeightsFileError("a shape reshaped")
    return given.input(0)


def _expand(given: _Shape) -> list[Dim]:
    """Follow an Expand of one number, which fills the result."""
    dims = given.input(0)
    if len(dims) != 1:
        raise WeightsFileError("a shape repeated")
    return dims


_OPERATORS: dict[str, Callable[[_Shape], list[Dim]]] = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Mul": _mul,
    "Identity": _same,
    "Cast": _same,
    "Squeeze": _same,
    "Unsqueeze": _same,
    "Reshape": _reshape,
}
_REPEATING: dict[str, Callable[[_Shape], list[Dim]]] = {"Expand": _expand, "Tile": _expand}
