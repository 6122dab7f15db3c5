"""Streams of .npy files, as a shell pipes them."""

import contextlib
import io
import os

import numpy as np


class Pipe(io.BytesIO):
    """A stream that can't seek, and gives a few bytes of many at a time."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise io.UnsupportedOperation

    tell = seek

    def read(self, size=-1):
        return super().read(min(size, 997) if size > 1000 else size)


def saved(array):
    """Return the bytes of a .npy file."""
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def claim(shape, by_columns=False, dtype="<f4"):
    """Return the header of a .npy file alone."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": dtype, "fortran_order": by_columns, "shape": shape})
    return content.getvalue()


@contextlib.contextmanager
def shell_pipe(content):
    """Give the path of a pipe with this content, of at most 64 KiB, as a shell's <(command) does."""
    reading, writing = os.pipe()
    with open(reading, "rb") as file:
        with open(writing, "wb") as pipe:
            pipe.write(content)
        yield f"/dev/fd/{file.fileno()}"


@contextlib.contextmanager
def shell_target():
    """Give the path of a pipe to write to, as a shell's >(command) does, and a function that returns what came."""
    reading, writing = os.pipe()
    with open(reading, "rb") as file, open(writing, "wb") as pipe:

        def came():
            pipe.close()
            return file.read()

        yield f"/dev/fd/{pipe.fileno()}", came
