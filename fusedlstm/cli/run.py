"""Run a file of inputs through a file of weights, for the command `fusedlstm run`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import log
from fusedlstm.arrays import dtypes
from fusedlstm.atomic_write import check_target
from fusedlstm.cell import LSTMCell
from fusedlstm.cli.progress import bar
from fusedlstm.cli.run_both_ways import BothWaysRun, lstms_of, needs_passes
from fusedlstm.cli.run_inputs import open_inputs, read_lengths, read_states
from fusedlstm.cli.run_results import STANDARD, folder_of, is_one_array, results
from fusedlstm.cli.run_steps import CellRun, Division, LayersRun, Lengths
from fusedlstm.lstm import LSTM
from fusedlstm.stacked import load_weights
from fusedlstm.validation.arguments import fail
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.cli.run_inputs import Inputs
    from fusedlstm.cli.run_results import Form
    from fusedlstm.cli.run_steps import Run
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.state import LSTMState

_ARRAYS = {"h": "outputs", "c": "cells"}  # what `--outputs` calls the arrays that have all steps


def run_files(
    weights_path: str,
    inputs_path: str,
    *,
    state_path: str | None = None,
    lengths_path: str | None = None,
    out_path: str | None = None,
    outputs: tuple[str, ...] | None = None,
    dtype: str | None = None,
    backend: str | None = None,
    threads: int | None = None,
) -> str:
    """Run inputs (T, B, I) through a cell or through layers, write the results, and return a line of output.

    Only a part of the steps is in memory at a time. The results are `outputs` (T, B, width) and the final state. For
    LSTMWeights, this is `h` (B, P) and `c` (B, N), and every c is in `cells` (T, B, N). For StackedWeights, it is `h0`,
    `c0`, `h1` ..., one pair for each layer and direction. A single pair is stored as `h` and `c`, too. Past a row's
    length, outputs and cells are zero, and the row's state is the one at its end. The log warns if outputs are NaN.

    Args:
        weights_path: a file of LSTMWeights or StackedWeights.
        inputs_path: a .npy file of real numbers (T, B, I); "-" for standard input.
        state_path: a .npz file of the state to start from, under the names above; None for zeros.
        lengths_path: a .npy file of integers (B,), the length of each row; None if all rows have T steps.
        out_path: the .npz file to write, other than the files above; None for one beside the inputs,
            which then have a name. An existing file is overwritten. A .npy file, or "-" for standard output, gets
            `outputs` or `cells` alone.
        outputs: what to write: "h" for `outputs`, "c" for `cells`, "final" for the final state; None for all.
        dtype: the dtype to compute in; None for the weights' own. 16-bit results are written as float32.
        backend: as for LSTMCell.
        threads: as for LSTMCell.

    Raises:
        OSError, TypeError, ValueError: a file can't be read or written, or doesn't hold what was wanted.
    """
    out = _default_out(inputs_path) if out_path is None else out_path
    if out != STANDARD:
        source = "/dev/stdin" if inputs_path == STANDARD else inputs_path  # a shell may redirect it to a file
        read = {"WEIGHTS": weights_path, "INPUTS": source, "--state": state_path, "--lengths": lengths_path}
        check_target("--out", out, read)
    weights = load_weights(weights_path)
    chosen = _chosen(outputs, out, weights)
    if dtype is not None:
        weights = weights.astype(dtype)
    runners = _runners(weights, backend, threads)
    folder = folder_of(out)
    anywhere = not isinstance(weights, LSTMWeights) and needs_passes(weights)
    with open_inputs(inputs_path, weights.input_size, anywhere=anywhere, folder=folder) as inputs:
        T, B = inputs.T, inputs.B
        given = None if lengths_path is None else read_lengths(lengths_path, T, B)
        parts = Division.of(_layers(weights), T, B)
        inputs.keep_first(parts)
        states: Any = [state for runner in runners for state in _zeros(runner, B)]
        if state_path is not None:
            states = read_states(state_path, runners[0], _layers(weights), B)
        run = _run_of(weights, runners, states, Lengths(given, T), folder)
        forms = {_ARRAYS[name]: _form(name, weights, T, B) for name in chosen if name in _ARRAYS}
        began = time.perf_counter()
        nan = _write(out, forms, run, inputs, parts, with_final="final" in chosen)
        seconds = time.perf_counter() - began
        if nan is not None:
            log.warning("%s", _about_nan(nan, inputs, out))
    taken = T * B if given is None else int(given.sum())
    count = f"{taken}" if given is None else f"{taken} of {T * B}"
    return (
        f"{_name(out)}: {T} steps of {B} rows on {runners[0].device}, {weights.dtype}: "
        f"{count} row-steps in {seconds:.2f} s, {taken / max(seconds, 1e-9):,.0f} a second"
    )


def _default_out(inputs_path: str) -> str:
    # A shell's <(command) and /dev/stdin are links to pipes, or to files elsewhere.
    folder = os.path.realpath(os.path.dirname(inputs_path))
    is_nameless = os.path.islink(inputs_path) and (folder == "/dev" or folder.startswith("/proc/"))
    if inputs_path == STANDARD or is_nameless:
        wanted = "a path, or - for standard output, if INPUTS is standard input or a shell's pipe"
        fail(ValueError, "--out", wanted, "none")
    return str(Path(inputs_path).with_suffix("")) + ".out.npz"


def _name(out: str) -> str:
    return "standard output" if out == STANDARD else out


def _layers(weights: LSTMWeights | StackedWeights) -> tuple[LSTMWeights, ...]:
    return (weights,) if isinstance(weights, LSTMWeights) else weights.layers


def _chosen(outputs: tuple[str, ...] | None, out: str, weights: LSTMWeights | StackedWeights) -> tuple[str, ...]:
    """Return what to write, or raise."""
    if is_one_array(out):
        outputs = ("h",) if outputs is None else outputs
        if outputs not in (("h",), ("c",)):
            wanted = f"h or c alone, as {_name(out)} gets one array"
            fail(ValueError, "--outputs", wanted, ",".join(outputs), "A .npz file holds several")
    if isinstance(weights, LSTMWeights):
        return ("h", "c", "final") if outputs is None else outputs
    if outputs is not None and "c" in outputs:
        fail(ValueError, "--outputs", "h or final for layers", ",".join(outputs), "Only a cell's run keeps every c")
    return ("h", "final") if outputs is None else outputs


def _runners(weights: LSTMWeights | StackedWeights, backend: str | None, threads: int | None) -> list[Any]:
    """Return an LSTMCell, an LSTM of all layers, or one for each layer and direction."""
    if isinstance(weights, LSTMWeights):
        return [LSTMCell(weights, backend=backend, threads=threads)]
    if needs_passes(weights):
        return lstms_of(weights, backend, threads)
    return [LSTM(weights, backend=backend, threads=threads)]


def _zeros(runner: LSTMCell | LSTM, B: int) -> tuple[LSTMState, ...]:
    return (runner.zero_state(B),) if isinstance(runner, LSTMCell) else runner.zero_state(B)


def _run_of(
    weights: LSTMWeights | StackedWeights,
    runners: list[Any],
    states: Sequence[LSTMState],
    lengths: Lengths,
    folder: str | None,
) -> Run:
    if isinstance(weights, LSTMWeights):
        return CellRun(runners[0], states[0], lengths)
    if needs_passes(weights):
        return BothWaysRun(weights, runners, states, lengths, folder)
    return LayersRun(runners[0], states, lengths)


def _form(name: str, weights: LSTMWeights | StackedWeights, T: int, B: int) -> Form:
    """Return the shape and dtype of an array of all steps."""
    width = weights.hidden_size if name == "c" and isinstance(weights, LSTMWeights) else weights.output_size
    return (T, B, width), dtypes.state_dtype(weights.dtype)


def _write(
    out: str, forms: dict[str, Form], run: Run, inputs: Inputs, parts: Division, *, with_final: bool
) -> tuple[int, int] | None:
    """Take all steps and write the results. Return the first step and row whose outputs are NaN; None without any."""
    nan, start = None, 0
    with results(out, forms) as (write, end), bar(parts.T * run.passes, "step") as tell:
        for arrays in run.parts(inputs.read, parts, tell):
            write(arrays)
            if nan is None:
                where = np.argwhere(np.isnan(arrays["outputs"]).any(axis=2))
                nan = (start + int(where[0, 0]), int(where[0, 1])) if len(where) else None
            start += len(arrays["outputs"])
        end(run.finals() if with_final else {})
    return nan


def _about_nan(nan: tuple[int, int], inputs: Inputs, out: str) -> str:
    t, b = nan
    said = f"{_name(out)}: the outputs hold NaN, first at step {t} in row {b}, counted from 0"
    if inputs.seeks and not np.isfinite(inputs.read(t, t + 1)[0, b]).all():
        said += ", where the inputs are not finite"
    return said
