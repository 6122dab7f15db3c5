"""Check every access of the package's kernels, by telling the driver which memory a struct's pointers may touch."""

from __future__ import annotations

import ctypes
import functools
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from emulation import memory
from emulation.arguments import Extent

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_structs(driver: ctypes.CDLL) -> None:
    """Make the driver check all launches from now on, whether their struct is filled anew or was packed before."""
    _check_filled(driver)
    _check_packed(driver)


def _check_filled(driver: ctypes.CDLL) -> None:
    from fusedlstm.backends.cuda.runtime.structs import Struct

    original = Struct.filled

    @functools.wraps(original)
    def filled(self: Any, values: Sequence[Any], numbers: Sequence[Any]) -> Any:
        made = original(self, values, numbers)
        _register(driver, made.tobytes(), self.members, list(map(_host_view, values)))
        return made

    Struct.filled = filled  # type: ignore[method-assign]


def _check_packed(driver: ctypes.CDLL) -> None:
    from fusedlstm.backends.cuda.runtime.packed import PackedLaunch

    begin, fill = PackedLaunch.__init__, PackedLaunch._fill
    first: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # each one's members and their arrays

    @functools.wraps(begin)
    def begin_and_note(self: Any, launch: Any, changing: Any) -> None:
        begin(self, launch, changing)
        struct = launch.kernel.struct
        first[self] = struct.members, list(map(_host_view, struct.values(launch.arguments)))

    @functools.wraps(fill)
    def fill_and_register(self: Any, words: Any, values: Sequence[Any]) -> None:
        fill(self, words, values)
        members, arrays = first[self]
        arrays = arrays.copy()
        for at, place in self._changing:
            value = values[place]
            arrays[at] = _moved(arrays[at], value) if type(value) is int else _host_view(value)
        _register(driver, bytes(words), members, arrays)

    PackedLaunch.__init__, PackedLaunch._fill = begin_and_note, fill_and_register  # type: ignore[method-assign]


def _register(
    driver: ctypes.CDLL, content: bytes, members: Sequence[Any], arrays: Sequence[np.ndarray[Any, Any] | None]
) -> None:
    """Tell the driver which memory a struct with these bytes may be used for."""
    pointers = [
        (member, array) for member, array in zip(members, arrays, strict=True) if array is not None and array.size
    ]
    granule = memory.granule([array for _, array in pointers], 0)
    extents = [
        Extent(
            part.first, part.row_bytes, part.stride, part.count, array.itemsize, granule, number, not member.is_const
        )
        for number, (member, array) in enumerate(pointers)
        for part in memory.extents(array)
    ]
    names = [member.name.removesuffix(".at").encode() for member, _ in pointers]
    driver.driver_check(
        *(content, ctypes.c_size_t(len(content))),
        *((Extent * len(extents))(*extents), ctypes.c_size_t(len(extents))),
        *((ctypes.c_char_p * len(names))(*names), ctypes.c_size_t(len(names))),
    )


def _host_view(value: Any) -> np.ndarray[Any, Any] | None:
    """Return NumPy's array with the address and layout of CuPy's, which nobody reads or writes, or None for others."""
    if not hasattr(value, "strides"):
        return None
    return _view(value.data.ptr, value.shape, value.strides, value.itemsize)


def _moved(array: np.ndarray[Any, Any] | None, address: int) -> np.ndarray[Any, Any] | None:
    """Return the array of this layout at another address. A number isn't an array."""
    if array is None:
        return None
    return _view(address, array.shape, array.strides, array.itemsize)


def _view(address: int, shape: Any, strides: Any, itemsize: int) -> np.ndarray[Any, Any]:
    interface = {"shape": shape, "strides": strides, "typestr": f"|V{itemsize}", "version": 3}
    holder = type("Holder", (), {"__array_interface__": {**interface, "data": (address, False)}})()
    return np.asarray(holder)
