"""The four dtypes of a cell, and the dtype of c."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from fusedlstm.validation.arguments import fail

# An array of NumPy or CuPy. Both are checked at run time, and NumPy's types would be wrong for CuPy's arrays.
Array: TypeAlias = Any
# An array that is always NumPy's, in host memory.
NumpyArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# A function that makes an uninitialised array of a shape and dtype.
Empty: TypeAlias = Callable[[tuple[int, ...], "np.dtype[Any]"], Array]

NAMES = ("float64", "float32", "float16", "bfloat16")


def resolve(dtype: Any) -> np.dtype[Any]:
    """Return the NumPy dtype for a name or dtype. Raise TypeError if it is not one of the four.

    "bfloat16" needs the package ml_dtypes, which adds that type to NumPy.
    """
    try:
        name = dtype if isinstance(dtype, str) else "None" if dtype is None else np.dtype(dtype).name
    except TypeError:
        name = repr(dtype)
    if name not in NAMES:
        fail(TypeError, "dtype", f"one of {', '.join(NAMES)}", name)
    if name == "bfloat16":
        return _bfloat16()
    return np.dtype(name)


def is_supported(dtype: np.dtype[Any]) -> bool:
    """Return whether a cell can have this dtype: a NumPy dtype, one of the four, in the machine's byte order."""
    return isinstance(dtype, np.dtype) and dtype.name in NAMES and dtype.isnative


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Return whether this is ml_dtypes' bfloat16. A dtype's kind is faster to read than its name."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def state_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of c, and of all arithmetic: float32 for the 16-bit dtypes, else the dtype itself.

    In bfloat16, c would lose every increment below 2^-8 of its size.
    """
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError("bfloat16 needs the package ml_dtypes: install fusedlstm[bfloat16]") from None
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16
