"""Arrays of other libraries for tests: how to make one from a NumPy array, and where its memory is.

On the CPU and on a GPU, PyTorch and JAX are real. On the emulated GPU they are pretended. Both GPUs also have libraries
that only one protocol reaches (gpu_libraries/).
"""

import contextlib
import importlib
import os
import sys
import types

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMState, LSTMWeights
from fusedlstm.arrays.dlpack import Outgoing

from support.backends import BACKENDS
from support.gpu_libraries import dlpack, interface, pretended_torch

# Otherwise JAX takes most of a GPU's memory when it starts, and other libraries are tested there, too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

B, I, N, P = 5, 3, 4, 2


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
        from fusedlstm.arrays.host import to_host

        return to_host("tensor", tensor)

    mode = staticmethod(contextlib.nullcontext)
    written = True
    gives = True  # results are the library's own arrays
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

    backend, platform = "numpy", "cpu"
    written, gives = False, True
    refusal = TypeError, "a jaxlib.*, which never changes"
    cast = 'x.astype("float32")'

    def __init__(self, monkeypatch):
        self.jax = pytest.importorskip("jax", reason="JAX is not installed")
        self.type = self.jax.Array
        try:
            self.device = self.jax.devices(self.platform)[0]
        except RuntimeError as error:
            pytest.skip(f"JAX has no {self.platform} here: {error}")

    def make(self, array):
        with self.jax.enable_x64(True), self.jax.default_device(self.device):
            made = self.jax.numpy.array(array, copy=True).block_until_ready()
        assert made.dtype == array.dtype
        return made

    def address(self, array):
        return array.unsafe_buffer_pointer()

    def host(self, array):
        return np.asarray(array)


class JaxOnGpu(Jax):
    """The real JAX, on a GPU."""

    backend, platform = "cuda", "gpu"


class OnlyDlpack:
    """An array in host memory that only DLPack reaches."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **options):
        if self.array.dtype.name != "bfloat16":
            return self.array.__dlpack__(**options)
        return Outgoing(self.array.view("i2")).__dlpack__()  # in version 0


class DlpackOnCpu:
    """A library that supports DLPack alone, in version 0 or 1, and makes no arrays for results."""

    backend, type = "numpy", OnlyDlpack
    # Older NumPys import all DLPack arrays as read-only. All versions do if the capsule has no flag for it.
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


class DlpackOnGpu:
    """A library on a GPU, real or emulated, that supports DLPack alone."""

    backend, type = "cuda", dlpack.OnlyDlpack
    written, gives = True, False
    cast = 'x.astype("float32")'

    def __init__(self, monkeypatch):
        pass

    def make(self, array):
        return self.type(importlib.import_module("cupy").asarray(array.copy()))

    def address(self, array):
        return array.array.data.ptr

    def host(self, array):
        return array.array.get()


class NamespaceOnGpu(DlpackOnGpu):
    """A library on a GPU, real or emulated, that supports DLPack and makes arrays for results."""

    type, gives = dlpack.WithNamespace, True


class InterfaceOnGpu(DlpackOnGpu):
    """A library on a GPU, real or emulated, that supports only the CUDA array interface."""

    type = interface.OnlyInterface


class TorchEmulated(DlpackOnGpu):
    """The pretended PyTorch, on the emulated GPU."""

    type, gives = pretended_torch.Tensor, True
    cast = TorchOnCpu.cast

    def __init__(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", pretended_torch)


class JaxEmulated(NamespaceOnGpu):
    """A library on the emulated GPU that looks like JAX."""

    type, written = dlpack.Immutable, False
    refusal = Jax.refusal

    def __init__(self, monkeypatch):
        jax = types.SimpleNamespace(enable_x64=lambda on: contextlib.nullcontext())
        monkeypatch.setitem(sys.modules, "jax", jax)


class Native:
    """The backend's own arrays."""

    written, gives = True, True

    def __init__(self, backend):
        self.backend = backend
        self.module = importlib.import_module("numpy" if backend == "numpy" else "cupy")
        self.type = self.module.ndarray

    def make(self, array):
        return self.module.asarray(array.copy())

    def address(self, array):
        return array.ctypes.data if self.backend == "numpy" else array.data.ptr

    def host(self, array):
        return array if self.backend == "numpy" else array.get()


ON_CPU = [TorchOnCpu, Jax, DlpackOnCpu] if "numpy" in BACKENDS else []
ON_ANY_GPU = [DlpackOnGpu, NamespaceOnGpu, InterfaceOnGpu]
ON_GPU = ([TorchEmulated, JaxEmulated, *ON_ANY_GPU] if "emulated" in BACKENDS else []) + (
    [TorchOnGpu, JaxOnGpu, *ON_ANY_GPU] if "cuda" in BACKENDS else []
)


class Case:
    """A cell, and its arguments as NumPy arrays."""

    def __init__(self, backend, dtype="float32", proj_size=None, batch=B, **options):
        self.cell = LSTMCell(LSTMWeights.random(I, N, proj_size=proj_size, dtype=dtype, seed=0), backend=backend)
        rng, weights = np.random.default_rng(batch), self.cell.weights
        c_dtype = np.float32 if weights.dtype.itemsize == 2 else weights.dtype
        self.x = rng.normal(size=(batch, I)).astype(weights.dtype)
        self.h = rng.uniform(-1, 1, (batch, weights.output_size)).astype(weights.dtype)
        self.c = rng.normal(size=(batch, N)).astype(c_dtype)
        self.first = np.arange(batch) % 2 == 0
        self.reset_h, self.reset_c = self.h[:1] * 0 + 1, self.c[:1] * 0 + 2
        self.native = Native(backend)

    def call(self, make, **changes):
        """Return the cell's result for arguments that `make` makes."""
        make = {name: changes.pop(name, make) for name in ("x", "h", "c", "first", "reset_h", "reset_c")}
        made = {name: function(getattr(self, name)) for name, function in make.items()}
        return self.cell(
            made["x"],
            LSTMState(h=made["h"], c=made["c"]),
            is_first=made["first"],
            reset_to=LSTMState(h=made["reset_h"], c=made["reset_c"]),
            **changes,
        )

    def wanted(self):
        return self.call(self.native.make).to_numpy()

    def out(self, make):
        return LSTMState(h=make(np.full_like(self.h, 7)), c=make(np.full_like(self.c, 7)))


def bits(array):
    return np.ascontiguousarray(array).view(np.uint8)


def assert_state(library, got, wanted):
    """Assert that a state has the wanted bits, in the library's result type."""
    for part in ("h", "c"):
        array, right = getattr(got, part), getattr(wanted, part)
        values = library.host(array)
        assert (values.shape, values.dtype) == (right.shape, right.dtype)
        np.testing.assert_array_equal(bits(values), bits(right))
