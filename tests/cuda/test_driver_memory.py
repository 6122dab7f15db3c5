"""The fake driver: memory of GPUs and of the host, and copies."""

import ctypes
import gc

import ml_dtypes
import numpy as np
import pytest

from driver import memory
from support import driver_child

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = driver_child.of_the_driver

runtime = cupy.cuda.runtime
CRASHED = -11


def test_new_memory_is_nan():
    for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
        assert np.isnan(cupy.empty((3, 2), dtype).get().astype(float)).all()
    pinned = runtime.hostAlloc(8, 0)
    assert np.isnan(ctypes.c_double.from_address(pinned).value)
    runtime.freeHost(pinned)


def test_memory_is_counted():
    gc.collect()  # frees what earlier tests left
    made, alive = memory.made(), memory.alive()
    array = cupy.empty((2, 3), np.float32)
    assert (memory.made(), memory.alive()) == (made + 1, alive + 24)
    view = array[1:]
    del array
    assert memory.alive() == alive + 24
    with cupy.cuda.Device(1):
        before = memory.alive(1)
        other = cupy.empty(3)
    assert (memory.alive(1) - before, memory.alive()) == (24, alive + 48)
    del view, other
    assert memory.alive() == alive


def test_memory_in_a_cycle_is_released():
    gc.collect()  # frees what earlier tests left
    alive = memory.alive()
    cycle = [cupy.empty(3)]
    cycle.append(cycle)
    cycle.append(cycle[0].data.mem)  # so that the garbage collector finds the memory itself
    del cycle
    gc.collect()
    assert memory.alive() == alive


def test_limited_memory_runs_out():
    with memory.limited(100):
        first = cupy.empty(10)
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="Out of memory allocating 24 bytes"):
            cupy.empty(3)
        del first
        second = cupy.empty(12)
    cupy.empty(3)


@pytest.mark.parametrize("order", ["now", "late"])
def test_touching_freed_memory_crashes(order):
    """With DRIVER_ORDER=late, CuPy's pool keeps freed memory, so this empties the pool first."""
    program = """
        a, b = cupy.ones(1000), cupy.ones(1000)
        address = b.data.ptr
        del b
        runtime.deviceSynchronize()
        cupy.get_default_memory_pool().free_all_blocks()
        copy = cupy.RawKernel('extern "C" __global__ void copy(double* to, double* from) { *to = *from; }', "copy")
        copy((1,), (1,), (a, np.uintp(a[1:].data.ptr)))
        print(float(a[0]), flush=True)
        copy((1,), (1,), (a, np.uintp(address)))
        print(float(a[0]))
    """
    done = driver_child.run(program, DRIVER_ORDER=order)
    assert (done.returncode, done.stdout) == (CRASHED, "1.0\n")


@pytest.mark.parametrize("guard", ["0", "1"])
@pytest.mark.parametrize("where", ["host", "device"])
def test_the_host_cant_touch_guarded_memory(guard, where):
    """A GPU can't touch another GPU's memory, either. Without DRIVER_GUARD=1, nothing stops them."""
    program = f"""
        import ctypes
        array = cupy.ones(4)
        with cupy.cuda.Device(1):
            there = cupy.ones(4)
        add = cupy.RawKernel('extern "C" __global__ void add(double* a, double* b) {{ *a += *b; }}', "add")
        add((1,), (1,), (array, array))
        print(float(array[0]), flush=True)
        if {where == "host"}:
            print(ctypes.c_double.from_address(array.data.ptr).value)
        else:
            add((1,), (1,), (array, np.uintp(there.data.ptr)))
            print(float(array[0]))
    """
    done = driver_child.run(program, DRIVER_GUARD=guard)
    if guard == "1":
        assert (done.returncode, done.stdout) == (CRASHED, "2.0\n")
    else:
        assert done.stdout == ("2.0\n2.0\n" if where == "host" else "2.0\n3.0\n"), done.stderr


def test_guarded_memory_can_be_copied():
    """It can be copied between any devices and the host, on a stream of any device."""
    program = """
        with cupy.cuda.Device(1):
            there = cupy.zeros(2)
        here, host = cupy.zeros(2), np.ones(2)
        runtime.memcpyAsync(there.data.ptr, host.ctypes.data, 16, runtime.memcpyHostToDevice, 0)
        runtime.memcpyAsync(here.data.ptr, there.data.ptr, 16, runtime.memcpyDeviceToDevice, 0)
        print(here.get())
    """
    said = driver_child.run(program, DRIVER_GUARD="1")
    assert said.stdout == "[1. 1.]\n", said.stderr


def places():
    """Return arrays of 48 bytes, by where their memory is."""
    with cupy.cuda.Device(1):
        other = cupy.zeros(6)
    return {"host": np.zeros(6), "device": cupy.zeros(6), "other device": other}


@pytest.mark.parametrize(
    ("to", "source", "kind", "error"),
    [
        ("device", "device", runtime.memcpyHostToDevice, "InvalidMemcpyDirection"),
        ("host", "host", runtime.memcpyHostToDevice, "InvalidMemcpyDirection"),
        ("device", "host", runtime.memcpyDeviceToHost, "InvalidMemcpyDirection"),
        ("host", "device", runtime.memcpyDeviceToDevice, "InvalidMemcpyDirection"),
        ("device", "beyond", runtime.memcpyDeviceToDevice, "InvalidValue"),
        ("beyond", "host", runtime.memcpyHostToDevice, "InvalidValue"),
        ("device", "beyond pinned", runtime.memcpyHostToDevice, "InvalidValue"),
    ],
)
def test_copies_are_refused(to, source, kind, error):
    known, pinned = places(), runtime.hostAlloc(48, 0)
    at = {name: array.ctypes.data if name == "host" else array.data.ptr for name, array in known.items()}
    at |= {"beyond": at["device"] + 8, "beyond pinned": pinned + 8}
    with pytest.raises(runtime.CUDARuntimeError, match=error):
        runtime.memcpyAsync(at[to], at[source], 48, kind, 0)


def test_wrong_copies_of_rows_are_refused():
    a, b = cupy.zeros((3, 4), np.float32), cupy.zeros((3, 4), np.float32)
    there, kind = (a.data.ptr, 16, b.data.ptr, 16), runtime.memcpyDeviceToDevice
    runtime.memcpy2DAsync(*there, 16, 3, kind, 0)
    with pytest.raises(runtime.CUDARuntimeError, match="InvalidPitchValue"):
        runtime.memcpy2DAsync(*there, 17, 3, kind, 0)
    with pytest.raises(runtime.CUDARuntimeError, match="InvalidValue"):
        runtime.memcpy2DAsync(*there, 4, 4, kind, 0)
    with pytest.raises(runtime.CUDARuntimeError, match="InvalidValue"):
        runtime.memsetAsync(a.data.ptr, 0, 49, 0)


def test_peer_copies_check_their_devices():
    known = places()
    here, there = known["device"].data.ptr, known["other device"].data.ptr
    runtime.memcpyPeerAsync(here, 0, there, 1, 48, 0)
    for devices in ((1, 1), (0, 0), (1, 0)):
        with pytest.raises(runtime.CUDARuntimeError, match="InvalidValue"):
            runtime.memcpyPeerAsync(here, devices[0], there, devices[1], 48, 0)


def test_only_copies_touch_pageable_memory():
    """A GPU may also touch pinned memory."""
    pinned = cupy.cuda.alloc_pinned_memory(8)
    runtime.memsetAsync(pinned.ptr, 0, 8, 0)
    with pytest.raises(runtime.CUDARuntimeError, match="InvalidValue"):
        runtime.memsetAsync(np.zeros(1).ctypes.data, 0, 8, 0)


def test_pinned_memory_belongs_to_the_host():
    pointer = cupy.cuda.alloc_pinned_memory(8)
    about = runtime.pointerGetAttributes(pointer.ptr)
    assert (about.type, about.devicePointer) == (1, pointer.ptr)
    address = pointer.ptr
    del pointer
    gc.collect()
    cupy.get_default_pinned_memory_pool().free_all_blocks()
    assert runtime.pointerGetAttributes(address).type == 0
