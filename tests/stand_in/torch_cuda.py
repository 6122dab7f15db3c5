"""A stand-in for the used parts of PyTorch's CUDA side, over the stand-in's device arrays. It has CPU tensors too.

Like PyTorch, it refuses a NumPy view of a tensor on a GPU or of bfloat16, and `from_numpy` of read-only arrays. It also
refuses the CUDA array interface of a tensor on the CPU, or of one that requires grad.
"""

import types
import warnings
import weakref

import ml_dtypes
import numpy as np

from . import arrays, dlpack, streams


class Dtype:
    def __init__(self, name, numpy, typestr):
        self.name, self.numpy, self.typestr = name, np.dtype(numpy), typestr

    def __repr__(self):
        return f"torch.{self.name}"


_DTYPES = {
    "float64": Dtype("float64", np.float64, "<f8"),
    "float32": Dtype("float32", np.float32, "<f4"),
    "float16": Dtype("float16", np.float16, "<f2"),
    "bfloat16": Dtype("bfloat16", ml_dtypes.bfloat16, "<V2"),
    "int16": Dtype("int16", np.int16, "<i2"),
    "bool": Dtype("bool", np.bool_, "|b1"),
}


def _of(dtype):
    return next(ours for ours in _DTYPES.values() if ours.numpy == dtype)


class Tensor:
    """A tensor over a device array of the stand-in, or over a NumPy array."""

    def __init__(self, array, requires_grad=False, negative=False):
        self._array, self.requires_grad, self._negative = array, requires_grad, negative
        self.is_cuda = isinstance(array, arrays.ndarray)
        self.is_cpu = not self.is_cuda
        self.dtype, self.shape = _of(array.dtype), array.shape
        index = array.device.id if self.is_cuda else None
        self.device = types.SimpleNamespace(type="cuda" if self.is_cuda else "cpu", index=index)

    def is_neg(self):
        return self._negative

    def is_conj(self):
        return False

    def numel(self):
        return self._array.size

    def data_ptr(self):
        if not self.numel():
            return 0
        return self._array.data.ptr if self.is_cuda else self._array.ctypes.data

    def detach(self):
        return Tensor(self._array, negative=self._negative)

    def view(self, dtype):
        return Tensor(self._array.view(dtype.numpy), self.requires_grad, self._negative)

    def cpu(self):
        return Tensor(self._array.get(), negative=self._negative) if self.is_cuda else self

    def resolve_conj(self):
        return self

    def resolve_neg(self):
        return Tensor(self._array * -1) if self._negative else self

    def numpy(self):
        if self.is_cuda:
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        if self._negative:
            raise RuntimeError("Can't call numpy() on Tensor that has negative bit set.")
        if self.requires_grad or self.dtype is bfloat16:
            raise RuntimeError(
                "Can't call numpy() on Tensor that requires grad, or got unsupported ScalarType BFloat16"
            )
        return self._array

    def __array__(self, dtype=None):
        return self.numpy()

    def __getitem__(self, index):
        return Tensor(self._array[index])

    @property
    def __cuda_array_interface__(self):
        if not self.is_cuda:
            raise AttributeError("Can't get __cuda_array_interface__ on non-CUDA tensor type")
        if self.requires_grad:
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")
        strides = None if self._array.flags.c_contiguous else self._array.strides
        data = (self.data_ptr(), False)
        return {
            "typestr": self.dtype.typestr, "shape": self.shape, "strides": strides, "data": data, "version": 2,
        }  # fmt: skip

    def __dlpack_device__(self):
        return (dlpack.CUDA, self.device.index) if self.is_cuda else (dlpack.CPU, 0)

    def __dlpack__(self, **_):
        raise AssertionError("PyTorch's own protocol would wait for streams tensor by tensor")


float64, float32, float16, bfloat16, int16 = (
    _DTYPES[name] for name in ("float64", "float32", "float16", "bfloat16", "int16")
)

_current = {}  # device -> handle of the stream
asked = []  # the devices whose current stream was queried
made = []  # weak references to the tensors from `empty`


class cuda:
    @staticmethod
    def is_initialized():
        return True

    @staticmethod
    def current_stream(device=None):
        asked.append(device)
        return types.SimpleNamespace(cuda_stream=_current.get(device, 0))

    @staticmethod
    def set_stream(handle, device=0):
        """Make a stream the current one of a GPU. None means the default stream."""
        _current.pop(device, None)
        if handle is not None:
            _current[device] = handle


def empty(*size, dtype, device):
    """Return memory of PyTorch's own allocator."""
    name, _, index = device.partition(":")
    assert name == "cuda", device
    with arrays.Device(int(index)):
        tensor = Tensor(arrays.empty(*size, dtype.numpy))
    made.append(weakref.ref(tensor))
    return tensor


def from_numpy(array):
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    if not array.flags.writeable:
        warnings.warn("The given NumPy array is not writable", UserWarning, stacklevel=2)
    if array.dtype == ml_dtypes.bfloat16:
        raise TypeError("can't convert np.ndarray of type ml_dtypes.bfloat16.")
    return Tensor(array)


def from_dlpack(ext_tensor):
    """Import as PyTorch does: the producer is told the current stream of the array's GPU."""
    kind, index = ext_tensor.__dlpack_device__()
    stream = {"stream": cuda.current_stream(index).cuda_stream or streams.LEGACY} if kind == dlpack.CUDA else {}
    capsule = ext_tensor.__dlpack__(max_version=(1, 0), **stream)
    if kind == dlpack.CPU:
        return Tensor(np.from_dlpack(dlpack.Consumed(capsule)))
    return Tensor(arrays.ndarray(dlpack.to_host(capsule), index))
