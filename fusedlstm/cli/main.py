"""The command line: fusedlstm info, run, bench, compile, convert, demo, selftest, serve and tune."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import platform
import sys
from typing import TYPE_CHECKING, TextIO

import fusedlstm
from fusedlstm.backends import select
from fusedlstm.backends.numpy import blas
from fusedlstm.cli import interrupts
from fusedlstm.cli.arguments import parser
from fusedlstm.cli.run import run_files
from fusedlstm.cli.run_results import STANDARD

if TYPE_CHECKING:
    import argparse
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

    0: done. 1: failed, or `convert --check`, `bench`, `selftest` or `tune` disagrees. 2: wrong usage. 3: `convert
    --check` or `selftest` could check nothing. 129, 130, 143: hung up, interrupted, terminated.
    """
    try:
        interrupts.begin()
        options = parser().parse_args(argv)
        logging.basicConfig(level=logging.INFO if "verbose" in options else logging.WARNING, format="%(message)s")
        return _COMMANDS[options.command](options)
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, MemoryError, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) or interrupts.came():
            interrupts.tell()
            return interrupts.status()
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


def _convert(options: argparse.Namespace) -> int:
    from fusedlstm.cli.convert import convert_file
    from fusedlstm.cli.option_names import as_options

    given = ("forget_bias", "cell_clip", "proj_clip", "zoneout", "activation", "gate_activation", "custom_classes")
    try:
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
    except (TypeError, ValueError) as error:
        if error.args == (str(error),):
            error.args = (as_options(str(error)),)
        raise
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


def _compile(options: argparse.Namespace) -> int:
    from fusedlstm.cli.compile import compile_ahead

    return compile_ahead(
        _say,
        options.weights,
        options.arch,
        names=options.dtype,
        options={
            "precision": options.precision,
            "batch_invariant": options.batch_invariant,
            "kernel": options.kernel,
            "batches": options.batch,
            "contiguous": options.contiguous,
        },
        self_test=options.self_test,
        jobs=options.jobs,
        folder=options.cache,
    )


def _serve(options: argparse.Namespace) -> int:
    from fusedlstm.cli.serve import serve

    return serve(_say, options)


def _tune(options: argparse.Namespace) -> int:
    from fusedlstm.cli.tune import tune

    return tune(
        _say,
        options.weights,
        batches=options.batch,
        backend=options.backend,
        dtypes=options.dtype,
        precision=options.precision,
        seconds=options.seconds,
        forget=options.forget,
    )


def _bench(options: argparse.Namespace) -> int:
    from fusedlstm.cli.bench import bench

    return bench(
        _say,
        options.weights,
        batches=options.batch or [1],
        every=options.every,
        seconds=options.seconds,
        step=options.step,
        peers=not options.no_peers,
        json_path=options.json,
        dtype=options.dtype,
        options={"backend": options.backend, "precision": options.precision, "threads": options.threads},
    )


def _run(options: argparse.Namespace) -> int:
    said = run_files(
        options.weights,
        options.inputs,
        state_path=options.state,
        lengths_path=options.lengths,
        out_path=options.out,
        outputs=options.outputs,
        dtype=options.dtype,
        backend=options.backend,
        threads=options.threads,
    )
    (_complain if options.out == STANDARD else _say)(said)
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "info": _info,
    "run": _run,
    "bench": _bench,
    "convert": _convert,
    "demo": _demo,
    "selftest": _selftest,
    "compile": _compile,
    "tune": _tune,
    "serve": _serve,
}

if __name__ == "__main__":
    sys.exit(main())
