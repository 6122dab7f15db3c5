"""Read and write the files of weights and of a pool's states.

A file is a safetensors file. Its metadata has one key, "fusedlstm", with a JSON object:

    {"kind": "LSTMWeights", "version": 1, "options": {...}, "crc32": 1234567890}

A cell's options in version 1 are cell_clip, proj_clip, and activation, which is one of six names. Version 2 has all of
`LSTMWeights.options` except zoneout. A function with parameters is a list there. Version 3 adds zoneout. Version 4 adds
a stack's directions, and the fingerprint of weights to a pool's file. A file gets the earliest version that can hold
its content. Readers that don't know that version refuse it.

Arrays are stored C-ordered and little-endian, under their names in `LSTMWeights`. A file of the kind "StackedWeights"
has the arrays of `layers[k]` under the names "k.weight_ih" ... Its options are {"layers": [the options of each element,
...], "bidirectional": bool, "residual": [one bool for each layer, ...]}. If layers have different directions, or are
backward, "bidirectional" is replaced by "directions": [one of `fusedlstm.directions.NAMES` for each layer, ...].

A file of the kind "StatePool" has the live slots as a sorted int64 array (L,) under the name "slots". Their states have
the same order: "k.h" (L, P) and "k.c" (L, N) for layer k. c is float32 if h has 16 bits. The options are {"layers":
[{"output_size": P, "hidden_size": N}, ...], "dtype": the name of h's dtype, "weights": the fingerprint of the weights
that the pool had (`checksum`)}. Only files of this kind have an array of integers.

The checksum covers options and arrays (`checksum`). A reader reads every version up to its own. There is only one
key, so that the same weights give the same bytes: safetensors writes several keys in no fixed order.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.atomic_write import named, replacing
from fusedlstm.errors import WeightsFileError
from fusedlstm.safetensors_parts import parts
from fusedlstm.validation.arguments import check_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.validation.arguments import AnyPath

VERSION = 4  # the newest
_KEY = "fusedlstm"
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' names
_WHAT = {"StatePool": "states"}  # what a kind's arrays hold, for messages; "weights" for other kinds
_READERS = dict.fromkeys(("LSTMWeights", "StackedWeights"), "load_weights") | {"StatePool": "StatePool.load"}
_CONVERT = 'Use the command "fusedlstm convert" for files of other programs'
_OF_OTHERS = {"StatePool": "Give a file that StatePool.save wrote"}  # what to do with other programs' files, by kind
_DTYPES_OF_KIND = {"StatePool": _DTYPES | {"I64": "int64"}}
# Error numbers for seeking to, or reading at, an offset that only a damaged file can have.
_ERRNOS_OF_DAMAGE = (errno.EINVAL, errno.EOVERFLOW, errno.EFBIG)
_HEADER_BYTES = 8  # a safetensors file starts with the length of its header, 64 bits little-endian
_LONGEST_HEADER = 100_000_000  # bytes, safetensors' own limit
_LONGEST_TEXT = 500  # characters of a reader's own message
_T = TypeVar("_T")


def save(
    path: AnyPath,
    kind: str,
    arrays: Mapping[str, NumpyArray],
    options: Mapping[str, Any],
    version: int = 1,
) -> None:
    """Write arrays and options to one file of this format, atomically. `version` must support all options."""
    import json

    name = check_path("path", path)
    about = {
        "kind": kind,
        "version": version,
        "options": dict(options),
        "crc32": checksum(options, arrays),
    }
    metadata = {_KEY: json.dumps(about, sort_keys=True, allow_nan=True)}
    with replacing(name) as file:
        for part in parts(arrays, metadata):
            file.write(part)


def load(path: AnyPath, kind: str) -> tuple[dict[str, NumpyArray], dict[str, Any]]:
    """Return the arrays and the options of a file of this format and kind.

    Raises:
        WeightsFileError: the file is truncated, damaged or newer, or of another program or kind; see the message.
        OSError: from the operating system. The error names the path.
        TypeError: `path` is not a path.
    """
    _, arrays, options = load_any(path, (kind,))
    return arrays, options


def load_any(path: AnyPath, kinds: Sequence[str]) -> tuple[str, dict[str, NumpyArray], dict[str, Any]]:
    """Return the kind, the arrays and the options of a file of this format. The kind must be one of `kinds`.

    The file is read once, so it may be a pipe.

    Raises:
        WeightsFileError, OSError, TypeError: see `load`.
    """
    name = check_path("path", path)
    with reading(name), open(name, "rb") as file:
        hint = _OF_OTHERS.get(kinds[0], _CONVERT)
        header = _header(name, file, hint)
        if file.seekable():
            file.seek(0)  # joining two parts would take twice the memory
            content = file.read()
        else:
            content = header + file.read()
        metadata = _metadata(name, content, len(header))
        about = _about(name, metadata, kinds, hint)
        arrays = _arrays(name, content, about["kind"])
        if checksum(about["options"], arrays) != about["crc32"]:
            raise WeightsFileError(f"{name} is damaged: its checksum doesn't match")
        return about["kind"], arrays, about["options"]


def is_ours(path: AnyPath) -> bool:
    """Return whether a safetensors file has this format, in any kind and version. Its arrays are not read.

    Raises:
        WeightsFileError: it is not a safetensors file, or is damaged.
    """
    name = check_path("path", path)
    with reading(name), open(name, "rb") as file:
        header = _header(name, file)
        return _KEY in _metadata(name, header, len(header), os.path.getsize(name))


def refuse_pipe(path: AnyPath) -> None:
    """Raise WeightsFileError if a path leads to a pipe or a device, for readers that read a file more than once."""
    name = check_path("path", path)
    try:
        mode = os.stat(name).st_mode
    except OSError:  # opening the file raises a better error
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise WeightsFileError(f"{name} is a pipe or device, but must be read more than once: save it to a file first")


@contextlib.contextmanager
def reading(source: Any, what: str = "") -> Iterator[None]:
    """Turn a reader's errors about the content of the file `source` into WeightsFileErrors that name the file.

    This function alone decides what counts as damage, so readers don't list exceptions themselves. Check other
    arguments and import libraries before you enter this context. If `source` is not a path, errors pass unchanged.

    Args:
        source: the path.
        what: words between the path and the reader's own message, such as " is damaged".

    Raises:
        WeightsFileError: for any Exception except those below, and for a Rust library's panic. Its text is one line.
        OSError: from the operating system, such as for a missing file. The error names the path.
        ImportError: a library that the reader needs is missing.
        MemoryError: unchanged. A parser that exhausts its own stack must raise something else.
    """
    if not isinstance(source, (str, bytes, os.PathLike)):
        yield
        return
    with blaming(os.fsdecode(source), what):
        yield


@contextlib.contextmanager
def blaming(name: str, what: str = "") -> Iterator[None]:
    """Do what `reading` does, for content that has a name but no path, such as bytes in memory."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except WeightsFileError as error:
        if name in str(error):
            raise
        raise WeightsFileError(f"{name}: {error}") from error
    except OSError as error:
        if _is_of_content(error):
            raise _damage(name, what, error) from error
        if error.filename is None:
            raise named(error, name) from error
        raise
    except Exception as error:
        raise _damage(name, what, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # PyO3's, which is not an Exception
            raise
        raise _damage(name, what, error) from error


def _is_of_content(error: OSError) -> bool:
    """Return whether an OSError is about a file's content: a library raised it, or it is about an impossible offset."""
    return error.errno is None or (error.errno in _ERRNOS_OF_DAMAGE and error.filename is None)


def _damage(name: str, what: str, error: BaseException) -> WeightsFileError:
    text = _one_line(error)
    return WeightsFileError(text if text.startswith(name) else f"{name}{what}: {text}")


def _one_line(error: BaseException) -> str:
    """Return an exception's message on one line of limited length; its type if it has no message."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a __str__ that fails
        text = ""
    if text and isinstance(error, KeyError):
        text = f"there is no {text}"
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}..."
    return text or type(error).__name__


def build(path: AnyPath, make: Callable[..., _T], arrays: Mapping[str, Any], options: Mapping[str, Any]) -> _T:
    """Return `make(**arrays, **options)`. If that raises, the file is damaged."""
    with reading(path, " is damaged"):
        return make(**arrays, **options)


def checksum(options: Mapping[str, Any], arrays: Mapping[str, NumpyArray]) -> int:
    """Return the CRC-32 of the options, and of each array's name, dtype, shape and bytes."""
    import json
    import zlib

    crc = zlib.crc32(json.dumps(options, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)  # a view, not a copy
    return crc


def _header(name: str, file: BinaryIO, hint: str = _CONVERT) -> bytes:
    """Return the length and text of a safetensors file's header. Raise if it isn't a safetensors file.

    Only the header is read, up to the longest one allowed, as the file may be huge or endless.
    """
    start = file.read(_HEADER_BYTES + 1)
    if len(start) <= _HEADER_BYTES:
        raise WeightsFileError(f"{name} is truncated, or not a safetensors file: it has only {len(start)} bytes")
    length = int.from_bytes(start[:_HEADER_BYTES], "little")
    text = (start[_HEADER_BYTES:] + file.read(min(max(length - 1, 0), _LONGEST_HEADER)))[:length]
    if not text.lstrip().startswith(b"{"):
        raise WeightsFileError(f"{name} is not a safetensors file. {hint}")
    if len(text) < length:
        raise WeightsFileError(f"{name} is truncated: it ends within its header")
    return start[:_HEADER_BYTES] + text


def _metadata(name: str, content: bytes, header: int, size: int | None = None) -> dict[str, str]:
    """Return the metadata in a safetensors file's header. Raise if the file is damaged.

    Args:
        name: the file's path.
        content: its first bytes, at least the header.
        header: the size of the header in bytes, including its length field.
        size: the size of the whole file in bytes; None if `content` is all of it.
    """
    import json

    with blaming(name, " is damaged: its header can't be read"):
        entries = json.loads(content[_HEADER_BYTES:header])
        metadata = entries.pop("__metadata__", {})
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        described = {str(key): str(value) for key, value in metadata.items()}
    if (len(content) if size is None else size) < header + end:
        raise WeightsFileError(f"{name} is truncated: it ends within its arrays")
    return described


def _about(name: str, metadata: Mapping[str, str], kinds: Sequence[str], hint: str) -> dict[str, Any]:
    """Return the JSON object of our metadata key, checked."""
    import json

    if _KEY not in metadata:
        raise WeightsFileError(f"{name} is a safetensors file of another program. {hint}")
    with blaming(name, " is damaged: its description can't be read"):
        about = json.loads(metadata[_KEY])
        version, found = about["version"], about["kind"]
    if type(version) is not int or version < 1:
        raise WeightsFileError(f"{name} is damaged: its version is {version!r}")
    if version > VERSION:
        raise WeightsFileError(
            f"{name} is newer than this fusedlstm: its version is {version}, and this one reads up to {VERSION}"
        )
    if found not in kinds:
        reader = _READERS.get(found)
        hint = f". Use {reader}" if reader else ""
        raise WeightsFileError(f"{name} holds {str(found)[:100]}, not {' or '.join(kinds)}{hint}")
    if not isinstance(about.get("options"), dict) or type(about.get("crc32")) is not int:
        raise WeightsFileError(f"{name} is damaged: its description lacks options or a checksum")
    return dict(about)


def _arrays(name: str, content: bytes, kind: str) -> dict[str, NumpyArray]:
    from safetensors import deserialize

    with blaming(name, " is damaged"):
        # safetensors' own conversion to NumPy arrays doesn't know bfloat16.
        return {name: _array(entry, kind) for name, entry in deserialize(content)}


def _array(entry: Mapping[str, Any], kind: str) -> NumpyArray:
    name = _DTYPES_OF_KIND.get(kind, _DTYPES).get(entry["dtype"])
    if name is None:
        raise ValueError(f"{_WHAT.get(kind, 'weights')} can't have the dtype {entry['dtype']}")
    dtype = np.dtype(np.int64) if name == "int64" else dtypes.resolve(name)
    return np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
