"""The parts of PyTorch that the package uses, over CuPy's arrays, for machines where the real PyTorch has no GPU.

This module replaces the module torch. Like PyTorch, it refuses NumPy views of tensors on a GPU, and of bfloat16. It
also refuses the CUDA array interface of tensors on the CPU, and of tensors that require grad.
"""

import contextlib
import sys
import types
import weakref

import ml_dtypes
import numpy as np


class Dtype:
    def __init__(self, name, numpy):
        self.name, self.numpy = name, np.dtype(numpy)

    def __repr__(self):
        return f"torch.{self.name}"


float64, float32, float16 = Dtype("float64", "f8"), Dtype("float32", "f4"), Dtype("float16", "f2")
bfloat16, int16, bool_ = Dtype("bfloat16", ml_dtypes.bfloat16), Dtype("int16", "i2"), Dtype("bool", "?")
_DTYPES = {dtype.numpy: dtype for dtype in (float64, float32, float16, bfloat16, int16, bool_)}


class Tensor:
    """A tensor that wraps a CuPy or NumPy array."""

    def __init__(self, array, requires_grad=False, negative=False):
        self.array, self.requires_grad, self._negative = array, requires_grad, negative
        self.is_cpu = isinstance(array, np.ndarray)
        self.is_cuda = not self.is_cpu
        self.dtype, self.shape = _DTYPES[array.dtype], array.shape
        index = array.device.id if self.is_cuda else None
        self.device = types.SimpleNamespace(type="cuda" if self.is_cuda else "cpu", index=index)

    def is_neg(self):
        return self._negative

    def data_ptr(self):
        if not self.array.size:
            return 0
        return self.array.data.ptr if self.is_cuda else self.array.ctypes.data

    def detach(self):
        return Tensor(self.array, negative=self._negative)

    def view(self, dtype):
        return Tensor(self.array.view(dtype.numpy), self.requires_grad, self._negative)

    def cpu(self):
        return Tensor(self.array.get(), negative=self._negative) if self.is_cuda else self

    def resolve_conj(self):
        return self

    def resolve_neg(self):
        return Tensor(self.array * -1) if self._negative else self

    def numpy(self):
        if self.is_cuda:
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        if self._negative:
            raise RuntimeError("Can't call numpy() on Tensor that has negative bit set.")
        if self.requires_grad or self.dtype is bfloat16:
            raise RuntimeError(
                "Can't call numpy() on Tensor that requires grad, or got unsupported ScalarType BFloat16"
            )
        return self.array

    def __array__(self, dtype=None):
        return self.numpy()

    def __getitem__(self, index):
        return Tensor(self.array[index])

    @property
    def T(self):
        return Tensor(self.array.T)

    @property
    def __cuda_array_interface__(self):
        if not self.is_cuda:
            raise AttributeError("Can't get __cuda_array_interface__ on non-CUDA tensor type")
        if self.requires_grad:
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")
        interface = self.array.__cuda_array_interface__
        return {name: interface[name] for name in ("typestr", "shape", "strides")} | {
            "data": (self.data_ptr(), False),
            "version": 2,
        }

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **_):
        raise AssertionError("PyTorch's own DLPack would wait for streams tensor by tensor")


_current = {}  # the current stream of each GPU, if it isn't the default one
asked = []  # the GPUs whose current stream was queried
made = []  # weak references to the tensors from `empty`


class cuda:  # noqa: N801 - as in PyTorch
    @staticmethod
    def is_initialized():
        return True

    @staticmethod
    def current_stream(device=None):
        asked.append(device)
        return types.SimpleNamespace(cuda_stream=_current[device].ptr if device in _current else 0)

    @staticmethod
    def set_stream(stream, device=0):
        """Make one of CuPy's streams the current one of a GPU. None means the default stream."""
        _current.pop(device, None)
        if stream is not None:
            _current[device] = stream


@contextlib.contextmanager
def installed(monkeypatch):
    """Install this module as torch, and yield it. Reset its current streams afterwards."""
    module = sys.modules[__name__]
    monkeypatch.setitem(sys.modules, "torch", module)
    try:
        yield module
    finally:
        _current.clear()


def empty(*size, dtype, device):
    """Return memory of PyTorch's own allocator."""
    import cupy

    name, _, index = device.partition(":")
    assert name == "cuda", device
    with cupy.cuda.Device(int(index)):
        tensor = Tensor(cupy.empty(*size, dtype.numpy))
    made.append(weakref.ref(tensor))
    return tensor


def from_dlpack(ext_tensor):
    """Import from a GPU as PyTorch does: the producer is told the current stream of the array's GPU."""
    import cupy

    _, index = ext_tensor.__dlpack_device__()
    with cupy.cuda.Device(index), _current.get(index, cupy.cuda.Stream.null):
        return Tensor(cupy.from_dlpack(ext_tensor))
