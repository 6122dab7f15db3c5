"""ndarray: an array on a pretended GPU, in NumPy's memory but not a NumPy array."""

import ctypes
import math
import operator
import types

import numpy as np

from . import dlpack, memory

current_device = 0  # the device of new arrays and launches


def allocate(shape, dtype, order="C"):
    """Return new memory, not yet written."""
    graphs.refuse("to allocate memory")
    dtype = np.dtype(dtype)
    size = dtype.itemsize * math.prod(shape if isinstance(shape, (tuple, list)) else (shape,))
    return np.ndarray(shape, dtype, memory.on_device(size, current_device), order=order)


class Device:
    """One of two GPUs."""

    def __init__(self, device=None):
        self.id = current_device if device is None else int(device)
        self._before = []

    compute_capability = "90"

    def __enter__(self):
        global current_device
        self._before.append(current_device)
        current_device = self.id
        return self

    def __exit__(self, *_):
        global current_device
        current_device = self._before.pop()

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    __hash__ = None  # as in CuPy


class ndarray:
    """The parts of cupy.ndarray that are used, without an implicit conversion to NumPy."""

    __module__ = "cupy"
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, host, device_id):
        self._host, self._device_id = host, device_id

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    T = property(lambda self: self._view(self._host.T))
    device = property(lambda self: Device(self._device_id))

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self._host.__array_interface__["data"][0])

    @property
    def flags(self):
        flags = self._host.flags
        return types.SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous)

    @property
    def __cuda_array_interface__(self):
        interface = dict(self._host.__array_interface__)
        return {key: interface[key] for key in ("shape", "typestr", "data", "strides")} | {"version": 3}

    def __dlpack_device__(self):
        return (dlpack.CUDA, self._device_id)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """Export as CuPy does: the given stream waits for the current one, and bfloat16 is refused."""
        if dl_device is not None or copy is not None:
            raise NotImplementedError("of no use here")
        if self.dtype.kind not in "uifcb":
            raise BufferError("dtype is not supported for dlpack export")
        streams.order_export(stream, self._device_id)
        return dlpack.on_device(self._host, self._device_id)

    def view(self, dtype=None, type=None):
        return self._view(self._host.view(dtype))

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def _view(self, host):
        return ndarray(host, self._device_id)

    def _new(self, host):
        return ndarray(_own(host), self._device_id)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self._view(self._host[k]) for k in range(len(self._host)))

    def __getitem__(self, index):
        picked = self._host[_index(index)]
        if isinstance(picked, np.ndarray) and np.may_share_memory(picked, self._host):
            return self._view(picked)
        return self._new(np.asarray(picked))

    def __setitem__(self, index, value):
        if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
            raise TypeError(f"Unsupported type {type(value)}")
        graphs.refuse("to assign")
        if isinstance(value, ndarray):
            _check_is_written_once(index)
        self._host[_index(index)] = value._host if isinstance(value, ndarray) else value

    def __bool__(self):
        return bool(self.get())

    def __float__(self):
        return float(self.get())

    def __repr__(self):
        return f"device {self._host!r}"

    def get(self):
        with self.device:
            streams.get_current_stream().synchronize()
        return self._host.copy()

    def copy(self):
        """Copy as CuPy does: from another GPU, a contiguous copy is made there first, on its current stream."""
        if self._device_id != current_device:
            if not self.flags.c_contiguous:
                with self.device:
                    streams.launched("copy")
            streams.launched("transfer")
        return ndarray(_own(self._host), current_device)

    def astype(self, dtype, copy=True):
        if not copy and self.dtype == np.dtype(dtype):
            return self
        return ndarray(_own(self._host.astype(dtype), "K"), self._device_id)

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray) or arr.shape != self.shape or arr.dtype != self.dtype:
            raise ValueError(f"an array {self.shape} of {self.dtype} is set from such an array in host memory")
        streams.launched("set")
        self._host[...] = arr

    def fill(self, value):
        graphs.refuse("to fill")
        self._host.fill(value)

    def reshape(self, *shape):
        host = self._host.reshape(*shape)
        return self._view(host) if np.may_share_memory(host, self._host) else self._new(host)

    def swapaxes(self, axis1, axis2):
        return self._view(self._host.swapaxes(axis1, axis2))

    def repeat(self, repeats, axis=None):
        return self._new(self._host.repeat(repeats, axis))

    def all(self):
        return self._new(np.asarray(self._host.all()))

    def max(self):
        return self._new(np.asarray(self._host.max()))

    def _operation(self, other, function):
        if isinstance(other, np.ndarray) and other.ndim:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        return self._new(np.asarray(function(self._host, other._host if isinstance(other, ndarray) else other)))

    def __matmul__(self, other):
        return self._operation(other, operator.matmul)

    def __mul__(self, other):
        return self._operation(other, operator.mul)

    def __eq__(self, other):
        return self._operation(other, operator.eq)

    def __gt__(self, other):
        return self._operation(other, operator.gt)


def _index(index):
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return index._host if isinstance(index, ndarray) else index


def _check_is_written_once(index):
    """Raise if an index array has a row twice, as the final value would be undefined."""
    if isinstance(index, ndarray) and index.dtype.kind in "iu" and len(np.unique(index._host)) < index.size:
        raise AssertionError(f"rows are assigned to more than once: {index._host}")


def _own(values, order="C"):
    """Return a copy, C-contiguous. With the order "K", a Fortran-ordered array stays so."""
    fortran = order == "K" and values.flags.f_contiguous and not values.flags.c_contiguous
    host = allocate(np.shape(values), values.dtype, "F" if fortran else "C")
    host[...] = values
    return host


# The functions of the module cupy.


def empty(shape, dtype=float):
    return ndarray(allocate(shape, dtype), current_device)


def zeros(shape, dtype=float):
    array = empty(shape, dtype)
    array.fill(0)
    return array


def asarray(a, dtype=None):
    if isinstance(a, ndarray):
        return a if dtype is None or a.dtype == np.dtype(dtype) else a.astype(dtype)
    if hasattr(a, "__cuda_array_interface__"):
        return asarray(_from_interface(a), dtype)
    return ndarray(_own(np.asarray(a, dtype), "K"), current_device)


def _from_interface(a):
    """Read as CuPy does: without a copy, waiting for a stream, on the device of the pointer."""
    interface = a.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise ValueError("CuPy currently does not support masked arrays.")
    shape, dtype, strides = interface["shape"], np.dtype(interface["typestr"]), interface.get("strides")
    if dtype.kind == "V":
        raise ValueError(f"Unsupported dtype {dtype}")
    if interface.get("stream") is not None:
        streams.synchronized(interface["stream"])
    address = interface["data"][0]
    if 0 in shape:
        return ndarray(np.empty(shape, dtype), current_device)
    found = memory.find(address, dtype.itemsize)
    whole = (ctypes.c_ubyte * found.size).from_address(found.address)
    whole._owner = a  # keeps the owner alive as long as the view
    return ndarray(np.ndarray(shape, dtype, whole, address - found.address, strides), found.device)


def from_dlpack(array, *, device=None, copy=None):
    """Import as CuPy does: the producer is told the current stream of its device."""
    if device is not None:
        raise NotImplementedError("from_dlpack() does not support device yet.")
    kind, index = array.__dlpack_device__()
    if kind == dlpack.CPU:
        raise TypeError("CPU arrays cannot be directly imported to CuPy. Use `cupy.array(numpy.from_dlpack(input))`")
    if kind != dlpack.CUDA:
        raise TypeError(f"Unsupported array type: {kind}")
    with Device(index):
        stream = streams.get_current_stream().ptr or streams.LEGACY
        try:
            capsule = array.__dlpack__(stream=stream, max_version=(1, 0), copy=copy)
        except TypeError:
            capsule = array.__dlpack__(stream=stream)
    return ndarray(dlpack.to_host(capsule), index)


def ascontiguousarray(a, dtype=None):
    a = asarray(a, dtype)
    if a.flags.c_contiguous:
        return a
    if a._device_id != current_device:
        raise ValueError("a kernel of this GPU would reach for another's memory")
    streams.launched("copy")
    return a.copy()


def broadcast_to(array, shape):
    return array._view(np.broadcast_to(array._host, shape))


def concatenate(tup, axis=0):
    return ndarray(_own(np.concatenate([array._host for array in tup], axis)), current_device)


def stack(tup, axis=0):
    return ndarray(_own(np.stack([array._host for array in tup], axis)), current_device)


def where(condition, x, y):
    values = [a._host if isinstance(a, ndarray) else a for a in (condition, x, y)]
    return condition._new(np.where(*values))


def abs(a):
    return a._new(np.abs(a._host))


from . import graphs, streams  # noqa: E402, as these need devices, and arrays them
