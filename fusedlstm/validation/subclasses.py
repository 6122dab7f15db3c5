"""Refuse arrays that hold more than numbers, such as a mask, labels or units.

This package reads only the numbers, so a mask, a unit or the names of axes would be lost silently. Each message says
how to pass only the numbers.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import numpy as np

from fusedlstm.validation.arguments import describe_type, fail

# How to get only the numbers from arrays of libraries with labels or units. These arrays are not subclasses.
_LABELLED = {"pandas": "to_numpy()", "cudf": "to_cupy()", "xarray": "to_numpy()", "pint": "magnitude"}
_SCALARS: set[type] = {float, int, bool, complex, np.bool_, np.float64, np.float32, np.float16, np.int64, np.int32}
_FILLED = "with a value for masked elements"
_DEEPEST = 64  # levels of nested lists: the most dimensions that an array can have


def check_plain(name: str, value: Any) -> None:
    """Raise TypeError if `value` is an array that holds more than numbers, or a list with such an array.

    NumPy's memmap and PyTorch's Parameter are plain. Other checks handle values that are not arrays.
    """
    kind = type(value)
    if kind is np.ndarray or kind is np.memmap:
        return
    if kind is list or kind is tuple:
        if not _SCALARS.issuperset(map(type, value)):  # several times faster than a loop
            _check_elements(name, value, 0)
    elif isinstance(value, np.ndarray):
        masked = isinstance(value, np.ma.MaskedArray)
        hint = f"Use {name}.filled(...), {_FILLED}" if masked else ""
        _refuse(name, value, "a plain numpy.ndarray", hint or _if_meant(f"numpy.asarray({name})"))
    else:
        _check_other(name, value, kind)


def _check_elements(name: str, values: Any, depth: int) -> None:
    if _SCALARS.issuperset(map(type, values)) or depth > _DEEPEST:
        return
    for k, value in enumerate(values):
        if isinstance(value, (list, tuple)):
            _check_elements(f"{name}[{k}]", value, depth + 1)
        else:
            check_plain(f"{name}[{k}]", value)


def _check_other(name: str, value: Any, kind: type) -> None:
    """Raise for subclasses of other libraries' arrays, and for arrays with labels or units."""
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(value, torch.Tensor):
        if kind is not torch.Tensor and kind is not torch.nn.Parameter:
            if kind.__name__ == "MaskedTensor":
                _refuse(name, value, "a plain torch.Tensor", f"Use {name}.to_tensor(...), {_FILLED}")
            _refuse(name, value, "a plain torch.Tensor", _if_meant(f"{name}.as_subclass(torch.Tensor)"))
        has_names = getattr(value, "has_names", None)  # removed in PyTorch 2.13
        if has_names is not None and has_names():
            got = f"axes named {value.names}"
            fail(TypeError, name, "a tensor whose axes have no names", got, _if_meant(f"{name}.rename(None)"))
    elif cupy is not None and isinstance(value, cupy.ndarray):
        if kind is not cupy.ndarray:
            _refuse(name, value, "a plain cupy.ndarray", _if_meant(f"{name}.view(cupy.ndarray)"))
    else:
        for base in kind.__mro__:
            way = _LABELLED.get(str(base.__module__).partition(".")[0])
            if way is not None:
                _refuse(name, value, "an array without labels or units", _if_meant(f"{name}.{way}"))


def _if_meant(code: str) -> str:
    return f"If you mean only its numbers, use {code}"


def _refuse(name: str, value: Any, wanted: str, hint: str) -> NoReturn:
    fail(TypeError, name, wanted, f"a {describe_type(value)}, which holds more than numbers", hint)
