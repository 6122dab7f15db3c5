"""Modules and functions. A launch goes to the emulator if CUDA would accept its arguments."""

import functools
import itertools
import json
import os
import re
from pathlib import Path

import numpy as np

from fusedlstm.backends.cuda.function_types import functions_type
from fusedlstm.functions import ACTIVATIONS, Functions

from . import arrays, driver, graphs, memory, nvrtc, streams
from .errors import CUDARuntimeError
from emulation import FORWARD, REVERSE, ByValue, Pointer, shuffled
from emulation import Module as EmulatedModule

MODE = os.environ.get("FUSEDLSTM_EMULATION", "fast")
SCHEDULE = {"forward": FORWARD, "reverse": REVERSE, "shuffled": shuffled(seed=1)}[
    os.environ.get("FUSEDLSTM_SCHEDULE", "forward")
]


def get_cublas_handle():
    """Return the handle of the current device."""
    return arrays.current_device + 1


class Module:
    """Loaded code."""

    def load(self, cubin):
        if not cubin.endswith(b"}\0"):
            raise CUDARuntimeError("the code is not whole")
        self._code = json.loads(cubin[:-1])
        if nvrtc._digest(self._code["path"], self._code["includes"]) != self._code["sources"]:
            raise CUDARuntimeError(f"stale code: {self._code['path']} or a header has changed since it was compiled")
        self._device = arrays.current_device

    def get_function(self, name):
        if name not in self._code["names"]:
            raise CUDARuntimeError(f"cudaErrorNotFound: {name} is none of {list(self._code['names'])}")
        return Function(self, self._code, self._code["names"][name])


class Function:
    """A kernel on the device that its module was loaded on."""

    def __init__(self, module, code, name):
        self._device, self._name = module._device, name
        includes = tuple(f"-I{folder}" for folder in code["includes"])
        self._launch = _emulated(Path(code["path"]), _instances(name), includes, code["sources"]).function(name)
        self.ptr, self.most_shared = driver.made(self), driver.FREE

    def __call__(self, grid, block, args, shared_mem=0):
        if self._device != arrays.current_device:
            raise CUDARuntimeError("the function was loaded on another device")
        limits = (2**31 - 1, 65535, 65535)
        if any(not 0 < size <= limit for size, limit in zip(grid, limits, strict=False)):
            raise CUDARuntimeError(f"invalid grid {grid}")
        if not 0 < int(np.prod(block)) <= 1024:
            raise CUDARuntimeError(f"invalid block {block}")
        if not 0 <= shared_mem <= self.most_shared:
            raise driver.CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {shared_mem} bytes of dynamic shared memory")
        values = [_argument(value) for value in args]
        if graphs.capture_on(streams.get_current_stream().ptr) is None:
            streams.submit("kernel", self._name, (), functools.partial(self._run, grid, block, shared_mem, values))
            return
        recorded = [_each_array(_recorded, value) for value in values]
        views = [view for value in recorded for view in _arrays(value) if isinstance(view, memory.View)]
        streams.submit("kernel", self._name, views, functools.partial(self._replay, grid, block, shared_mem, recorded))

    def _run(self, grid, block, shared_mem, values):
        self._launch(grid, block, values, shared_mem=shared_mem, schedule=SCHEDULE)

    def _replay(self, grid, block, shared_mem, values):
        self._run(grid, block, shared_mem, [_each_array(_replayed, value) for value in values])


def _arrays(value):
    """Return the arrays of an argument, or their substitutes."""
    return [pointer.array for pointer in value.pointers] if isinstance(value, ByValue) else [value]


def _each_array(function, value):
    """Return an argument with each array replaced by the function's result."""
    if not isinstance(value, ByValue):
        return function(value)
    return value._replace(pointers=[each._replace(array=function(each.array)) for each in value.pointers])


def _recorded(value):
    """Return an argument as a graph records it: arrays become views of their place, empty ones stay."""
    if not isinstance(value, np.ndarray):
        return value
    return memory.View(value) if value.size else np.empty(value.shape, value.dtype)


def _replayed(value):
    return value.array() if isinstance(value, memory.View) else value


def _argument(value):
    if isinstance(value, arrays.ndarray):
        if value._device_id != arrays.current_device:
            raise CUDARuntimeError("an argument is on another device")
        return value._host
    if isinstance(value, np.ndarray):
        return _by_value(value)
    if not isinstance(value, np.generic):
        raise TypeError(f"a kernel's argument is a {type(value).__name__}, whose size CuPy would guess")
    return value


def _by_value(packed):
    """Return a struct as the emulator takes it. CuPy passes the bytes of any array with one element."""
    if packed.size != 1:
        raise TypeError("a NumPy array that is passed by value has one element")
    if not hasattr(packed, "struct"):
        raise TypeError(f"a struct is a Filled, which knows its pointers, not a {type(packed).__name__}")
    pointers = [
        Pointer(
            member.name.removesuffix(".at"),
            member.offset,
            None if value is None else _argument(value),
            member.is_const,
        )
        for member, value in zip(packed.struct.members, packed.values, strict=True)
        if member.dtype is not None
    ]
    return ByValue(packed.tobytes(), pointers)


def _instances(name):
    """Return the instances to compile together with this one, as one takes as long as all of them."""
    match = re.fullmatch(r"(lstm_pointwise<[^,]+, [^,]+, \d), (.*), \w+, \w+, \w+>", name)
    functions = [functions_type(Functions.of(activation=each)) for each in ACTIVATIONS]
    if match is None or match[2] not in functions:
        return (name,)
    flags = itertools.product(functions, *[("false", "true")] * 3)
    return tuple(f"{match[1]}, {', '.join(rest)}>" for rest in flags)


@functools.cache
def _emulated(path, names, flags, sources):
    del sources  # a cache key that distinguishes versions of the file
    return EmulatedModule(path, names, mode=MODE, flags=flags)
