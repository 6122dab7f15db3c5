"""Memory of the fake GPUs: an allocator that gives each array its own, what is alive, and a limit."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_driver: Any = None
_kept: list[object] = []


def use(driver: ctypes.CDLL) -> None:
    """Take memory from this driver."""
    global _driver
    driver.driver_allocate.restype = ctypes.c_void_p
    driver.driver_allocations.restype = driver.driver_bytes.restype = ctypes.c_size_t
    _driver = driver


def give_each_array_its_own() -> None:
    """Replace CuPy's pool, whose blocks outlive arrays and are used again.

    Each array is then an allocation that begins as NaN. Whoever touches a freed one crashes. An allocation during a
    capture fails, which CuPy's pool would allow if it had a block.
    """
    import cupy

    def allocate(size: int, device: int) -> int:
        address = _driver.driver_allocate(device, ctypes.c_size_t(size))
        if address is None:
            raise cupy.cuda.memory.OutOfMemoryError(size, alive())
        return int(address)

    def release(address: int, device: int) -> None:
        _driver.driver_release(ctypes.c_void_p(address))

    allocator = cupy.cuda.PythonFunctionAllocator(allocate, release)
    _kept.append(allocator)
    cupy.cuda.set_allocator(allocator.malloc)


def made() -> int:
    """Return how often memory of a GPU has been allocated so far."""
    return int(_driver.driver_allocations())


def alive(device: int | None = None) -> int:
    """Return how many bytes are allocated on a GPU, or on all."""
    import cupy

    devices = range(cupy.cuda.runtime.getDeviceCount()) if device is None else [device]
    return sum(_driver.driver_bytes(each) for each in devices)


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Inside, an allocation fails if it would have more than so many bytes more alive than at the beginning."""
    _driver.driver_limit(ctypes.c_size_t(alive() + size))
    try:
        yield
    finally:
        _driver.driver_limit(ctypes.c_size_t(-1))
