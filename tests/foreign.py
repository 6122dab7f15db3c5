"""Arrays of other libraries for tests: how each makes one of NumPy's, and where its memory is.

On the CPU they are the real PyTorch and JAX; on the emulated GPU stand-ins; on a GPU the real PyTorch.
"""

import contextlib
import sys
import types

import numpy as np
import pytest

from conftest import BACKENDS
from stand_in import arrays, dlpack, others, torch_cuda


class TorchOnCpu:
    """The real PyTorch."""

    backend, device = "numpy", "cpu"

    def __init__(self, monkeypatch):
        self.torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        self.type = self.torch.Tensor

    def make(self, array):
        if array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.view(np.int16).copy()).view(self.torch.bfloat16).to(self.device)
        return self.torch.from_numpy(array.copy()).to(self.device)

    def address(self, tensor):
        return tensor.data_ptr()

    def host(self, tensor):
        from fusedlstm.interop import to_host

        return to_host("tensor", tensor)

    mode = staticmethod(contextlib.nullcontext)
    written = True
    gives = True  # an array of its own as the result
    cast = "x.to(torch.float32)"


class TorchOnGpu(TorchOnCpu):
    """The real PyTorch on a GPU."""

    backend, device = "cuda", "cuda"

    def __init__(self, monkeypatch):
        super().__init__(monkeypatch)
        if not self.torch.cuda.is_available():
            pytest.skip("PyTorch has no GPU here")


class Jax:
    """The real JAX, on the CPU."""

    backend, mode = "numpy", None
    written, gives = False, True
    refusal = TypeError, "a jaxlib.*, which never changes"
    cast = 'x.astype("float32")'

    def __init__(self, monkeypatch):
        self.jax = pytest.importorskip("jax", reason="JAX is not installed")
        self.type = self.jax.Array

    def make(self, array):
        with self.jax.enable_x64(True):
            made = self.jax.numpy.array(array, copy=True).block_until_ready()
        assert made.dtype == array.dtype
        return made

    def address(self, array):
        return array.unsafe_buffer_pointer()

    def host(self, array):
        return np.asarray(array)


class OnlyDlpack:
    """An array in host memory that nothing but DLPack reaches."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **options):
        if self.array.dtype.name != "bfloat16":
            return self.array.__dlpack__(**options)
        capsule = self.array.view("i2").__dlpack__()
        dlpack.Tensor(capsule).code = dlpack.BFLOAT
        return capsule


class DlpackOnCpu:
    """A library that has DLPack alone, in its first or its second version, and no array for results."""

    backend, type = "numpy", OnlyDlpack
    # Older NumPys take whatever comes by DLPack for read-only, and all do with a capsule that can't say it.
    written = np.lib.NumpyVersion(np.__version__) >= "2.1.0"
    gives = False
    refusal = ValueError, "a read-only one"
    cast = 'x.astype("float32")'

    def __init__(self, monkeypatch):
        pass

    def make(self, array):
        return self.type(array.copy())

    def address(self, array):
        return array.array.ctypes.data

    def host(self, array):
        return array.array


class TorchEmulated:
    """The stand-in for PyTorch on the emulated GPU."""

    backend, type = "cuda", torch_cuda.Tensor
    written, gives = True, True
    cast = "x.to(torch.float32)"

    def __init__(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", torch_cuda)

    def make(self, array):
        return self.type(arrays.asarray(array.copy()))

    def address(self, array):
        return array._array.data.ptr

    def host(self, array):
        return array._array.get()


class DlpackEmulated(TorchEmulated):
    """A library on the emulated GPU that has DLPack alone."""

    type = others.OnlyDlpack
    gives = False
    cast = 'x.astype("float32")'

    def __init__(self, monkeypatch):
        pass


class NamespaceEmulated(DlpackEmulated):
    """... and makes arrays of results."""

    type = others.WithNamespace
    gives = True


class JaxEmulated(NamespaceEmulated):
    """What looks like JAX on the emulated GPU."""

    type = others.Immutable
    written = False
    refusal = Jax.refusal
    host = DlpackEmulated.host

    def __init__(self, monkeypatch):
        jax = types.SimpleNamespace(enable_x64=lambda on: contextlib.nullcontext())
        monkeypatch.setitem(sys.modules, "jax", jax)


class InterfaceEmulated(DlpackEmulated):
    """A library on the emulated GPU that has the CUDA array interface alone."""

    type = others.OnlyInterface


class Native:
    """The backend's own."""

    written, gives = True, True

    def __init__(self, backend):
        self.backend = backend
        self.module = sys.modules["numpy" if backend == "numpy" else "cupy"]
        self.type = self.module.ndarray

    def make(self, array):
        return self.module.asarray(array.copy())

    def address(self, array):
        return array.ctypes.data if self.backend == "numpy" else array.data.ptr

    def host(self, array):
        return array if self.backend == "numpy" else array.get()


ON_CPU = [TorchOnCpu, Jax, DlpackOnCpu] if "numpy" in BACKENDS else []
EMULATED = [TorchEmulated, DlpackEmulated, NamespaceEmulated, JaxEmulated, InterfaceEmulated]
ON_GPU = (EMULATED if "emulated" in BACKENDS else []) + ([TorchOnGpu] if "cuda" in BACKENDS else [])
