"""The libraries whose arrays are taken and returned without a copy: PyTorch, and all that speak a protocol.

A library says where an array is, makes NumPy's or CuPy's view of it, and its own array of theirs. None is
imported here: an array of a library comes from a program that has imported it.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fusedlstm.arrays import dlpack, dtypes
from fusedlstm.validation.arguments import describe_type, fail
from fusedlstm.validation.subclasses import check_plain

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.base import Backend


# XLA copies host memory whose address is no multiple of it.
_XLA_ALIGNMENT = 64


class View:
    """A backend's array over another library's memory, and whether that library allows to write there."""

    __slots__ = ("array", "writeable")

    def __init__(self, array: Array, writeable: bool) -> None:
        self.array = array
        self.writeable = writeable


class Library(Protocol):
    """What is needed of a library."""

    @property
    def immutable(self) -> bool:
        """Whether its arrays never change, so that none can be written."""

    def place(self, array: Any) -> str:
        """Return the device that an array is on: "cpu", "cuda:0", "mps:0", ... "cuda" where only a view tells which."""

    def stream(self, index: int) -> int | None:
        """Return the CUDA stream of a GPU that the array's library works on; None where nobody tells it.

        Then the work is in order with what its library has queued before, but not with what it queues next.
        """

    def view(self, array: Any, backend: Backend) -> View:
        """Return the backend's view of an array on its device; what the library raises, it raises."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], backend: Backend) -> tuple[Array, Any]:
        """Return an uninitialised array of the backend, and the library's own over its memory.

        That is None where `give` makes one, without a copy, of what has been written.
        """

    def give(self, array: Array) -> Any:
        """Return the library's array over the memory of a backend's, which is new and stays unchanged."""

    def cast(self, name: str, dtype: np.dtype[Any]) -> str:
        """Return how its users write a cast."""


class Torch:
    """PyTorch: `numpy()` and `from_numpy` on the CPU, the CUDA array interface and DLPack on a GPU."""

    immutable = False

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def place(self, tensor: Any) -> str:
        """Return the device that a tensor is on."""
        if tensor.is_cpu:
            return "cpu"
        device = tensor.device
        return str(device.type) if device.index is None else f"{device.type}:{device.index}"

    def stream(self, index: int) -> int | None:
        """Return PyTorch's current stream of a GPU."""
        return int(self._torch.cuda.current_stream(index).cuda_stream)

    def view(self, tensor: Any, backend: Backend) -> View:
        """Return the view of a tensor without gradient."""
        if tensor.is_neg():  # of a GPU, the interface says nothing of it
            raise BufferError("its negative bit is set, so its memory holds other numbers, and resolve_neg() its own")
        wide = tensor.dtype is not self._torch.bfloat16
        bits = tensor if wide else tensor.view(self._torch.int16)
        array = bits.numpy() if backend.name == "numpy" else backend.from_interface(bits)
        return View(array if wide else array.view(dtypes.resolve("bfloat16")), writeable=True)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], backend: Backend) -> tuple[Array, Any]:
        """Return an array; on a GPU in memory of PyTorch, which reuses it in the order of the streams it knows."""
        if backend.name == "numpy":
            return backend.empty(shape, dtype), None
        tensor = self._torch.empty(shape, dtype=getattr(self._torch, dtype.name), device=backend.device)
        return self.view(tensor, backend).array, tensor

    def give(self, array: Array) -> Any:
        """Return the tensor over an array."""
        wide = not dtypes.is_bfloat16(array.dtype)
        bits = array if wide else array.view(np.int16)
        torch = self._torch
        if isinstance(bits, np.ndarray):
            # Of memory that is read-only, which PyTorch knows no way to say, it gets a copy.
            tensor = torch.from_numpy(bits if bits.flags.writeable else bits.copy())
        else:
            tensor = torch.from_dlpack(bits)
        return tensor if wide else tensor.view(torch.bfloat16)

    def cast(self, name: str, dtype: np.dtype[Any]) -> str:
        """Return a cast in PyTorch's words."""
        return f"{name}.to(torch.{dtype.name})"


class _Other:
    """What all but PyTorch do alike."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], backend: Backend) -> tuple[Array, Any]:
        """Return an array of the backend alone."""
        return backend.empty(shape, dtype), None

    def cast(self, name: str, dtype: np.dtype[Any]) -> str:
        """Return a cast as in NumPy."""
        return f'{name}.astype("{dtype.name}")'


class Dlpack(_Other):
    """Whatever has `__dlpack__`, JAX among them; results are given to what has `__array_namespace__`, too.

    The producer makes our stream wait for its own; the consumer of a result its own for ours. Nothing makes
    the library wait before it goes on with what it gave.
    """

    def __init__(self, array: Any, *, jax: bool) -> None:
        self._array = array
        self._jax = self.immutable = jax

    def place(self, array: Any) -> str:
        """Return the device that an array is on, or why it names none: it may be on several, or deleted."""
        try:
            return dlpack.place_of(array)
        except Exception as error:  # each library has its own
            return f"no device that it names ({str(error).partition(chr(10))[0]})"

    def stream(self, index: int) -> int | None:
        """Return None: the protocol doesn't tell."""
        del index
        return None

    def view(self, array: Any, backend: Backend) -> View:
        """Return the view of an array."""
        incoming = dlpack.Incoming(array)
        view = backend.from_dlpack(incoming)
        if incoming.is_bfloat16:
            view = view.view(dtypes.resolve("bfloat16"))
        return View(view, not (incoming.read_only or self.immutable))

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], backend: Backend) -> tuple[Array, Any]:
        """Return an array of the backend alone, which in host memory is aligned as JAX wants it, else copied."""
        if not self._jax or backend.name != "numpy":
            return super().empty(shape, dtype, backend)
        size = math.prod(shape) * dtype.itemsize
        memory = np.empty(size + _XLA_ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _XLA_ALIGNMENT
        return memory[start : start + size].view(dtype).reshape(shape), None

    def give(self, array: Array) -> Any:
        """Return the library's array, or the backend's own where the library names no function that makes one."""
        namespace = self._array.__array_namespace__() if hasattr(self._array, "__array_namespace__") else None
        make = getattr(namespace, "from_dlpack", None)
        if make is None:
            return array
        flags = array.flags
        if not getattr(flags, "writeable", True) or (self._jax and not flags.c_contiguous):
            array = array.copy()  # protocols don't say read-only, and JAX has no views
        if dtypes.is_bfloat16(array.dtype):
            return make(dlpack.Outgoing(array.view(np.int16)))
        if self._jax and array.dtype == np.float64:  # x may outlive the mode in which it could be made
            with _jax_with_float64():
                return make(array)
        return make(array)


def _jax_with_float64() -> Any:
    """Return the context in which JAX has 64-bit types; older versions keep it elsewhere."""
    jax = sys.modules["jax"]
    return (jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64)(True)


class Interface(_Other):
    """Whatever has `__cuda_array_interface__` and nothing else; results are CuPy's.

    The interface may name a stream that the array's data is ready on, and where it is used next.
    """

    immutable = False

    def __init__(self, array: Any, interface: dict[str, Any]) -> None:
        self._array = array
        self._interface = interface

    def place(self, array: Any) -> str:
        """Return "cuda": which GPU it is, only a view tells."""
        del array
        return "cuda"

    def stream(self, index: int) -> int | None:
        """Return the stream that the interface names, if it does."""
        del index
        stream: int | None = self._interface.get("stream")
        return stream

    def view(self, array: Any, backend: Backend) -> View:
        """Return the view of an array; two bytes of no type, as which NumPy describes it, are bfloat16."""
        interface = {**self._interface, "stream": None}  # for which CuPy would wait on the host
        bits = interface["typestr"][1:] == "V2"
        if bits:
            interface["typestr"] = "<i2"
        view = backend.from_interface(_Described(array, interface))
        return View(view.view(dtypes.resolve("bfloat16")) if bits else view, not interface["data"][1])

    def give(self, array: Array) -> Any:
        """Return the array itself."""
        return array


class _Described:
    """An array with another interface than its own; it keeps the array alive."""

    def __init__(self, array: Any, interface: dict[str, Any]) -> None:
        self._array = array
        self.__cuda_array_interface__ = interface


def current_streams(index: int) -> list[int]:
    """Return the current streams of a GPU of the libraries that the program uses there, as far as they tell."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    return [int(torch.cuda.current_stream(index).cuda_stream)]


def library_of(array: Any) -> Library | None:
    """Return the library of an array; None for NumPy's, and for what is no array of any library."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return _torch(torch)
    if isinstance(array, (np.ndarray, np.generic)):
        return None
    kind = type(array)
    if hasattr(kind, "__dlpack__") and hasattr(kind, "__dlpack_device__"):
        return Dlpack(array, jax=kind.__module__.partition(".")[0] in ("jax", "jaxlib"))
    interface = getattr(array, "__cuda_array_interface__", None)
    return None if interface is None else Interface(array, interface)


def view_of(name: str, array: Any, library: Library, backend: Backend) -> View:
    """Return the view of an array, or raise in the words of an argument's error."""
    check_plain(name, array)
    try:
        return library.view(array, backend)
    except Exception as error:  # libraries raise many kinds: of sparse, quantised, traced, sharded, deleted arrays
        text = str(error).partition("\n")[0]
        fail(TypeError, name, "an array whose memory can be shared", f"a {describe_type(array)}: {text}")


@functools.lru_cache(maxsize=1)
def _torch(torch: Any) -> Torch:
    return Torch(torch)
