"""A kernel's parameters: names from its source, and types from the compiler."""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

# Dtypes by the compiler's mangled name of a type.
_DTYPES: dict[str, tuple[Any, ...]] = {
    "f": (np.float32,),
    "d": (np.float64,),
    "6__half": (np.float16,),
    "13__nv_bfloat16": (ml_dtypes.bfloat16,),
    "b": (np.bool_,),
    "a": (np.int8,),
    "h": (np.uint8, np.bool_),
    "s": (np.int16,),
    "t": (np.uint16,),
    "i": (np.int32,),
    "j": (np.uint32,),
    "l": (np.int64,),
    "m": (np.uint64,),
    "x": (np.int64,),
    "y": (np.uint64,),
}


class Parameter(ctypes.Structure):
    """A parameter's type. The runtime has a struct of the same name."""

    _fields_ = (
        ("size", ctypes.c_int),
        ("is_pointer", ctypes.c_int),
        ("element_size", ctypes.c_int),
        ("is_const", ctypes.c_int),
        ("type", ctypes.c_char_p),
    )

    @property
    def is_struct(self) -> bool:
        """Whether the parameter is a struct by value."""
        return not self.is_pointer and self.type.decode() not in _DTYPES

    def accepts(self, dtype: np.dtype[Any]) -> bool:
        """Return whether a dtype fits the parameter, or the elements it points to. A struct's size must fit."""
        known = _DTYPES.get(self.type.decode())
        return dtype.itemsize == self.element_size if known is None else dtype in known

    def wanted(self) -> str:
        """Return what the parameter takes, in words."""
        name = self.type.decode()
        if self.is_struct:
            return f"a struct of {self.size} bytes"
        dtypes = " or ".join(np.dtype(d).name for d in _DTYPES.get(name, ())) or f"{self.element_size}-byte {name}"
        return f"an array of {dtypes}, or None" if self.is_pointer else f"a NumPy scalar of {dtypes}"


def names(file: Path, kernel: str, count: int) -> list[str]:
    """Return the names of a kernel's parameters, or numbers if the simple parser fails on the source.

    Args:
        file: the source.
        kernel: an instance, such as "lstm_clip<float>".
        count: the number of parameters.
    """
    source = re.sub(r"//[^\n]*|/\*.*?\*/", " ", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    bare = kernel.partition("<")[0].strip()
    for found in re.finditer(rf"__global__[^{{;]*?\b{re.escape(bare)}\s*\(([^{{;]*)\)\s*{{", source):
        parts = re.split(r",(?![^<(]*[>)])", found[1])
        words = [re.findall(r"\w+", part) for part in parts]
        if len(parts) == count and all(words):
            return [w[-1] for w in words]
    return [f"argument {number}" for number in range(count)]
