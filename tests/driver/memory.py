"""Memory of the fake GPUs: an allocator that gives each array its own, counts, and a limit."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_driver: Any = None


def use(driver: ctypes.CDLL) -> None:
    """Use this driver's memory."""
    global _driver
    driver.driver_allocations.restype = driver.driver_bytes.restype = ctypes.c_size_t
    _driver = driver


def give_each_array_its_own() -> None:
    """Replace CuPy's pool, which keeps and reuses the blocks of freed arrays.

    Each array then has its own allocation, which begins as NaN. Touching it after it is freed crashes. An allocation
    during a capture fails, even where CuPy's pool would have a free block.
    """
    import cupy

    functions = (_driver.driver_allocate, _driver.driver_release)
    # With Python functions, CuPy can't release memory that the garbage collector finds in a cycle.
    allocator = cupy.cuda.CFunctionAllocator(
        0, *(ctypes.cast(each, ctypes.c_void_p).value for each in functions), _driver
    )

    def allocate(size: int) -> Any:
        pointer = allocator.malloc(size)
        if size and not pointer.ptr:
            raise cupy.cuda.memory.OutOfMemoryError(size, alive())
        return pointer

    cupy.cuda.set_allocator(allocate)


def made() -> int:
    """Return the number of allocations on all GPUs so far."""
    return int(_driver.driver_allocations())


def alive(device: int | None = None) -> int:
    """Return the number of allocated bytes on a GPU, or on all."""
    import cupy

    devices = range(cupy.cuda.runtime.getDeviceCount()) if device is None else [device]
    return sum(_driver.driver_bytes(each) for each in devices)


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Allow at most this many more allocated bytes than now. Allocations beyond that fail."""
    _driver.driver_limit(ctypes.c_size_t(alive() + size))
    try:
        yield
    finally:
        _driver.driver_limit(ctypes.c_size_t(-1))
