"""Memory, copies and their counts in the stand-in for CuPy: like CuPy's, and stricter."""

import ctypes
import gc
import re

import numpy as np
import pytest

import stand_in
from stand_in import arrays, memory, streams
from stand_in.runtime import runtime
from support.backends import needs_cupy


@needs_cupy
@pytest.mark.parametrize(
    "name", ["memcpyAsync", "memcpy2DAsync", "memsetAsync", "graphLaunch", "graphUpload", "streamIsCapturing"]
)
def test_parameters_are_cupys(name):
    real = getattr(stand_in.real["cupy"].cuda.runtime, name)
    theirs = re.findall(r"\w+ (\w+)(?:,|\))", real.__doc__)
    ours = getattr(runtime, name).__code__
    assert list(ours.co_varnames[: ours.co_argcount]) == theirs


@needs_cupy
def test_constants_are_cudas():
    real = stand_in.real["cupy"].cuda.runtime
    names = [name for name in vars(runtime) if name.startswith(("memcpy", "streamCapture"))]
    constants = [name for name in names if isinstance(getattr(runtime, name), int)]
    assert len(constants) == 8
    assert {name: getattr(runtime, name) for name in constants} == {name: getattr(real, name) for name in constants}


@needs_cupy
def test_the_out_of_memory_error_is_cupys():
    theirs = stand_in.real["cupy"].cuda.memory.OutOfMemoryError
    ours = memory.OutOfMemoryError
    assert str(ours(5000, 1)) == str(theirs(5000, 1))
    assert ours.__bases__ == theirs.__bases__


# Like CuPy's.


def pinned(library, values):
    """Return pinned memory with values, and NumPy's view of it."""
    pointer = library.cupy.cuda.alloc_pinned_memory(values.nbytes)
    view = np.frombuffer(pointer, values.dtype, values.size).reshape(values.shape)
    view[...] = values
    return pointer, view


def test_pinned_memory(library):
    """NumPy's views keep the memory alive, and it is larger than requested."""
    pointer, view = pinned(library, np.arange(6, dtype=np.float32).reshape(2, 3))
    assert pointer.ptr == view.ctypes.data == int(pointer)
    assert pointer.size() == pointer.mem.size == 512
    assert len(np.frombuffer(pointer, np.float32)) == 128
    del pointer
    gc.collect()
    np.testing.assert_array_equal(view, [[0, 1, 2], [3, 4, 5]])


def test_copies(library):
    """Copy from the host to a GPU, on the GPU, and back, in a stream's order."""
    cupy, runtime = library.cupy, library.cupy.cuda.runtime
    source, values = pinned(library, np.arange(12, dtype=np.float32).reshape(3, 4))
    back, result = pinned(library, np.zeros((3, 2), np.float32))
    device, narrow = cupy.zeros((3, 4), np.float32), cupy.zeros((3, 2), np.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.runtime.deviceSynchronize()
    runtime.memcpyAsync(device.data.ptr, source.ptr, 48, runtime.memcpyHostToDevice, stream.ptr)
    runtime.memcpy2DAsync(narrow.data.ptr, 8, device.data.ptr + 4, 16, 8, 3, runtime.memcpyDeviceToDevice, stream.ptr)
    runtime.memsetAsync(narrow.data.ptr, 0, 8, stream.ptr)
    runtime.memcpyAsync(back.ptr, narrow.data.ptr, 24, runtime.memcpyDefault, stream.ptr)
    stream.synchronize()
    np.testing.assert_array_equal(result, [[0, 0], [5, 6], [9, 10]])
    np.testing.assert_array_equal(device.get(), values)


def test_rows_are_read_and_written_by_index(library):
    """The indices are an array on the GPU."""
    array = library.cupy.asarray(np.arange(12.0).reshape(4, 3))
    rows = library.cupy.asarray(np.array([3, 0]))
    np.testing.assert_array_equal(array[rows].get(), [[9, 10, 11], [0, 1, 2]])
    array[rows] = library.cupy.asarray(np.full((2, 3), 7.0))
    np.testing.assert_array_equal(array.get()[:, 0], [7, 3, 6, 7])
    copy = array.copy()
    array[rows] = 1
    assert copy.get()[0, 0] == 7


def test_memory_begins_at_multiples_of_512(library):
    for shape in ((1,), (3, 5), (100,)):
        assert library.cupy.empty(shape, np.float16).data.ptr % 512 == 0


# Stricter than CuPy.


def test_writing_a_row_twice_raises():
    array = arrays.zeros((4, 3))
    with pytest.raises(AssertionError, match="more than once"):
        array[arrays.asarray(np.array([1, 1]))] = arrays.zeros((2, 3))
    with pytest.raises(IndexError):
        array[arrays.asarray(np.array([4]))]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"size": 49}, "49 bytes at .* not all in one array"),
        ({"src": "host"}, "not all in one pinned allocation"),
        ({"src": "device"}, "not all in one pinned allocation"),
        ({"dst": "pinned"}, "not all in one array"),
        ({"src": "device", "kind": runtime.memcpyDeviceToDevice}, "overlaps"),
        ({"kind": 9}, "InvalidMemcpyDirection"),
        ({"dst": "freed"}, "not all in one array"),
        ({"dst": "other device"}, "another device"),
        ({"src": "host", "kind": runtime.memcpyDefault}, "not all in one pinned allocation"),
    ],
)
def test_copies_refuse(changes, error):
    """Refuse memory that is freed, isn't pinned, or isn't where it should be."""
    host, device, gone = np.zeros(12, np.float32), arrays.zeros(12, np.float32), arrays.zeros(12, np.float32)
    pointer = memory.alloc_pinned_memory(512)
    with arrays.Device(1):
        other = arrays.zeros(12, np.float32)
    places = {
        "host": host.ctypes.data, "device": device.data.ptr, "pinned": pointer.ptr, "freed": gone.data.ptr,
        "other device": other.data.ptr,
    }  # fmt: skip
    del gone
    stream = streams.Stream()
    values = {"dst": "device", "src": "pinned", "size": 48, "kind": runtime.memcpyHostToDevice, **changes}
    values |= {name: places[values[name]] for name in ("dst", "src")}
    with pytest.raises((MemoryError, RuntimeError), match=error):
        runtime.memcpyAsync(*values.values(), stream.ptr)


def test_copies_of_rows_refuse():
    """Refuse a pitch below the row's length, and a last row that is incomplete."""
    a, b = arrays.zeros((3, 4), np.float32), arrays.zeros((3, 4), np.float32)
    there, kind = (a.data.ptr, 16, b.data.ptr, 16), runtime.memcpyDeviceToDevice
    runtime.memcpy2DAsync(*there, 16, 3, kind, 0)
    with pytest.raises(RuntimeError, match="InvalidPitchValue"):
        runtime.memcpy2DAsync(*there, 17, 3, kind, 0)
    with pytest.raises(MemoryError, match="not all in one array"):
        runtime.memcpy2DAsync(*there, 4, 4, kind, 0)
    with pytest.raises(MemoryError, match="not all in one array"):
        runtime.memsetAsync(a.data.ptr, 0, 49, 0)


def test_memory_is_counted():
    made, alive = memory.made(), memory.alive()
    array = arrays.empty((2, 3), np.float32)
    assert (memory.made(), memory.alive()) == (made + 1, alive + 24)
    view = array[1:]
    memory.alloc_pinned_memory(100)
    del array
    assert (memory.made(), memory.alive()) == (made + 1, alive + 24)
    with arrays.Device(1):
        before = memory.alive(1)
        other = arrays.zeros(3)
    assert (memory.alive(1) - before, memory.alive()) == (24, alive + 48)
    del view, other
    assert memory.alive() == alive


def test_limited_memory_runs_out():
    with memory.limited(100):
        first = arrays.zeros(10)
        with pytest.raises(memory.OutOfMemoryError, match="Out of memory allocating 24 bytes"):
            arrays.zeros(3)
        del first
        second = arrays.zeros(12)
        with pytest.raises(memory.OutOfMemoryError):
            arrays.zeros(1)
    arrays.zeros(3)


def test_pinned_memory_is_not_on_a_gpu():
    pointer = memory.alloc_pinned_memory(8)
    with pytest.raises(MemoryError, match="not all in one array"):
        memory.find(pointer.ptr, 8)
    address = pointer.ptr
    assert memory.find(address, 8, pinned=True).device is None
    assert ctypes.c_ubyte.from_address(address).value == 255
    del pointer
    gc.collect()
    with pytest.raises(MemoryError, match="not all in one pinned allocation"):
        memory.find(address, 8, pinned=True)
