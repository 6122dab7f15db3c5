"""Check every access of the package's kernels, by telling the driver which memory a struct's pointers may touch."""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from emulation import memory
from emulation.arguments import Extent

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_structs(driver: ctypes.CDLL) -> None:
    """Make the driver check launches with structs that are filled from now on."""
    from fusedlstm.backends.cuda.runtime.structs import Struct

    original = Struct.filled

    @functools.wraps(original)
    def filled(self: Any, values: Sequence[Any], numbers: Sequence[Any]) -> Any:
        made = original(self, values, numbers)
        _register(driver, made)
        return made

    Struct.filled = filled  # type: ignore[method-assign]


def _register(driver: ctypes.CDLL, filled: Any) -> None:
    members = [member for member in zip(filled.struct.members, filled.values, strict=True) if member[0].dtype]
    pointers = [(member, _host_view(value)) for member, value in members if value is not None and value.size]
    granule = memory.granule([array for _, array in pointers], 0)
    extents = [
        Extent(
            part.first, part.row_bytes, part.stride, part.count, array.itemsize, granule, number, not member.is_const
        )
        for number, (member, array) in enumerate(pointers)
        for part in memory.extents(array)
    ]
    names = [member.name.removesuffix(".at").encode() for member, _ in pointers]
    content = filled.tobytes()
    driver.driver_check(
        *(content, ctypes.c_size_t(len(content))),
        *((Extent * len(extents))(*extents), ctypes.c_size_t(len(extents))),
        *((ctypes.c_char_p * len(names))(*names), ctypes.c_size_t(len(names))),
    )


def _host_view(array: Any) -> np.ndarray[Any, Any]:
    """Return a NumPy array with the address and layout of a CuPy array. Don't read or write it."""
    interface = {"shape": array.shape, "strides": array.strides, "typestr": f"|V{array.itemsize}", "version": 3}
    holder = type("Holder", (), {"__array_interface__": {**interface, "data": (array.data.ptr, False)}})()
    return np.asarray(holder)
