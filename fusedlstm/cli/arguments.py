"""The arguments of all commands."""

from __future__ import annotations

import argparse
import contextlib
import functools
from fractions import Fraction
from typing import TYPE_CHECKING

import fusedlstm
from fusedlstm.arrays import dtypes
from fusedlstm.backends import sequence_choice
from fusedlstm.cli import serve
from fusedlstm.selftest import arithmetics

if TYPE_CHECKING:
    from collections.abc import Callable


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line. It puts the command's name into `command`."""
    everywhere = argparse.ArgumentParser(add_help=False)  # options that may come before or after the command
    everywhere.add_argument("--version", action="version", version=f"fusedlstm {fusedlstm.__version__}")
    everywhere.add_argument(
        *("-v", "--verbose"),
        action="store_true",
        default=argparse.SUPPRESS,  # a command's default would override an option before it
        help="log the chosen backend and compilations",
    )
    description = "Step trained LSTMs on GPUs and in NumPy."
    whole = argparse.ArgumentParser(prog="fusedlstm", description=description, parents=[everywhere])
    commands = whole.add_subparsers(
        required=True, dest="command", metavar="{info,run,bench,convert,demo,selftest,compile,tune,serve}"
    )
    add = functools.partial(commands.add_parser, parents=[everywhere])

    add("info", help="versions, backends and why one can't run, GPU, cache folder")
    _add_run(add)
    _add_bench(add)
    _add_convert(add)
    demo = add("demo", help="classify handwritten digits and compare with PyTorch")
    _add_backend(demo, "the best one here")
    _add_selftest(add)
    _add_compile(add)
    _add_tune(add)
    serve.add_command(add, _positive)
    return whole


def _add_backend(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument("--backend", metavar="NAME", help=f"numpy, cuda or cuda:<index>; default: {default}")


def _add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--threads", type=_positive, metavar="N", help="the most threads on NumPy; default and limit: those of its BLAS"
    )


def _add_weights(command: argparse.ArgumentParser, batch: str) -> None:
    """Add files of weights, and the options of steps with them. `batch` says what a number of rows is for."""
    command.add_argument("weights", metavar="WEIGHTS", nargs="*", help="files of LSTMWeights or StackedWeights")
    command.add_argument("--batch", type=_positive, action="append", metavar="B", help=batch)
    command.add_argument(
        "--dtype",
        choices=dtypes.NAMES,
        action="append",
        help="a dtype to step in; may be repeated; default: that of the weights",
    )
    command.add_argument("--precision", choices=("highest", "high"), default="highest", help="as in LSTMCell")


def _add_run(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `run`."""
    run = add(
        "run",
        help="step a cell, or layers of them, through a file of inputs",
        description="Step a cell, or the layers of StackedWeights, through inputs (T, B, I). The result holds the "
        "outputs (T, B, width) and the final state, so it can be the --state of the next run. For a cell, the state "
        "is h (B, P) and c (B, N), and every c is written as cells (T, B, N). For layers, it is h0, c0, h1, c1 ..., "
        "one pair for each layer and direction. 16-bit results are written as float32. Only a part of the steps is in "
        "memory at a time. Layers that read backward, and Fortran-ordered standard input, take temporary files "
        "beside the --out file.",
    )
    run.add_argument("weights", metavar="WEIGHTS", help="a file that LSTMWeights.save or StackedWeights.save wrote")
    run.add_argument("inputs", metavar="INPUTS.npy", help="an array (T, B, I); - for standard input")
    run.add_argument(
        "--state",
        metavar="S.npz",
        help="the initial state, as arrays h and c, or h0, c0, h1 ..., with B rows, or one row for all; default: zeros",
    )
    run.add_argument(
        "--lengths",
        metavar="L.npy",
        help="integers (B,), the length of each row; past it, outputs are zero and the state doesn't change",
    )
    run.add_argument(
        "--out",
        metavar="O.npz",
        help="where to write; a name that ends in .npy, or - for standard output, gets the outputs alone, as a .npy "
        "file; default: INPUTS.out.npz",
    )
    run.add_argument(
        "--outputs",
        type=_outputs,
        metavar="h,c,final",
        help="what to write: h for the outputs, c for the cells, final for the final state; default: all",
    )
    run.add_argument("--dtype", choices=dtypes.NAMES, help="the dtype to compute in; default: that of the weights")
    _add_backend(run, "the best one here")
    _add_threads(run)


def _add_bench(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `bench`, whose options are those of `benchmark` and of a cell."""
    bench = add(
        "bench",
        help="time steps of your weights on this machine, beside PyTorch and onnxruntime",
        description="Time steps of a cell or of layers, one every 10 ms as for a live stream, or back to back. PyTorch "
        "and onnxruntime, if they are installed, take turns with fusedlstm, each in a process of its own. Their "
        "results are checked first. Exit with 1 if a library's results are wrong. Run nothing else meanwhile.",
    )
    bench.add_argument("weights", metavar="WEIGHTS", help="a file of LSTMWeights or StackedWeights")
    bench.add_argument(
        "--batch", type=_positive, action="append", metavar="B", help="the number of rows; may be repeated; default: 1"
    )
    bench.add_argument(
        "--every",
        type=_pace,
        default=0.01,
        metavar="TIME",
        help="from one step to the next: a number with s, ms or us; 0 for steps back to back; default: 10ms",
    )
    bench.add_argument(
        "--seconds",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="how long each library steps; p99.9 needs 10,000 steps; default: 10",
    )
    bench.add_argument(
        "--step",
        choices=("call", "out", "stepper"),
        default="call",
        help="plain calls, calls with out=, or a Stepper; default: call",
    )
    bench.add_argument("--no-peers", action="store_true", help="time only fusedlstm")
    bench.add_argument("--json", metavar="FILE", help="write all results there; replaced after every batch size")
    bench.add_argument("--dtype", choices=dtypes.NAMES, help="the dtype to step in; default: that of the weights")
    bench.add_argument("--precision", choices=("highest", "high"), default="highest", help="as in LSTMCell")
    _add_backend(bench, "the best one here")
    _add_threads(bench)


def _add_selftest(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `selftest`."""
    command = add(
        "selftest",
        help="test the GPU and NumPy against the formula, in under a minute",
        description="Step small cells, sequences, Steppers and pools with every dtype and kernel, and compare with the "
        "formula in float64. Each check prints a line when it has ended: the largest difference, what is allowed, and "
        "the time. Exit with 1 if a check failed, and with 3 if nothing could be tested.",
    )
    _add_backend(command, "the first GPU and NumPy")
    command.add_argument(
        "--dtype",
        action="append",
        choices=arithmetics.NAMES,
        help='what to multiply with; tf32 is float32 with precision="high"; may be repeated; default: all',
    )
    command.add_argument(
        "--kernel",
        action="append",
        choices=sequence_choice.NAMES,
        help="a kernel to test on a GPU; may be repeated; default: all that serve the dtype, and NumPy",
    )
    command.add_argument(
        "--seconds", type=_seconds, metavar="S", help="begin no check after this time; the others are named"
    )
    command.add_argument(
        "--json", metavar="FILE", help="write all results there, for a bug report; replaced after every check"
    )


def _add_compile(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `compile`, whose options are those of a cell, and of `uses.Use`."""
    command = add(
        "compile",
        help="compile the kernels of files of weights ahead, on a machine without a GPU",
        description="Fill the cache with every kernel that cells, sequences, Steppers and pools of these weights load "
        "on GPUs of a compute capability. The cache serves one version of NVRTC: use the same on the machine with "
        "the GPU. Programs find it at DIR if FUSEDLSTM_CACHE_DIR says so, and use it if the folder belongs to their "
        "user and no other can write to it.",
    )
    command.add_argument(
        "--arch",
        type=_capability,
        action="append",
        required=True,
        metavar="90",
        help="a GPU's compute capability, 90 for 9.0; may be repeated",
    )
    command.add_argument("--cache", metavar="DIR", help="the cache's folder; default: the one that programs use")
    _add_weights(
        command,
        "compile for cells, sequences and Steppers of B rows, and for pools that step up to B; may be repeated; "
        "default: for any number of rows",
    )
    command.add_argument("--batch-invariant", action="store_true", help="as in LSTMCell")
    command.add_argument("--kernel", choices=sequence_choice.NAMES, help="as in LSTM; default: the table's choice")
    command.add_argument(
        "--contiguous",
        action="store_true",
        help="the arrays that programs pass are contiguous, which takes fewer kernels; default: they may have any "
        "strides",
    )
    command.add_argument("--self-test", action="store_true", help="also compile what the command selftest needs")
    command.add_argument(
        "--jobs", type=_positive, metavar="N", help="how many kernels to compile at once; default: the number of CPUs"
    )


def _add_tune(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `tune`."""
    command = add(
        "tune",
        help="measure the kernels for your weights on this GPU, and choose by the times from then on",
        description="Time every kernel that can step the layers of these weights, or run their sequences, once its "
        "results agree with the formula. The times are kept in the cache folder, for this GPU, its driver, and this "
        "version of fusedlstm. New cells, LSTMs, Steppers, Sequencers and pools with layers of the same sizes, dtype "
        "and precision then use the fastest kernel. For a number of rows that was not measured, the next larger "
        "measured one counts. Without times, a table chooses, which comes from a model. Exit with 1 if a kernel's "
        "results are wrong.",
    )
    _add_weights(command, "a number of rows to measure; may be repeated; default: ten from 1 to 4096")
    command.add_argument("--backend", metavar="NAME", help="cuda or cuda:<index>; default: the first GPU")
    command.add_argument(
        "--seconds", type=_seconds, metavar="S", help="begin no measurement after this time; the others are named"
    )
    command.add_argument(
        "--forget", action="store_true", help="delete all measured times, of all GPUs, before anything else"
    )


def _outputs(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if set(names) <= {"h", "c", "final"} and len(set(names)) == len(names):
        return tuple(name for name in ("h", "c", "final") if name in names)
    raise argparse.ArgumentTypeError(f"wanted one or more of h, c and final, with commas between; got {text!r}")


def _capability(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) in (2, 3):
        return int(text)
    raise argparse.ArgumentTypeError(f"wanted a compute capability such as 90, which is 9.0; got {text!r}")


def _positive(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"wanted a number of at least 1; got {text!r}")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) > 0:
            return seconds
    raise argparse.ArgumentTypeError(f"wanted a number of seconds above 0; got {text!r}")


def _pace(text: str) -> float | None:
    """Return the seconds of "10ms"; None for 0."""
    units = {"ms": 1e-3, "us": 1e-6, "s": 1.0}
    unit = next((unit for unit in units if text.endswith(unit)), "")
    with contextlib.suppress(ValueError):
        number = float(text.removesuffix(unit))
        if number == 0 or (unit and 0 < number < float("inf")):
            return number * units[unit] if number else None
    raise argparse.ArgumentTypeError(f"wanted a time such as 10ms, 500us or 1s, or 0; got {text!r}")


def _add_convert(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `convert`, whose options are arguments of fusedlstm.convert's functions."""
    convert = add(
        "convert",
        help="convert another framework's file to a file of weights",
        description="Convert a trained model's file to a file of weights: an ONNX model; PyTorch's .pt, or its "
        ".safetensors; Keras's .keras, .weights.h5 and .h5; a checkpoint of TensorFlow 1; or a .npz or .safetensors "
        "file of arrays, by the names that these or other systems give them. A model that can't be represented exactly "
        "is refused. Nothing in the file is executed. Options that the file doesn't hold have the defaults of its "
        "system.",
    )
    convert.add_argument("source", metavar="SOURCE", help="the file, or a TensorFlow checkpoint's prefix or folder")
    convert.add_argument("out", metavar="OUT.safetensors", help="where to write the weights")
    convert.add_argument(
        "--from",
        dest="system",
        metavar="SYSTEM",
        default="auto",
        help="what wrote the file: torch, keras, onnx, tf1, flax ...; auto, the default, recognises it by its content",
    )
    convert.add_argument(
        "--name",
        metavar="NAME",
        help="which LSTM, if there are several: a layer's or node's name, or the prefix of its parameters' names; "
        "commas separate several layers, lowest first",
    )
    convert.add_argument(
        "--check",
        action="store_true",
        help="run the model in its framework on random input and compare; exit with 3 if nothing could be checked",
    )
    convert.add_argument("--force", action="store_true", help="overwrite OUT and S.npz if they exist")
    convert.add_argument(
        "--initial-state",
        metavar="S.npz",
        help="where to write the constant initial state of an ONNX or Keras model, for run --state; else it is refused",
    )
    convert.add_argument(
        "--forget-bias", type=float, metavar="X", help="what the cell adds to the forget gate at each step"
    )
    convert.add_argument("--cell-clip", type=float, metavar="X", help="what c is clipped to")
    convert.add_argument("--proj-clip", type=float, metavar="X", help="what the projected output is clipped to")
    convert.add_argument(
        "--zoneout",
        type=float,
        metavar="RATE",
        help="the part of h that each step keeps, and of c in PyTorch's ZoneOutCell; for torch and haste files",
    )
    convert.add_argument(
        "--activation", type=_function, metavar="F", help="the function of g and of the output, such as tanh or elu:0.5"
    )
    convert.add_argument(
        "--gate-activation",
        type=_function,
        metavar="F",
        help="the function of i, f and o, such as hard_sigmoid:0.2:0.5",
    )
    convert.add_argument(
        "--custom-classes",
        type=lambda text: text.split(","),
        metavar="NAME[,NAME]",
        help="classes in a Keras or TorchScript file that are not the framework's, and that you vouch for: they "
        "compute the same as the class that they derive from",
    )


def _function(text: str) -> str | tuple[str | float, ...]:
    """Return what "leaky_relu:0.01" means: a name, and its parameters."""
    name, *parameters = text.split(":")
    try:
        return (name, *(float(Fraction(each) if "/" in each else each) for each in parameters)) if parameters else name
    except (ValueError, ZeroDivisionError):
        wanted = "a name, and its numbers after colons, such as elu:0.5"
        raise argparse.ArgumentTypeError(f"wanted {wanted}; got {text!r}") from None
