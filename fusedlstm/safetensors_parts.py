"""The bytes of a safetensors file, in parts.

safetensors itself returns the whole file as one copy, and blocks other threads meanwhile. A pool's file may be large,
and the pool's steps must go on.
"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fusedlstm.arrays.dtypes import NumpyArray

# safetensors' names of dtypes. A file has its arrays in this order of dtypes, and those of one dtype sorted by name.
_DTYPES = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_ALIGNMENT = 8  # bytes; spaces fill the header up to a multiple


def parts(arrays: Mapping[str, NumpyArray], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Yield the parts of a file: the header, then the bytes of each array. safetensors would write the same bytes.

    Arrays may have any strides.
    """
    order = list(_DTYPES)
    names = sorted(arrays, key=lambda name: (order.index(arrays[name].dtype.name), name))
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        array = arrays[name]
        start, end = end, end + math.prod(array.shape) * array.dtype.itemsize
        entries[name] = {"dtype": _DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in names:
        yield _little_endian(np.ascontiguousarray(arrays[name])).reshape(-1).view(np.uint8).data


def _little_endian(array: NumpyArray) -> NumpyArray:
    is_big = (sys.byteorder == "big") == array.dtype.isnative
    return array.byteswap() if is_big else array
