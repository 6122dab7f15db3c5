"""Memory of pretended GPUs, and pinned memory: what is alive, on which device, and how much."""

import contextlib
import ctypes
import functools
import itertools
import weakref
from dataclasses import dataclass

import numpy as np

_ALIGNMENT = 512  # of addresses in CuPy's pools, which also round sizes up to it

_serials = itertools.count(1)
_alive = {}  # address -> Allocation
_devices_made = 0
_most = None  # the limit of live bytes on devices, if a test sets one


@dataclass(frozen=True)
class Allocation:
    """Memory of a GPU, or of the host if `device` is None. `serial` differs for reused addresses."""

    serial: int
    address: int
    size: int
    device: int | None


class OutOfMemoryError(MemoryError):
    """CuPy's error for exhausted memory."""

    def __init__(self, size, total, limit=0):
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


def made():
    """Return how often memory of a GPU has been allocated so far."""
    return _devices_made


def alive(device=None):
    """Return how many bytes are allocated on a GPU, or on all."""
    found = [a for a in _alive.copy().values() if a.device is not None]
    return sum(a.size for a in found if device in (None, a.device))


@contextlib.contextmanager
def limited(size):
    """Limit memory on GPUs to `size` bytes more than now. Larger allocations fail."""
    global _most
    before, _most = _most, alive() + size
    try:
        yield
    finally:
        _most = before


def on_device(size, device):
    """Return a block of new memory of a GPU, with 255 in every byte, which is NaN."""
    global _devices_made
    if _most is not None and alive() + size > _most:
        raise OutOfMemoryError(size, alive())
    _devices_made += 1
    return _block(size, device)


def _block(size, device):
    room = np.full(size + _ALIGNMENT, 255, np.uint8)
    block = _type(size).from_address(room.ctypes.data + -room.ctypes.data % _ALIGNMENT)
    block._room = room
    address = ctypes.addressof(block)
    _alive[address] = Allocation(next(_serials), address, size, device)
    weakref.finalize(block, _alive.pop, address, None).atexit = False
    return block


@functools.cache
def _type(size):
    return ctypes.c_ubyte * size


def find(address, size, pinned=False):
    """Return the live allocation, on a GPU or pinned, that holds `size` bytes from an address on, or raise."""
    for found in _alive.copy().values():
        inside = found.address <= address and address + size <= found.address + found.size
        if inside and pinned == (found.device is None):
            return found
    what = "pinned allocation" if pinned else "array"
    raise MemoryError(f"{size} bytes at {address:#x} are not all in one {what}")


class Span:
    """Bytes of one live allocation. A Span doesn't keep it alive."""

    def __init__(self, address, size, pinned=False):
        self.address, self.size = address, size
        self.allocation = find(address, size, pinned)

    def check(self):
        """Raise if the allocation has been freed since."""
        if _alive.get(self.allocation.address) != self.allocation:
            raise MemoryError(f"the graph uses freed memory: {self.size} bytes at {self.address:#x}")

    def overlaps(self, other):
        return self.address < other.address + other.size and other.address < self.address + self.size

    def bytes(self):
        """Return the bytes as a NumPy array."""
        return np.frombuffer(_type(self.size).from_address(self.address), np.uint8)


class View(Span):
    """The place and layout of an array on a GPU, without its memory. The array must not be empty."""

    def __init__(self, host):
        self._layout = host.shape, host.dtype, host.strides
        self._first, self._writeable = host.ctypes.data, host.flags.writeable
        reach = [(length - 1) * stride for length, stride in zip(host.shape, host.strides, strict=True)]
        low = self._first + sum(min(0, r) for r in reach)
        super().__init__(low, sum(map(abs, reach)) + host.itemsize)

    def array(self):
        """Return the array over the memory at its place, with the whole allocation as its base."""
        whole = self.allocation
        shape, dtype, strides = self._layout
        memory = np.ndarray(whole.size, np.uint8, _type(whole.size).from_address(whole.address))
        array = np.ndarray(shape, dtype, memory, self._first - whole.address, strides)
        array.flags.writeable = self._writeable
        return array


class PinnedMemory:
    """The memory behind a PinnedMemoryPointer."""

    def __init__(self, block):
        self.ptr, self.size = (ctypes.addressof(block) if len(block) else 0), len(block)
        self._block = block


@functools.cache
def _pointer_type(size):
    """Return a class of pointers to `size` bytes.

    It is a ctypes array, as Python 3.11's own classes can't have buffers.
    """

    def rest(self):
        return size

    return type("PinnedMemoryPointer", (ctypes.c_byte * size,), {"size": rest, "__int__": lambda self: self.ptr})


def alloc_pinned_memory(size):
    """Allocate as CuPy's pool does: the size is rounded up, so buffers are longer than requested."""
    block = _block(-(-size // _ALIGNMENT) * _ALIGNMENT, None)
    pointer = _pointer_type(len(block)).from_buffer(block)
    pointer.mem = PinnedMemory(block)
    pointer.ptr = pointer.mem.ptr
    return pointer
