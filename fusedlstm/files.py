"""The files of weights and of a pool's states: safetensors with one versioned JSON value, whole or not at all.

A file is a safetensors file whose metadata has one key, "fusedlstm", with a JSON object:

    {"kind": "LSTMWeights", "version": 1, "options": {...}, "crc32": 1234567890}

A cell's options in version 1 are cell_clip, proj_clip, and activation, one of six names. Version 2 has all that
`LSTMWeights.options` has, a function with parameters being a list; it is written for cells that version 1 can't tell
of, and readers of version 1 refuse it as newer.

Arrays are stored C-ordered and little-endian under their names in `LSTMWeights`. A file of the kind
"StackedWeights" has those of the element of `layers` at index k under the names "k.weight_ih" ..., and the options
{"layers": [one element's options, ...], "bidirectional": bool, "residual": [one bool a layer, ...]}. One of the kind
"StatePool" has the live slots as int64 (L,) under the name "slots", sorted, and in that order their states under "k.h"
(L, P) and "k.c" (L, N) for layer k, c in float32 where h is of 16 bits; its options are {"layers": [{"output_size": P,
"hidden_size": N}, ...], "dtype": the name of h's}. No file of weights has an array of integers.

The checksum is over options and arrays (`_checksum`). A reader of a later version reads every earlier one. One key
only, because safetensors writes several in no fixed order and the same weights should give the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fusedlstm import dtypes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fusedlstm.dtypes import NumpyArray

VERSION = 2  # the newest
_KEY = "fusedlstm"
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' names
# What reading JSON of any shape, where another was meant, may raise.
_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)
_WHAT = {"StatePool": "states"}  # what the arrays of a kind are, in messages: weights, if it is not here
_DTYPES_OF_KIND = {"StatePool": _DTYPES | {"I64": "int64"}}
# What seeking or reading at an offset that only a damaged file can name fails with.
_ERRNOS_OF_DAMAGE = (errno.EINVAL, errno.EOVERFLOW, errno.EFBIG)
_HEADER_BYTES = 8  # a safetensors file starts with the length of its header, 64 bits little-endian
_T = TypeVar("_T")


class WeightsFileError(ValueError):
    """A file of weights or states that can't be used: damaged, truncated, of another kind, or from a newer version."""


def save(
    path: str | os.PathLike[str],
    kind: str,
    arrays: Mapping[str, NumpyArray],
    options: Mapping[str, Any],
    version: int = 1,
) -> None:
    """Write arrays and options as one file of this format, of a version that has all options, atomically."""
    import json

    from safetensors.numpy import save as to_bytes

    # safetensors 0.8 stores other values for an array that is not C-contiguous, and says nothing.
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    about = {
        "kind": kind,
        "version": version,
        "options": dict(options),
        "crc32": _checksum(options, contiguous),
    }
    metadata = {_KEY: json.dumps(about, sort_keys=True, allow_nan=True)}
    replace(path, to_bytes(contiguous, metadata))


def load(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, NumpyArray], dict[str, Any]]:
    """Return the arrays and the options of a file of this format and kind.

    Raises:
        WeightsFileError: saying whether it is truncated, damaged, foreign, newer or of another kind.
    """
    _, arrays, options = load_any(path, (kind,))
    return arrays, options


def load_any(path: str | os.PathLike[str], kinds: Sequence[str]) -> tuple[str, dict[str, NumpyArray], dict[str, Any]]:
    """Return the kind of a file of this format, which must be one of `kinds`, its arrays and its options.

    It is read once, so that it may be a pipe.

    Raises:
        WeightsFileError: as of `load`.
    """
    with open(path, "rb") as file:
        content = file.read()
    metadata = _metadata(path, content)
    about = _about(path, metadata, kinds)
    arrays = _arrays(path, content, about["kind"])
    if _checksum(about["options"], arrays) != about["crc32"]:
        raise WeightsFileError(f"{os.fspath(path)} is damaged: its checksum does not agree")
    return about["kind"], arrays, about["options"]


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether a safetensors file is one of this format, of whatever kind and version.

    Raises:
        WeightsFileError: it is no safetensors file, or is damaged.
    """
    with open(path, "rb") as file:
        return _KEY in _metadata(path, file.read())


@contextlib.contextmanager
def reading(source: Any) -> Iterator[None]:
    """Turn whatever a reader raises about the content of the file `source` into a WeightsFileError that names it.

    This is the only place that decides what is damage: readers keep no lists of exceptions of their own. Check the
    caller's other arguments before. What a `source` that is not a path raises is left as it is.

    Raises:
        WeightsFileError: for any Exception but those below, with its text.
        OSError: from the operating system, naming the path, such as a missing file.
        ImportError: a library that the reader needs is missing.
        MemoryError: unchanged. A parser that runs out of its own stack must raise something else.
    """
    if not isinstance(source, (str, bytes, os.PathLike)):
        yield
        return
    with blaming(os.fsdecode(source)):
        yield


@contextlib.contextmanager
def blaming(name: str) -> Iterator[None]:
    """Do the same as `reading` for content that has a name instead of a path, such as bytes in memory."""
    try:
        yield
    except (WeightsFileError, ImportError, MemoryError):
        raise
    except OSError as error:
        if error.errno is None or error.errno in _ERRNOS_OF_DAMAGE:
            raise WeightsFileError(f"{name}: {error}") from error
        if error.filename is None:
            raise type(error)(error.errno, error.strerror, name) from error
        raise
    except Exception as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise WeightsFileError(f"{name}: {what}") from error


def build(
    path: str | os.PathLike[str],
    make: Callable[..., _T],
    arrays: Mapping[str, Any],
    options: Mapping[str, Any],
) -> _T:
    """Return `make(**arrays, **options)`; what it refuses is a damaged file."""
    try:
        return make(**arrays, **options)
    except (TypeError, ValueError) as error:
        raise WeightsFileError(f"{os.fspath(path)} is damaged: {error}") from error


def replace(path: str | os.PathLike[str], content: bytes) -> None:
    """Put `content` in place of the file at `path` at one instant: a crash leaves the old file or the new.

    The new file has the permissions that the umask gives. A link is followed, so that it stays one. What is
    no regular file, such as a pipe or a device, is written to as it is.

    Raises:
        OSError: naming `path`; an older file is left as it was.
    """
    if not _is_replaceable(path):
        with open(path, "wb") as special:
            special.write(content)
        return
    target = os.path.realpath(path)
    temporary = os.path.join(os.path.dirname(target), f".{os.urandom(8).hex()}.fusedlstm")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(temporary, flags, 0o666)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(os.path.dirname(target))


def _is_replaceable(path: str | os.PathLike[str]) -> bool:
    """Whether there is a regular file at the path, or nothing yet."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True


def _sync_folder(folder: str) -> None:
    """Make the new name durable too, where the system can sync a folder (Windows can't)."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checksum(options: Mapping[str, Any], arrays: Mapping[str, NumpyArray]) -> int:
    """Return the CRC-32 of the options, and of each array's name, dtype, shape and bytes."""
    import json
    import zlib

    crc = zlib.crc32(json.dumps(options, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)  # of a view: no copy
    return crc


def _metadata(path: str | os.PathLike[str], content: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file's header, or say what is wrong with the file."""
    import json

    name = os.fspath(path)
    length = int.from_bytes(content[:_HEADER_BYTES], "little")
    header = content[_HEADER_BYTES : _HEADER_BYTES + length]
    if len(content) <= _HEADER_BYTES:
        raise WeightsFileError(f"{name} is truncated, if it ever was a safetensors file: it has {len(content)} bytes")
    if not header.lstrip().startswith(b"{"):
        raise WeightsFileError(f"{name} is not a safetensors file")
    if len(header) < length:
        raise WeightsFileError(f"{name} is truncated: it ends within its header")
    try:
        entries = json.loads(header)
        metadata = entries.pop("__metadata__", {})
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        described = {str(key): str(value) for key, value in metadata.items()}
    except _UNREADABLE as error:
        raise WeightsFileError(f"{name} is damaged: its header can't be read ({error})") from error
    if len(content) < _HEADER_BYTES + length + end:
        raise WeightsFileError(f"{name} is truncated: it ends within its arrays")
    return described


def _about(path: str | os.PathLike[str], metadata: Mapping[str, str], kinds: Sequence[str]) -> dict[str, Any]:
    """Return the JSON object of our metadata key, checked."""
    import json

    name = os.fspath(path)
    if _KEY not in metadata:
        raise WeightsFileError(
            f"{name} is a safetensors file of another program: fusedlstm.convert makes weights of those"
        )
    try:
        about = json.loads(metadata[_KEY])
        version, found = about["version"], about["kind"]
    except _UNREADABLE as error:
        raise WeightsFileError(f"{name} is damaged: its description can't be read ({error})") from error
    if type(version) is not int or version < 1:
        raise WeightsFileError(f"{name} is damaged: its version is {version!r}")
    if version > VERSION:
        raise WeightsFileError(
            f"{name} is newer than this fusedlstm: its version is {version}, and {VERSION} is the newest read here"
        )
    if found not in kinds:
        raise WeightsFileError(f"{name} holds {found}, not {' or '.join(kinds)}")
    if not isinstance(about.get("options"), dict) or type(about.get("crc32")) is not int:
        raise WeightsFileError(f"{name} is damaged: its description lacks options or a checksum")
    return dict(about)


def _arrays(path: str | os.PathLike[str], content: bytes, kind: str) -> dict[str, NumpyArray]:
    from safetensors import SafetensorError, deserialize

    try:
        # Not safetensors' own way to NumPy arrays, which knows no bfloat16.
        return {name: _array(entry, kind) for name, entry in deserialize(content)}
    except (SafetensorError, ValueError) as error:
        raise WeightsFileError(f"{os.fspath(path)} is damaged: {error}") from error


def _array(entry: Mapping[str, Any], kind: str) -> NumpyArray:
    name = _DTYPES_OF_KIND.get(kind, _DTYPES).get(entry["dtype"])
    if name is None:
        raise ValueError(f"no {_WHAT.get(kind, 'weights')} have the dtype {entry['dtype']}")
    dtype = np.dtype(np.int64) if name == "int64" else dtypes.resolve(name)
    return np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
