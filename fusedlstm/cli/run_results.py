"""The results of `fusedlstm run`, written as they come: to a .npz or .npy file, or to standard output."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import zipfile
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fusedlstm.atomic_write import is_replaceable, replacing
from fusedlstm.temporary_files import temporary_file
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import IO, BinaryIO

    from fusedlstm.arrays.dtypes import NumpyArray

    Form: TypeAlias = tuple[tuple[int, ...], np.dtype[Any]]  # the shape and dtype of an array
    Write: TypeAlias = Callable[[Mapping[str, NumpyArray]], None]

STANDARD = "-"  # the path of standard input or output


def is_one_array(out: str) -> bool:
    """Return whether results at this path are a .npy file."""
    return out == STANDARD or out.endswith(".npy")


@contextlib.contextmanager
def results(out: str, forms: Mapping[str, Form]) -> Iterator[tuple[Write, Write]]:
    """Give a function that writes the next part of arrays, and one that writes whole arrays after the last part.

    The file at `out` is replaced when the context ends. If it raises, an older file stays.

    Args:
        out: the path; "-" for standard output.
        forms: the arrays that come in parts, along their first axis, by name. A .npy file has one, and only it.
    """
    with _standard_output() if out == STANDARD else replacing(out) as file:
        if is_one_array(out):
            ((name, form),) = forms.items()
            _write_header(file, form)
            yield lambda parts: _write_part(file, parts[name]), lambda _: None
        else:
            with _npz(file, folder_of(out), forms) as writers:
                yield writers


def is_standard_output(path: str) -> bool:
    """Return whether a path names the process's standard output, and not a file to which it goes."""
    if path == STANDARD:
        return True
    try:
        return os.path.samestat(os.stat(path), os.fstat(1)) and not is_replaceable(path)
    except OSError:  # no such file yet, or no standard output
        return False


def folder_of(out: str) -> str | None:
    """Return the folder for temporary files of a run: that of a file to replace. None for the system's folder."""
    # A device's folder takes no files, nor does that of a shell's pipe.
    if out == STANDARD or not is_replaceable(out):
        return None
    return os.path.dirname(os.path.realpath(out))


@contextlib.contextmanager
def _npz(file: BinaryIO, folder: str | None, forms: Mapping[str, Form]) -> Iterator[tuple[Write, Write]]:
    """Write an archive as numpy.savez does. Its members follow each other, but parts of several arrays come in turns.

    So all arrays but the first one go through temporary files without names, which the system removes.
    """
    with zipfile.ZipFile(file, "w") as archive, contextlib.ExitStack() as others, contextlib.ExitStack() as of_first:
        sinks: dict[str, IO[bytes]] = {}
        for name, form in forms.items():
            if sinks:
                sinks[name] = others.enter_context(temporary_file(folder))
            else:
                sinks[name] = of_first.enter_context(_member(archive, name))
            _write_header(sinks[name], form)

        def write(parts: Mapping[str, NumpyArray]) -> None:
            for name, sink in sinks.items():
                _write_part(sink, parts[name])

        def end(arrays: Mapping[str, NumpyArray]) -> None:
            of_first.close()
            for name in list(sinks)[1:]:
                sinks[name].seek(0)
                with _member(archive, name) as member:
                    shutil.copyfileobj(sinks[name], member, 2**20)
            for name, array in arrays.items():
                with _member(archive, name) as member:
                    np.lib.format.write_array(member, array)

        yield write, end


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(f"{name}.npy", "w", force_zip64=True)  # its size is not known to the archive


def _write_header(file: IO[bytes], form: Form) -> None:
    shape, dtype = form
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)


def _write_part(file: IO[bytes], part: NumpyArray) -> None:
    file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)


@contextlib.contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    """Give standard output, which must not be a terminal."""
    stream = sys.stdout
    if stream is None or stream.isatty():
        what = "a terminal" if stream is not None else "none"
        fail(ValueError, "--out", "standard output to be a file or a pipe", what)
    stream.flush()
    try:
        # Not the stream's own buffer: Python would flush that again at exit, and fail again.
        with open(stream.fileno(), "wb", closefd=False) as file:
            yield file
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, "standard output") from error
