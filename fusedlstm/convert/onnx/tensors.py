"""Convert a TensorProto to a NumPy array. Its declared size is checked against its bytes, never trusted."""

from __future__ import annotations

import math
import os
import stat
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.convert.onnx.source import package

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.onnx.source import Model, Proto

FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}  # by TensorProto.DataType
INTS = {6: "int32", 7: "int64"}
INTEGERS = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16"}  # quantised weights
_ALL = FLOATS | INTS | INTEGERS
_FIELDS = dict.fromkeys(_ALL, "int32_data") | {1: "float_data", 11: "double_data", 7: "int64_data"}
MOST_DIMS = 64  # of a NumPy array
_EXTERNAL = 1  # TensorProto.DataLocation


def to_array(model: Model, tensor: Proto, what: str) -> NumpyArray:
    """Return the values of a tensor of floats or integers, read-only or new.

    Args:
        model: the tensor's model.
        tensor: the TensorProto.
        what: its name in errors.

    Raises:
        WeightsFileError: the dtype is none of these; the data doesn't fit the dims; external data must not be read.
    """
    name = _ALL.get(tensor.data_type)
    if name is None:
        model.refuse(what, f"a tensor of {', '.join(FLOATS.values())}", _type_name(tensor.data_type))
    shape = tuple(tensor.dims)
    if len(shape) > MOST_DIMS:  # their product alone would take long
        model.refuse(what, f"at most {MOST_DIMS} dims", str(len(shape)))
    if any(dim < 0 for dim in shape):
        model.refuse(what, "dims of at least 0", f"{shape}")
    count = math.prod(shape)
    stored = np.dtype("<u2" if tensor.data_type in (10, 16) else np.dtype(name).newbyteorder("<"))
    if tensor.HasField("segment"):
        model.refuse(what, "a whole tensor", "a segment of one")
    if tensor.data_location == _EXTERNAL:
        flat = np.frombuffer(_external(model, tensor, what, count * stored.itemsize), stored)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
        if len(raw) != count * stored.itemsize:
            model.refuse(what, f"{count * stored.itemsize} bytes for {name} {shape}", f"{len(raw)} bytes")
        model.count_copy(what, len(raw))
        flat = np.frombuffer(raw, stored)
    else:
        values = getattr(tensor, _FIELDS[tensor.data_type])
        if len(values) != count:
            model.refuse(what, f"{count} values for {name} {shape}", f"{len(values)} values")
        model.count_copy(what, count * stored.itemsize)
        if tensor.data_type in INTEGERS and not _are_within(values, np.iinfo(stored)):
            model.refuse(what, f"values within the limits of {name}", "one beyond them")
        flat = np.array(values, stored)  # 16-bit floats are given as bits
    try:
        return _typed(flat, name).reshape(shape)
    except ValueError as error:  # dims without elements that are too large, or too many dims
        model.refuse(what, "dims that an array can have", f"{shape[:8]} ({error})")


def _typed(flat: NumpyArray, name: str) -> NumpyArray:
    """Return values in the machine's byte order. Bits of 16-bit floats become those floats."""
    native = flat.astype(flat.dtype.newbyteorder("="), copy=False)
    return native.view(dtypes.resolve(name)) if name in ("float16", "bfloat16") else native


def _are_within(values: Any, limits: np.iinfo[Any]) -> bool:
    return not len(values) or (min(values) >= limits.min and max(values) <= limits.max)


def _type_name(number: int) -> str:
    """Return ONNX's name of a dtype."""
    types = package().TensorProto.DataType
    return str(types.Name(number)) if number in types.values() else f"the unknown data_type {number}"


def _external(model: Model, tensor: Proto, what: str, size: int) -> bytes:
    """Return `size` bytes of a file in the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _path(model, entries.get("location", ""), what)
    offset, length = (_number(model, what, key, entries.get(key)) for key in ("offset", "length"))
    if length is not None and length != size:
        model.refuse(what, f"{size} bytes of external data for its dims", f"length {length}")
    there = os.stat(path).st_size
    if there < (offset or 0) + size:
        got = f"{there} bytes in {os.path.basename(path)}"
        model.refuse(what, f"{size} bytes of external data from offset {offset or 0} on", got)
    model.count_file(path, there)  # count it first, as it raises the limit for copies
    model.count_copy(what, size)
    with open(path, "rb") as file:
        file.seek(offset or 0)
        content = file.read(size)
    if len(content) != size:
        model.refuse(what, f"{size} bytes of external data", f"{len(content)}: the file has changed")
    return content


def inlined(model: Model, tensor: Proto, what: str) -> None:
    """Put external data into a tensor of any dtype.

    Raises:
        WeightsFileError: it must not be read; see `to_array`.
    """
    if tensor.data_location != _EXTERNAL:
        return
    try:
        bits = package().helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
    except KeyError:
        model.refuse(what, "a known dtype", _type_name(tensor.data_type))
    if any(dim < 0 for dim in tensor.dims[:MOST_DIMS]) or len(tensor.dims) > MOST_DIMS:
        model.refuse(what, "dims that an array can have", f"{tuple(tensor.dims[:8])}")
    size = math.prod(tensor.dims) * bits // 8
    content = _external(model, tensor, what, size)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = content


def _number(model: Model, what: str, key: str, value: str | None) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        model.refuse(what, f"external data with a number as {key}", repr(value[:40]))
    return int(value)


def _path(model: Model, location: str, what: str) -> str:
    """Return the path of external data, a regular file in the model's folder or below.

    Like onnx's checker (tested with 1.23), this refuses absolute paths, paths that lead out, and links of either kind.
    Unlike the checker, it also refuses ".." in a path that stays inside.
    """
    if model.folder is None:
        hint = "Pass the model's path, whose folder has the data, or onnx.load(path)"
        model.refuse(what, "its data in the model", f"external data in {location!r}", hint)
    wanted = "external data in a file in the model's own folder"
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or os.path.isabs(location) or not parts[0] or ":" in location or ".." in parts:
        model.refuse(what, wanted, f"the location {location!r}")
    path = os.path.normpath(os.path.join(os.path.realpath(model.folder), location))
    hint = "Links may lead anywhere: put a copy of the file there"
    if os.path.realpath(path) != path:
        model.refuse(what, wanted, f"the link {location!r}", hint)
    try:
        status = os.stat(path)
    except OSError as error:
        model.refuse(what, wanted, f"the location {location!r} ({error.strerror})")
    if not stat.S_ISREG(status.st_mode):
        model.refuse(what, wanted, f"{location!r}, which is not a regular file")
    if status.st_nlink > 1:
        model.refuse(what, wanted, f"{location!r}, a file with several hard links", hint)
    return path
