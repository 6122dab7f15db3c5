"""Arrays of other libraries for tests: how to make one from a NumPy array, and where its memory is.

On the CPU, PyTorch and JAX are real. On the emulated GPU, stand-ins replace them. On a GPU, they are real again. Both
GPUs also have wrappers of CuPy's arrays, which need no other library.
"""

import contextlib
import os
import sys
import types

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMState, LSTMWeights
from fusedlstm.arrays import dtypes
from fusedlstm.arrays.dlpack import Incoming, Outgoing

from stand_in import arrays, dlpack, others, torch_cuda
from support.backends import BACKENDS

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
    refusal = TypeError, "a jaxlib.*, which is immutable"
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
        capsule = self.array.view("i2").__dlpack__()
        dlpack.Tensor(capsule).code = dlpack.BFLOAT
        return capsule


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
    """A library on the emulated GPU that supports DLPack alone."""

    type = others.OnlyDlpack
    gives = False
    cast = 'x.astype("float32")'

    def __init__(self, monkeypatch):
        pass


class NamespaceEmulated(DlpackEmulated):
    """A library on the emulated GPU that supports DLPack and makes arrays for results."""

    type = others.WithNamespace
    gives = True


class JaxEmulated(NamespaceEmulated):
    """A library on the emulated GPU that looks like JAX."""

    type = others.Immutable
    written = False
    refusal = Jax.refusal
    host = DlpackEmulated.host

    def __init__(self, monkeypatch):
        jax = types.SimpleNamespace(enable_x64=lambda on: contextlib.nullcontext())
        monkeypatch.setitem(sys.modules, "jax", jax)


class InterfaceEmulated(DlpackEmulated):
    """A library on the emulated GPU that supports only the CUDA array interface."""

    type = others.OnlyInterface


class Wrapped:
    """A CuPy array, real or emulated, of a library with its own stream. Only a protocol reaches it.

    The default stream is CuPy's current one.
    """

    def __init__(self, array, stream=None):
        self.array, self.stream = array, stream

    def in_stream(self):
        return contextlib.nullcontext() if self.stream is None else self.stream


class WrappedDlpack(Wrapped):
    """An array that only DLPack reaches, in bfloat16 too."""

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options):
        bits = self.array.dtype.name == "bfloat16"
        with self.in_stream():
            return (Outgoing(self.array.view(np.int16)) if bits else self.array).__dlpack__(**options)


class WrappedNamespace(WrappedDlpack):
    """An array from a library that imports arrays of others, on CuPy's current stream."""

    def __array_namespace__(self, *, api_version=None):
        return types.SimpleNamespace(from_dlpack=type(self).take)

    @classmethod
    def take(cls, array):
        incoming = Incoming(array)
        taken = sys.modules["cupy"].from_dlpack(incoming)
        return cls(taken.view(dtypes.resolve("bfloat16")) if incoming.is_bfloat16 else taken)


class WrappedInterface(Wrapped):
    """An array that only the CUDA array interface reaches. The interface names the given stream."""

    @property
    def __cuda_array_interface__(self):
        bits = self.array.dtype.name == "bfloat16"
        interface = dict((self.array.view(np.int16) if bits else self.array).__cuda_array_interface__)
        interface["stream"] = None if self.stream is None else self.stream.ptr
        return interface | ({"typestr": "<V2"} if bits else {})


class DlpackOnGpu:
    """A library on a GPU, real or emulated, that supports DLPack alone."""

    backend, type = "cuda", WrappedDlpack
    written, gives = True, False
    cast = 'x.astype("float32")'

    def __init__(self, monkeypatch):
        pass

    def make(self, array):
        return self.type(sys.modules["cupy"].asarray(array.copy()))

    def address(self, array):
        return array.array.data.ptr

    def host(self, array):
        return array.array.get()


class NamespaceOnGpu(DlpackOnGpu):
    """A library on a GPU, real or emulated, that supports DLPack and makes arrays for results."""

    type, gives = WrappedNamespace, True


class InterfaceOnGpu(DlpackOnGpu):
    """A library on a GPU, real or emulated, that supports only the CUDA array interface."""

    type = WrappedInterface


class Native:
    """The backend's own arrays."""

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
ON_BOTH = [DlpackOnGpu, NamespaceOnGpu, InterfaceOnGpu]
ON_GPU = ([*EMULATED, *ON_BOTH] if "emulated" in BACKENDS else []) + (
    [TorchOnGpu, JaxOnGpu, *ON_BOTH] if "cuda" in BACKENDS else []
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
