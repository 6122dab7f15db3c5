"""The command line: fusedlstm info, run and demo."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import logging
import platform
import sys
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

import fusedlstm
from fusedlstm import dtypes, files, log
from fusedlstm.backends import unavailable_reason
from fusedlstm.cell import LSTMCell
from fusedlstm.checks import fail
from fusedlstm.state import LSTMState
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fusedlstm.dtypes import NumpyArray

# What NumPy raises for a file that is none of its own, or cut short.
_DAMAGED = (ValueError, EOFError, zipfile.BadZipFile, zlib.error)
_PACKAGES = (
    "numpy",
    "safetensors",
    "ml_dtypes",
    "cupy-cuda12x",
    "cupy-cuda13x",
    *("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"),
    *("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"),
    *("nvidia-cublas", "nvidia-cublas-cu12"),
    "tqdm",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the process' exit status: 0, 1 for a failure, 2 for a wrong command, 130 on Ctrl-C."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        return int(options.command(options))
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        _say(f"fusedlstm: {error}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("fusedlstm: interrupted", sys.stderr)
        return 130


def _say(text: str, stream: TextIO | None = None) -> None:
    """Write a line, if there is somewhere to write it to."""
    stream = sys.stdout if stream is None else stream
    if stream is not None:
        stream.write(f"{text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fusedlstm", description="Step trained LSTMs on GPUs and in NumPy.")
    parser.add_argument("--version", action="version", version=f"fusedlstm {fusedlstm.__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log the backend chosen and compilations")
    commands = parser.add_subparsers(required=True, metavar="{info,run,demo}")

    info = commands.add_parser("info", help="versions, backends and why one can't run, GPU, cache folder")
    info.set_defaults(command=_info)

    run = commands.add_parser(
        "run",
        help="step a cell through a file of inputs",
        description="Step a cell through inputs (T, B, I). The result holds every h as outputs (T, B, P), "
        "every c as cells (T, B, N), and the final state as h (B, P) and c (B, N), so that it can be "
        "the --state of a next run. 16-bit results are written as float32.",
    )
    run.add_argument("weights", metavar="WEIGHTS", help="a file that LSTMWeights.save wrote")
    run.add_argument("inputs", metavar="INPUTS.npy", help="an array (T, B, I)")
    run.add_argument("--state", metavar="S.npz", help="arrays h (B, P) and c (B, N) to start from; else zeros")
    run.add_argument("--out", metavar="O.npz", help="where to write; else INPUTS.out.npz")
    run.add_argument("--dtype", choices=dtypes.NAMES, help="of the cell; else that of the weights")
    run.set_defaults(command=_run)

    demo = commands.add_parser("demo", help="classify handwritten digits and compare with PyTorch")
    demo.set_defaults(command=_demo)
    for command in (run, demo):
        command.add_argument("--backend", metavar="NAME", help="numpy, cuda or cuda:<index>; else the best here")
    return parser


def _info(_: argparse.Namespace) -> int:
    rows = [
        ("fusedlstm", fusedlstm.__version__),
        ("Python", f"{platform.python_version()} on {platform.platform()}"),
    ]
    rows += [(name, version) for name in _PACKAGES if (version := _version(name)) is not None]
    reason = unavailable_reason("cuda")
    rows += [("backend numpy", "runs"), ("backend cuda", f"can't run: {reason}" if reason else "runs")]
    if not reason:
        rows += _gpus()
    from fusedlstm.backends.cuda import cache

    rows.append(("cache folder", str(cache.folder())))
    width = max(len(name) for name, _ in rows)
    _say("\n".join(f"{name:{width}}  {value}" for name, value in rows))
    return 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[tuple[str, str]]:
    from fusedlstm.backends.cuda.probe import describe_gpus

    return [(f"GPU {index}", text) for index, text in enumerate(describe_gpus())]


def _demo(options: argparse.Namespace) -> int:
    from fusedlstm.demo import digits

    result = digits.run(options.backend)
    _say(str(result))
    return 0 if result.passed else 1


def _run(options: argparse.Namespace) -> int:
    weights = LSTMWeights.load(options.weights)
    if options.dtype is not None:
        weights = weights.astype(options.dtype)
    cell = LSTMCell(weights, backend=options.backend)
    inputs = _inputs(options.inputs, weights.input_size)
    state = cell.zero_state(inputs.shape[1]) if options.state is None else _state(options.state, cell)
    out = options.out or str(Path(options.inputs).with_suffix("")) + ".out.npz"
    if not Path(out).absolute().parent.is_dir():
        fail(ValueError, "--out", "a file in a folder that exists", out)
    outputs, cells, state = _step_through(cell, inputs, state)
    final = state.to_numpy()
    buffer = io.BytesIO()
    np.savez(buffer, outputs=outputs, cells=cells, h=_wide(final.h), c=_wide(final.c))
    files.replace(out, buffer.getvalue())
    T, B, _ = inputs.shape
    _say(f"{out}: {T} steps of {B} rows on {cell.device}, {weights.dtype}")
    return 0


def _inputs(path: str, I: int) -> NumpyArray:
    """Return the inputs, left on the disk until they are stepped through."""
    try:
        inputs = np.lib.format.open_memmap(path, mode="r")
    except _DAMAGED as error:
        raise ValueError(f"{path} is no .npy file of numbers, or is damaged ({error})") from error
    if inputs.ndim != 3 or inputs.shape[2] != I:
        fail(ValueError, path, f"shape (T, B, I) with I = {I}", f"shape {inputs.shape}")
    if inputs.dtype.kind not in "fiub":
        fail(TypeError, path, "real numbers", f"dtype {inputs.dtype}")
    return inputs


def _state(path: str, cell: LSTMCell) -> LSTMState:
    """Return the arrays h and c of an archive that numpy.savez, or an earlier run, wrote."""
    with open(path, "rb") as file:  # by us, as numpy.load leaves a damaged archive open
        try:
            archive = np.load(file, allow_pickle=False)
            names = [] if isinstance(archive, np.ndarray) else archive.files
            h, c = (archive[name] for name in ("h", "c")) if {"h", "c"} <= set(names) else (None, None)
        except _DAMAGED as error:
            raise ValueError(f"{path} is no .npz file of numbers, or is damaged ({error})") from error
    if h is None:
        fail(ValueError, path, "an archive with arrays named h and c", ", ".join(names) or "no names")
    return LSTMState(h=cell.asarray(h), c=cell.asarray(c, dtypes.state_dtype(cell.dtype)))


def _step_through(cell: LSTMCell, inputs: NumpyArray, state: LSTMState) -> tuple[NumpyArray, NumpyArray, LSTMState]:
    """Return every h (T, B, P), every c (T, B, N), both as they are written, and the final state."""
    T, B, _ = inputs.shape
    wide = dtypes.state_dtype(cell.dtype)
    outputs = np.empty((T, B, cell.weights.output_size), wide)
    cells = np.empty((T, B, cell.weights.hidden_size), wide)
    for t in _progress(range(T)):
        state = cell(cell.asarray(inputs[t]), state)
        host = state.to_numpy()
        outputs[t], cells[t] = host.h, host.c
    return outputs, cells, state


def _wide(array: NumpyArray) -> NumpyArray:
    """Return 16-bit numbers as float32, as .npy files know no bfloat16."""
    return array.astype(dtypes.state_dtype(array.dtype), copy=False)


def _progress(steps: Iterable[int]) -> Iterable[int]:
    """Show a bar on a terminal from the second second on, if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        if sys.stderr.isatty():
            log.info("no progress bar: the extra cli brings one")
        return steps
    bar: Iterable[int] = tqdm(steps, unit="step", delay=1, disable=None)
    return bar


if __name__ == "__main__":
    sys.exit(main())
