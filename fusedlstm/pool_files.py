"""The file of a pool: its live slots and their states, written whole and checked before they are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import files
from fusedlstm.arrays import dtypes
from fusedlstm.errors import WeightsFileError
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import check_path, fail
from fusedlstm.weights import for_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.validation.arguments import AnyPath

_KIND = "StatePool"
_VERSION = 4  # the first one with the fingerprint of weights


@dataclass(frozen=True)
class StateSizes:
    """The sizes that states must share with a pool: P and N of each layer, and the dtype of h."""

    sizes: tuple[tuple[int, int], ...]
    dtype: str

    @classmethod
    def of(cls, weights: StackedWeights) -> StateSizes:
        """Return the sizes of the states of these weights."""
        sizes = tuple((layer.output_size, layer.hidden_size) for layer in weights.layers)
        return cls(sizes, weights.dtype.name)

    def options(self) -> dict[str, Any]:
        """Return these sizes as the options of a file."""
        return {"layers": [{"output_size": P, "hidden_size": N} for P, N in self.sizes], "dtype": self.dtype}

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.sizes))} in {self.dtype}"


def fingerprint(weights: StackedWeights) -> int:
    """Return a number that identifies weights on every backend. Different ones share it with a chance of 1 in 2^32."""
    arrays = {f"{k}.{name}": array for k, layer in enumerate(weights.layers) for name, array in layer.arrays().items()}
    # The options as in a file: those that a later version of this package adds don't change the number.
    return files.checksum({"layers": for_file(weights.layers)[1], "residual": weights.residual}, arrays)


def save(path: AnyPath, weights: StackedWeights, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
    """Write slots and a state for each layer, all in host memory, to one file, whole or not at all.

    `weights` are the pool's.
    """
    arrays = {"slots": slots}
    for k, state in enumerate(states):
        arrays |= {f"{k}.h": state.h, f"{k}.c": state.c}
    options = StateSizes.of(weights).options() | {"weights": fingerprint(weights)}
    files.save(path, _KIND, arrays, options, _VERSION)


def load(path: AnyPath, sizes: StateSizes, capacity: int) -> tuple[NumpyArray, list[LSTMState], int | None]:
    """Return the slots of a file and a state for each layer, in host memory, checked for a pool.

    The last element is the fingerprint of the weights that the saved pool had; None in a file before version 4.

    Raises:
        WeightsFileError: the file is damaged or doesn't fit the pool. The message says why.
        OSError: from the operating system. The error names the path.
        TypeError: `path` is not a path.
    """
    name = check_path("path", path)
    with files.reading(name):
        return _load(name, sizes, capacity)


def _load(name: str, sizes: StateSizes, capacity: int) -> tuple[NumpyArray, list[LSTMState], int | None]:
    arrays, options = files.load(name, _KIND)
    found, weights = files.build(name, _options_from_file, {}, options)
    if found != sizes:
        raise WeightsFileError(f"{name} holds states of layers (P, N) = {found}; this pool's are {sizes}")
    slots, states = files.build(name, _states_from_file, {"sizes": sizes, "arrays": arrays}, {})
    check_capacity(name, slots, capacity)
    return slots, states, weights


def check_capacity(name: str, slots: NumpyArray, capacity: int) -> None:
    """Raise WeightsFileError unless a pool of this capacity has a file's slots."""
    if slots.size and slots.max() >= capacity:
        raise WeightsFileError(f"{name} holds live slots up to {slots.max()}; this pool's capacity is {capacity}")


def _options_from_file(*, layers: Any, dtype: Any, weights: Any = None) -> tuple[StateSizes, int | None]:
    """Return the sizes and the fingerprint in a file's options, which may hold anything, or raise ValueError."""
    sizes = tuple((layer["output_size"], layer["hidden_size"]) for layer in _list_of_dicts(layers))
    if not sizes or not all(type(size) is int for pair in sizes for size in pair):
        fail(ValueError, "layers", "the sizes of each layer", str(layers))
    if dtype not in dtypes.NAMES:
        fail(ValueError, "dtype", f"one of {', '.join(dtypes.NAMES)}", str(dtype))
    if weights is not None and type(weights) is not int:
        fail(ValueError, "weights", "the fingerprint of weights, an int", str(weights))
    return StateSizes(sizes, dtype), weights


def _list_of_dicts(layers: Any) -> list[dict[str, Any]]:
    wanted = {"output_size", "hidden_size"}
    if not isinstance(layers, list) or not all(isinstance(layer, dict) and set(layer) == wanted for layer in layers):
        fail(ValueError, "layers", "the sizes of each layer", str(layers))
    return layers


def _states_from_file(*, sizes: StateSizes, arrays: Mapping[str, NumpyArray]) -> tuple[NumpyArray, list[LSTMState]]:
    """Return a file's slots and states, or raise ValueError if they don't have these sizes."""
    dtype = dtypes.resolve(sizes.dtype)
    slots = arrays.get("slots")
    if slots is None or slots.dtype != np.int64 or slots.ndim != 1:
        fail(ValueError, "slots", "int64 (L,)", _describe(slots))
    _check_values(slots)
    wanted = {"slots": (slots.shape, np.dtype(np.int64))}
    for k, (P, N) in enumerate(sizes.sizes):
        wanted[f"{k}.h"] = (len(slots), P), dtype
        wanted[f"{k}.c"] = (len(slots), N), dtypes.state_dtype(dtype)
    for name in sorted(wanted.keys() | arrays.keys()):
        array = arrays.get(name)
        if name not in wanted:
            fail(ValueError, name, "no such array", _describe(array))
        shape, its_dtype = wanted[name]
        if array is None or array.shape != shape or array.dtype != its_dtype:
            fail(ValueError, name, f"{its_dtype} {shape}", _describe(array))
    return slots, [LSTMState(h=arrays[f"{k}.h"], c=arrays[f"{k}.c"]) for k in range(len(sizes.sizes))]


def _check_values(slots: NumpyArray) -> None:
    """Raise unless slots are sorted, distinct and not negative."""
    if slots.size and slots[0] < 0:
        fail(ValueError, "slots", "slots of at least 0", str(slots[0]))
    wrong = np.flatnonzero(slots[1:] <= slots[:-1])
    if wrong.size:
        row = int(wrong[0])
        fail(ValueError, "slots", "sorted, distinct slots", f"{slots[row]} before {slots[row + 1]}")


def _describe(array: NumpyArray | None) -> str:
    return "none" if array is None else f"{array.dtype} {array.shape}"
