"""The command line: fusedlstm info, run, convert, demo and selftest."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import logging
import os
import platform
import sys
from typing import TYPE_CHECKING, TextIO

import fusedlstm
from fusedlstm.arrays import dtypes
from fusedlstm.backends import kernel_choice, select
from fusedlstm.backends.numpy import blas
from fusedlstm.cli import interrupts
from fusedlstm.cli.run import run_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PACKAGES = (
    "numpy",
    "safetensors",
    "ml_dtypes",
    "cupy-cuda12x",
    "cupy-cuda13x",
    *("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"),
    *("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"),
    *("nvidia-cublas", "nvidia-cublas-cu12"),
    "nvmath-python",
    "tqdm",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the process's exit status.

    0: done. 1: failed, or `convert --check` or `selftest` disagrees. 2: wrong usage. 3: `convert --check` or `selftest`
    could check nothing. 130: interrupted.
    """
    try:
        interrupts.begin()
        options = _parser().parse_args(argv)
        logging.basicConfig(level=logging.INFO if "verbose" in options else logging.WARNING, format="%(message)s")
        return int(options.command(options))
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, MemoryError, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) or interrupts.came():
            interrupts.tell()
            return 130
        _complain(_out_of_memory(error) if isinstance(error, MemoryError) else str(error))
        return 1
    finally:
        interrupts.end()


def _say(text: str) -> None:
    """Write lines to standard output, if there is one.

    Raises:
        OSError: they can't be written, as the disk is full or the reader has closed the pipe.
    """
    stream = sys.stdout
    if stream is None:
        return
    try:
        stream.write(f"{_encodable(text, stream)}\n")
        stream.flush()
    except OSError as error:
        _write_nothing_more(stream)
        raise OSError(error.errno, error.strerror, "standard output") from error


def _out_of_memory(error: MemoryError) -> str:
    return f"out of memory{f': {error}' if str(error) else ''}"


def _complain(text: str) -> None:
    """Write one line to standard error, if it can be written."""
    words = " ".join(text.splitlines())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{_encodable(f'fusedlstm: {shown}', sys.stderr)}\n")
            sys.stderr.flush()


def _encodable(text: str, stream: TextIO) -> str:
    """Return a text that a stream can encode. A path may hold any bytes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _write_nothing_more(stream: TextIO) -> None:
    """Redirect a stream to nowhere. Otherwise Python fails again when it flushes the stream at exit."""
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    everywhere = argparse.ArgumentParser(add_help=False)  # options that may come before or after the command
    everywhere.add_argument("--version", action="version", version=f"fusedlstm {fusedlstm.__version__}")
    everywhere.add_argument(
        *("-v", "--verbose"),
        action="store_true",
        default=argparse.SUPPRESS,  # a command's default would override an option before it
        help="log the chosen backend and compilations",
    )
    description = "Step trained LSTMs on GPUs and in NumPy."
    parser = argparse.ArgumentParser(prog="fusedlstm", description=description, parents=[everywhere])
    commands = parser.add_subparsers(required=True, metavar="{info,run,convert,demo,selftest}")
    add = functools.partial(commands.add_parser, parents=[everywhere])

    info = add("info", help="versions, backends and why one can't run, GPU, cache folder")
    info.set_defaults(command=_info)

    run = add(
        "run",
        help="step a cell, or layers of them, through a file of inputs",
        description="Step a cell, or the layers of StackedWeights, through inputs (T, B, I). The result holds the "
        "outputs (T, B, width) and the final state, so it can be the --state of the next run. For a cell, the state "
        "is h (B, P) and c (B, N), and every c is written as cells (T, B, N). For layers, it is h0, c0, h1, c1 ..., "
        "one pair for each layer and direction. 16-bit results are written as float32.",
    )
    run.add_argument("weights", metavar="WEIGHTS", help="a file that LSTMWeights.save or StackedWeights.save wrote")
    run.add_argument("inputs", metavar="INPUTS.npy", help="an array (T, B, I)")
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
    run.add_argument("--out", metavar="O.npz", help="where to write; default: INPUTS.out.npz")
    run.add_argument("--dtype", choices=dtypes.NAMES, help="the dtype to compute in; default: that of the weights")
    run.set_defaults(command=_run)

    _add_convert(add)

    demo = add("demo", help="classify handwritten digits and compare with PyTorch")
    demo.set_defaults(command=_demo)
    _add_selftest(add)
    for command in (run, demo):
        command.add_argument(
            "--backend", metavar="NAME", help="numpy, cuda or cuda:<index>; default: the best one here"
        )
    return parser


def _add_selftest(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `selftest`."""
    from fusedlstm.selftest import arithmetics

    command = add(
        "selftest",
        help="test the GPU and NumPy beside the formula, in under a minute",
        description="Step small cells, sequences, Steppers and pools with every dtype and kernel, and compare with the "
        "formula in float64. Each check prints a line when it has ended: the largest difference, what is allowed, and "
        "the time. Exit with 1 if a check failed, and with 3 if nothing could be tested.",
    )
    command.add_argument(
        "--backend", metavar="NAME", help="numpy, cuda or cuda:<index>; default: the first GPU and NumPy"
    )
    command.add_argument(
        "--dtype",
        action="extend",
        nargs="+",
        choices=arithmetics.NAMES,
        help='what to multiply with; tf32 is float32 with precision="high"; default: all',
    )
    command.add_argument(
        "--kernel",
        action="extend",
        nargs="+",
        choices=kernel_choice.NAMES,
        help="the kernels to test on a GPU; default: all that serve the dtype, and NumPy",
    )
    command.add_argument(
        "--seconds", type=_seconds, metavar="S", help="begin no check after this time; the others are named"
    )
    command.add_argument(
        "--json", metavar="FILE", help="write all results there, for a bug report; replaced after every check"
    )
    command.set_defaults(command=_selftest)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) > 0:
            return seconds
    raise argparse.ArgumentTypeError(f"wanted a number of seconds above 0; got {text!r}")


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
        help="where to write an ONNX model's constant initial state, for run --state; refused without this option",
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
        help="classes in a Keras file that are not Keras's, and that you vouch for: they compute the same as the "
        "class that they derive from",
    )
    convert.set_defaults(command=_convert)


def _function(text: str) -> str | tuple[str | float, ...]:
    """Return what "leaky_relu:0.01" means: a name, and its parameters."""
    name, *parameters = text.split(":")
    try:
        return (name, *map(float, parameters)) if parameters else name
    except ValueError:
        wanted = "a name, and its numbers after colons, such as elu:0.5"
        raise argparse.ArgumentTypeError(f"wanted {wanted}; got {text!r}") from None


def _convert(options: argparse.Namespace) -> int:
    from fusedlstm.cli.convert import convert_file

    given = ("forget_bias", "cell_clip", "proj_clip", "zoneout", "activation", "gate_activation", "custom_classes")
    status, said = convert_file(
        options.source,
        options.out,
        system=options.system,
        name=options.name,
        options={name: getattr(options, name) for name in given},
        checked=options.check,
        force=options.force,
        state_out=options.initial_state,
    )
    _say("\n".join(said))
    return status


def _info(_: argparse.Namespace) -> int:
    rows = [
        ("fusedlstm", fusedlstm.__version__),
        ("Python", f"{platform.python_version()} on {platform.platform()}"),
    ]
    rows += [(name, version) for name in _PACKAGES if (version := _version(name)) is not None]
    rows += [("NumPy's BLAS", blas.describe())]
    advice = blas.advice()
    if advice:
        rows.append(("", advice))
    rows += select.facts()
    width = max(len(name) for name, _ in rows)
    _say("\n".join(f"{name:{width}}  {value}" for name, value in rows))
    return 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _demo(options: argparse.Namespace) -> int:
    from fusedlstm.cli.demo import digits

    result = digits.run(options.backend)
    _say(str(result))
    return 0 if result.passed else 1


def _selftest(options: argparse.Namespace) -> int:
    from fusedlstm.cli.selftest import selftest

    return selftest(
        _say,
        backend=options.backend,
        names=options.dtype,
        kernels=options.kernel,
        seconds=options.seconds,
        json_path=options.json,
    )


def _run(options: argparse.Namespace) -> int:
    said = run_files(
        options.weights,
        options.inputs,
        state_path=options.state,
        lengths_path=options.lengths,
        out_path=options.out,
        dtype=options.dtype,
        backend=options.backend,
    )
    _say(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
