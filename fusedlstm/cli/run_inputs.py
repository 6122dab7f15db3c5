"""The files that `fusedlstm run` reads: inputs, lengths and states. Each is checked before any work."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import files
from fusedlstm.arrays import dtypes
from fusedlstm.cli.run_results import STANDARD
from fusedlstm.npy_parts import open_parts
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.npy_parts import Parts
    from fusedlstm.weights import LSTMWeights

# Inputs of width 0 or without steps have no bytes, so a file may claim any number of rows.
_MOST_WITHOUT_BYTES = 2**20
# Words between a file's path and what is wrong with it.
_NO_NPY = " is not a .npy file of numbers, or is damaged"
_NO_NPZ = " is not a .npz file of numbers, or is damaged"


class Inputs:
    """The inputs (T, B, I), of which a part of the steps is in memory at a time.

    Args:
        name: the path, for errors.
        parts: the array of the file.
        I: the input size that the weights have.
    """

    def __init__(self, name: str, parts: Parts, I: int) -> None:
        self._name, self._parts = name, parts
        self._kept: dict[tuple[int, int], NumpyArray] = {}
        shape, dtype = parts.shape, parts.dtype
        if len(shape) != 3 or shape[2] != I:
            fail(ValueError, name, f"shape (T, B, I) with I = {I}", f"shape {shape}")
        if dtype.kind not in "fiub":
            fail(TypeError, name, "real numbers", f"dtype {dtype}")
        self.T, self.B, _ = shape
        if 0 in shape and max(self.T, 1) * self.B > _MOST_WITHOUT_BYTES:
            wanted = f"at most {_MOST_WITHOUT_BYTES} rows of inputs of width 0 or without steps"
            fail(ValueError, name, wanted, f"shape {shape}")

    @property
    def seeks(self) -> bool:
        """Whether steps can be read in any order."""
        return self._parts.seeks

    def keep_first(self, parts: Iterable[tuple[int, int]]) -> None:
        """Read the first part of a stream ahead, to show that its rows exist, as a header may claim any number."""
        first = next(iter(parts), None)
        if first is not None and not self.seeks:
            self._kept = {first: self.read(*first)}

    def read(self, start: int, stop: int) -> NumpyArray:
        """Return the inputs of steps `start` to `stop`."""
        if (start, stop) in self._kept:
            return self._kept.pop((start, stop))
        with files.reading(self._name, _NO_NPY):
            return self._parts.read(start, stop)


@contextlib.contextmanager
def open_inputs(path: str, I: int, *, anywhere: bool, folder: str | None) -> Iterator[Inputs]:
    """Give the inputs at a path; "-" is standard input. `anywhere` and `folder` are as in `open_parts`."""
    name = "standard input" if path == STANDARD else path
    with contextlib.ExitStack() as stack:
        with files.reading(name, _NO_NPY):
            if path != STANDARD:
                file: Any = stack.enter_context(open(path, "rb", buffering=0))
            elif sys.stdin is None:
                raise ValueError("it is closed")
            else:
                file = sys.stdin.buffer
            parts = stack.enter_context(open_parts(file, anywhere=anywhere, folder=folder))
        yield Inputs(name, parts, I)


def read_lengths(path: str, T: int, B: int) -> NumpyArray:
    """Return the length of each row."""
    lengths = read_integers(path, B)
    if B and not 0 <= int(lengths.min()) <= int(lengths.max()) <= T:
        fail(ValueError, path, f"lengths from 0 to T = {T}", f"{lengths.min()} to {lengths.max()}")
    return lengths.astype(np.int64)


def read_integers(path: str, B: int) -> NumpyArray:
    """Return an integer for each row, of any dtype. The file may be a pipe."""
    with contextlib.ExitStack() as stack:
        with files.reading(path, _NO_NPY):
            parts = stack.enter_context(open_parts(stack.enter_context(open(path, "rb"))))
        if parts.dtype.kind not in "iu":
            fail(TypeError, path, "integers (B,)", f"dtype {parts.dtype}")
        if parts.shape != (B,):
            fail(ValueError, path, f"shape (B,) = ({B},)", f"shape {parts.shape}")
        with files.reading(path, _NO_NPY):
            return parts.read(0, B)


def read_states(path: str, runner: Any, layers: tuple[LSTMWeights, ...], B: int) -> tuple[LSTMState, ...]:
    """Return the states of an archive that numpy.savez, or an earlier run, wrote, on the device of `runner`."""
    from fusedlstm.convert.archives import open_npz

    count = len(layers)
    with files.reading(path, _NO_NPZ):
        archive = open_npz(path)
        pairs = _names_of_states(list(archive), count)
        arrays = {name: _for_rows(archive[name], B) for pair in pairs for name in pair}
    if not pairs:
        wanted = "h and c" if count == 1 else ", ".join(f"h{k}, c{k}" for k in range(count))
        fail(ValueError, path, f"an archive with arrays named {wanted}", ", ".join(archive) or "no names")
    for pair, layer in zip(pairs, layers, strict=True):
        _check_pair(path, {name: arrays[name] for name in pair}, B, layer)
    c_dtype = dtypes.state_dtype(runner.dtype)
    return tuple(LSTMState(h=runner.asarray(arrays[h]), c=runner.asarray(arrays[c], c_dtype)) for h, c in pairs)


def _for_rows(array: NumpyArray, B: int) -> NumpyArray:
    """Return a state of B rows. A single row, such as a learned state, is repeated for every row."""
    return np.repeat(array, B, axis=0) if array.ndim == 2 and len(array) == 1 else array


def _check_pair(path: str, pair: dict[str, NumpyArray], B: int, layer: LSTMWeights) -> None:
    """Raise unless the arrays of a pair, h and c by their names, are a layer's state of B rows."""
    wanted = (B, layer.output_size), (B, layer.hidden_size)
    swapped = tuple(array.shape for array in pair.values()) == wanted[::-1]
    for (name, array), shape in zip(pair.items(), wanted, strict=True):
        if array.dtype.kind not in "fiub":
            fail(TypeError, f"{path}: {name}", "real numbers", f"dtype {array.dtype}")
        if array.shape != shape:
            hint = "h and c look swapped" if swapped else ""
            fail(ValueError, f"{path}: {name}", f"shape {shape}", f"shape {array.shape}", hint)


def _names_of_states(names: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Return the names of each h and c in an archive with these names; [] if it doesn't hold `count` states."""
    if count == 1 and {"h", "c"} <= set(names):
        return [("h", "c")]
    numbered = [(f"h{k}", f"c{k}") for k in range(count)]
    there = {name for name in names if re.fullmatch("[hc][0-9]+", name)}
    return numbered if there == {name for pair in numbered for name in pair} else []
