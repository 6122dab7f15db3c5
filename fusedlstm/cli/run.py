"""Run a file of inputs through a file of weights, for the command `fusedlstm run`."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import files, log, npy
from fusedlstm.arrays import dtypes
from fusedlstm.arrays.host import to_host
from fusedlstm.atomic_write import check_target, replace
from fusedlstm.cell import LSTMCell
from fusedlstm.lstm import LSTM
from fusedlstm.stacked import load_weights
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import fail
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.stacked import StackedWeights

# Layers run a part of the steps at a time, so that their widest array, the gates or the inputs, has at most this many
# numbers. A part has at least one step. Bidirectional layers take all steps at once.
_CHUNK = 2**24
# Inputs of width 0 or without steps have no bytes, so a file may claim any number of rows.
_MOST_WITHOUT_BYTES = 2**20
# Words between a file's path and what is wrong with it.
_NO_NPY = " is not a .npy file of numbers, or is damaged"
_NO_NPZ = " is not a .npz file of numbers, or is damaged"


def run_files(
    weights_path: str,
    inputs_path: str,
    *,
    state_path: str | None = None,
    lengths_path: str | None = None,
    out_path: str | None = None,
    dtype: str | None = None,
    backend: str | None = None,
    threads: int | None = None,
) -> str:
    """Run inputs (T, B, I) through a cell or through layers, write the results, and return a line of output.

    The results are `outputs` (T, B, width) and the final state. For LSTMWeights, this is `h` (B, P) and `c` (B, N), and
    every c is in `cells` (T, B, N). For StackedWeights, it is `h0`, `c0`, `h1` ..., one pair for each layer and
    direction. A single pair is stored as `h` and `c`, too. Past a row's length, outputs and cells are zero, and the
    row's state is the one at its end.

    Args:
        weights_path: a file of LSTMWeights or StackedWeights.
        inputs_path: a .npy file of real numbers (T, B, I), which is read a part at a time.
        state_path: a .npz file of the state to start from, under the names above; None for zeros.
        lengths_path: a .npy file of integers (B,), the length of each row; None if all rows have T steps.
        out_path: the .npz file to write, other than the files above; None for one beside the inputs. An existing file
            is overwritten.
        dtype: the dtype to compute in; None for the weights' own. 16-bit results are written as float32.
        backend: as for LSTMCell.
        threads: as for LSTMCell.

    Raises:
        OSError, TypeError, ValueError: a file can't be read or written, or doesn't hold what was wanted.
    """
    out = out_path or str(Path(inputs_path).with_suffix("")) + ".out.npz"
    inputs_of_run = {"WEIGHTS": weights_path, "INPUTS": inputs_path, "--state": state_path, "--lengths": lengths_path}
    check_target("--out", out, inputs_of_run)
    weights = load_weights(weights_path)
    if dtype is not None:
        weights = weights.astype(dtype)
    runner: Any = _runner(weights, backend, threads)
    inputs = _inputs(inputs_path, weights.input_size)
    T, B, _ = inputs.shape
    lengths = None if lengths_path is None else _lengths(lengths_path, T, B)
    states = None if state_path is None else _states(state_path, runner, _layers(weights), B)
    if isinstance(weights, LSTMWeights):
        state = runner.zero_state(B) if states is None else states[0]
        results = _step_through(runner, inputs, state, lengths)
    else:
        results = _run_through(runner, weights, inputs, states or runner.zero_state(B), lengths)
    buffer = io.BytesIO()
    np.savez(buffer, **results)
    replace(out, buffer.getvalue())
    return f"{out}: {T} steps of {B} rows on {runner.device}, {weights.dtype}"


def _runner(weights: LSTMWeights | StackedWeights, backend: str | None, threads: int | None) -> Any:
    """Return an LSTMCell, or an LSTM of layers."""
    if isinstance(weights, LSTMWeights):
        return LSTMCell(weights, backend=backend, threads=threads)
    return LSTM(weights, backend=backend, threads=threads)


def _layers(weights: LSTMWeights | StackedWeights) -> tuple[LSTMWeights, ...]:
    return (weights,) if isinstance(weights, LSTMWeights) else weights.layers


def _inputs(path: str, I: int) -> NumpyArray:
    """Return the inputs, memory-mapped."""
    with files.reading(path, _NO_NPY):
        inputs = npy.open_mapped(path)
    if inputs.ndim != 3 or inputs.shape[2] != I:
        fail(ValueError, path, f"shape (T, B, I) with I = {I}", f"shape {inputs.shape}")
    if inputs.dtype.kind not in "fiub":
        fail(TypeError, path, "real numbers", f"dtype {inputs.dtype}")
    T, B, _ = inputs.shape
    if not inputs.size and max(T, 1) * B > _MOST_WITHOUT_BYTES:
        fail(
            ValueError,
            path,
            f"at most {_MOST_WITHOUT_BYTES} rows of inputs of width 0 or without steps",
            f"shape {inputs.shape}",
        )
    return inputs


def _lengths(path: str, T: int, B: int) -> NumpyArray:
    """Return the length of each row."""
    with files.reading(path, _NO_NPY):
        lengths = npy.read(path)
    if lengths.dtype.kind not in "iu":
        fail(TypeError, path, "integers (B,)", f"dtype {lengths.dtype}")
    if lengths.shape != (B,):
        fail(ValueError, path, f"shape (B,) = ({B},)", f"shape {lengths.shape}")
    if B and not 0 <= int(lengths.min()) <= int(lengths.max()) <= T:
        fail(ValueError, path, f"lengths from 0 to T = {T}", f"{lengths.min()} to {lengths.max()}")
    return lengths.astype(np.int64)


def _states(path: str, runner: Any, layers: tuple[LSTMWeights, ...], B: int) -> tuple[LSTMState, ...]:
    """Return the states of an archive that numpy.savez, or an earlier run, wrote."""
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


def _step_through(cell: LSTMCell, inputs: NumpyArray, state: LSTMState, lengths: NumpyArray | None) -> dict[str, Any]:
    """Return every h (T, B, P) and c (T, B, N), and the final state, by their names in the file."""
    T, B, _ = inputs.shape
    wide = dtypes.state_dtype(cell.dtype)
    outputs = np.empty((T, B, cell.weights.output_size), wide)
    cells = np.empty((T, B, cell.weights.hidden_size), wide)
    first = state.to_numpy()
    for t in _progress(range(T if B else 0), "step"):  # if B is 0, a file may claim any T
        state = cell(cell.asarray(inputs[t]), state)
        host = state.to_numpy()
        outputs[t], cells[t] = host.h, host.c
    final = state.to_numpy()
    h, c = _wide(final.h), _wide(final.c)
    if lengths is not None and B:
        # Rows are independent, so steps past a row's end only need to be left out.
        h, c = _at_the_end(outputs, _wide(first.h), lengths), _at_the_end(cells, _wide(first.c), lengths)
        outputs[np.arange(T)[:, None] >= lengths] = 0
        cells[np.arange(T)[:, None] >= lengths] = 0
    return {"outputs": outputs, "cells": cells, "h": h, "c": c}


def _at_the_end(every: NumpyArray, first: NumpyArray, lengths: NumpyArray) -> NumpyArray:
    """Return each row of `every` (T, B, n) at its last step, or of `first` (B, n) if its length is 0."""
    rows = np.flatnonzero(lengths)
    final = np.array(first)
    final[rows] = every[lengths[rows] - 1, rows]
    return final


def _run_through(
    lstm: LSTM, weights: StackedWeights, inputs: NumpyArray, states: tuple[LSTMState, ...], lengths: NumpyArray | None
) -> dict[str, Any]:
    """Return every output (T, B, width) and the final states, by their names in the file."""
    T, B, _ = inputs.shape
    outputs = np.empty((T, B, weights.output_size), dtypes.state_dtype(weights.dtype))
    for start, stop in _progress(_chunks(weights, T, B) if B else [], "part"):  # if B is 0, a file may claim any T
        within = None if lengths is None else np.clip(lengths - start, 0, stop - start)
        ys, states = lstm(lstm.asarray(inputs[start:stop]), states, lengths=within)
        outputs[start:stop] = to_host("outputs", ys)
    results = {"outputs": outputs}
    for k, state in enumerate(states):
        host = state.to_numpy()
        results |= {f"h{k}": _wide(host.h), f"c{k}": _wide(host.c)}
    if len(states) == 1:
        results |= {"h": results["h0"], "c": results["c0"]}
    return results


def _chunks(weights: StackedWeights, T: int, B: int) -> list[tuple[int, int]]:
    """Return the first step of each call, and the step after its last."""
    widest = max(max(4 * one.hidden_size, one.input_size) for one in weights.layers)
    # A backward direction starts at the last step, so the steps can't be divided.
    steps = max(_CHUNK // (max(B, 1) * widest), 1) if weights.is_causal else max(T, 1)
    return [(start, min(start + steps, T)) for start in range(0, T, steps)]


def _wide(array: NumpyArray) -> NumpyArray:
    """Return 16-bit numbers as float32, as .npy files don't have bfloat16."""
    return array.astype(dtypes.state_dtype(array.dtype), copy=False)


def _progress(steps: Iterable[Any], unit: str) -> Iterable[Any]:
    """Show a bar on a terminal after the first second, if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        if sys.stderr is not None and sys.stderr.isatty():
            log.info("no progress bar: install the extra cli to get one")
        return steps
    bar: Iterable[Any] = tqdm(steps, unit=unit, delay=1, disable=None)
    return bar
