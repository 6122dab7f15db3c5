"""The libraries whose arrays are taken and returned without a copy: PyTorch, and all with a protocol.

A library says where an array is, makes NumPy's or CuPy's view of it, and makes its own array from theirs. No library is
imported here. Whoever passes an array has imported its library.
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


# XLA copies host memory unless its address is a multiple of this.
_XLA_ALIGNMENT = 64


class View:
    """A backend's array over another library's memory, and whether that library allows writing there."""

    __slots__ = ("array", "writeable")

    def __init__(self, array: Array, writeable: bool) -> None:
        self.array = array
        self.writeable = writeable


class Library(Protocol):
    """The interface to a library."""

    @property
    def immutable(self) -> bool:
        """Whether its arrays are immutable."""

    def place(self, array: Any) -> str:
        """Return the device of an array: "cpu", "cuda:0", "mps:0", ..., or "cuda" if only a view tells which GPU."""

    def stream(self, index: int) -> int | None:
        """Return the CUDA stream that the library uses on a GPU, or None if it is unknown.

        If it is unknown, our work waits for the library's earlier work, but the library's later work doesn't wait for
        ours.
        """

    def view(self, array: Any, backend: Backend) -> View:
        """Return the backend's view of an array on its device. Errors of the library pass unchanged."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], backend: Backend) -> tuple[Array, Any]:
        """Return an uninitialised array of the backend, and the library's array over the same memory.

        The latter is None if `give` can make it later, without a copy.
        """

    def give(self, array: Array, backend: Backend) -> Any:
        """Return the library's array over the memory of a backend's array.

        If the library's arrays are immutable, this memory must not change any more.
        """

    def cast(self, name: str, dtype: np.dtype[Any]) -> str:
        """Return the code of a cast in this library."""


class Torch:
    """PyTorch: `numpy()` and `from_numpy` on the CPU, the CUDA array interface and DLPack on a GPU."""

    immutable = False

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def place(self, tensor: Any) -> str:
        """Return the device of a tensor."""
        if tensor.is_cpu:
            return "cpu"
        device = tensor.device
        return str(device.type) if device.index is None else f"{device.type}:{device.index}"

    def stream(self, index: int) -> int | None:
        """Return PyTorch's current stream on a GPU."""
        return int(self._torch.cuda.current_stream(index).cuda_stream)

    def view(self, tensor: Any, backend: Backend) -> View:
        """Return the view of a tensor that doesn't require grad."""
        if tensor.is_neg():  # the CUDA array interface doesn't say so
            raise BufferError("its negative bit is set, so its memory holds negated numbers. Use resolve_neg()")
        wide = tensor.dtype is not self._torch.bfloat16
        bits = tensor if wide else tensor.view(self._torch.int16)
        array = bits.numpy() if backend.name == "numpy" else backend.from_interface(bits)
        return View(array if wide else array.view(dtypes.resolve("bfloat16")), writeable=True)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], backend: Backend) -> tuple[Array, Any]:
        """Return an array. On a GPU the memory is PyTorch's, which reuses it in the order of its streams."""
        if backend.name == "numpy":
            return backend.empty(shape, dtype), None
        tensor = self._torch.empty(shape, dtype=getattr(self._torch, dtype.name), device=backend.device)
        return self.view(tensor, backend).array, tensor

    def give(self, array: Array, backend: Backend) -> Any:
        """Return the tensor over an array."""
        del backend
        wide = not dtypes.is_bfloat16(array.dtype)
        bits = array if wide else array.view(np.int16)
        torch = self._torch
        if isinstance(bits, np.ndarray):
            # PyTorch can't mark a tensor as read-only, so it gets a copy of read-only memory.
            tensor = torch.from_numpy(bits if bits.flags.writeable else bits.copy())
        else:
            tensor = torch.from_dlpack(bits)
        return tensor if wide else tensor.view(torch.bfloat16)

    def cast(self, name: str, dtype: np.dtype[Any]) -> str:
        """Return the code of a cast in PyTorch."""
        return f"{name}.to(torch.{dtype.name})"


class _Other:
    """The methods that all libraries except PyTorch share."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], backend: Backend) -> tuple[Array, Any]:
        """Return an array of the backend, and None for the library's."""
        return backend.empty(shape, dtype), None

    def cast(self, name: str, dtype: np.dtype[Any]) -> str:
        """Return the code of a cast, which is the same as in NumPy."""
        return f'{name}.astype("{dtype.name}")'


class Dlpack(_Other):
    """Any library with `__dlpack__`, such as JAX. To get results in it, its arrays also need `__array_namespace__`.

    The producer of an input makes our stream wait for its own. The consumer of a result makes its stream wait for ours.
    Nothing makes the library wait before it uses an input again.
    """

    def __init__(self, array: Any, *, jax: bool) -> None:
        self._array = array
        self._jax = self.immutable = jax

    def place(self, array: Any) -> str:
        """Return the device of an array, or why it is unknown: the array may be on several, or deleted."""
        try:
            return dlpack.place_of(array)
        except Exception as error:  # each library has its own
            return f"an unknown device ({str(error).partition(chr(10))[0]})"

    def stream(self, index: int) -> int | None:
        """Return None, as the protocol doesn't name streams."""
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
        """Return an array of the backend, and None. Host memory is aligned for JAX, which would copy it otherwise."""
        if not self._jax or backend.name != "numpy":
            return super().empty(shape, dtype, backend)
        size = math.prod(shape) * dtype.itemsize
        memory = np.empty(size + _XLA_ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _XLA_ALIGNMENT
        return memory[start : start + size].view(dtype).reshape(shape), None

    def give(self, array: Array, backend: Backend) -> Any:
        """Return the library's array, or the backend's own if the library has no function to make one."""
        namespace = self._array.__array_namespace__() if hasattr(self._array, "__array_namespace__") else None
        make = getattr(namespace, "from_dlpack", None)
        if make is None:
            return array
        flags = array.flags
        if not getattr(flags, "writeable", True) or (self._jax and not flags.c_contiguous):
            array = array.copy()  # protocols can't express read-only, and JAX has no views
        if dtypes.is_bfloat16(array.dtype):
            return make(dlpack.Outgoing(backend.exported(array.view(np.int16))))
        if self._jax and array.dtype == np.float64:  # x may have been made in a mode that has ended since
            with _jax_with_float64():
                return make(backend.exported(array))
        return make(backend.exported(array))


def _jax_with_float64() -> Any:
    """Return the context in which JAX has 64-bit types. Older versions have it in another module."""
    jax = sys.modules["jax"]
    return (jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64)(True)


class Interface(_Other):
    """Any library with `__cuda_array_interface__` and no other protocol. Results are CuPy's.

    The interface may name a stream. The array's data is ready on that stream, and will be used on it.
    """

    immutable = False

    def __init__(self, array: Any, interface: dict[str, Any]) -> None:
        self._array = array
        self._interface = interface

    def place(self, array: Any) -> str:
        """Return "cuda", because only a view tells which GPU it is."""
        del array
        return "cuda"

    def stream(self, index: int) -> int | None:
        """Return the stream that the interface names, or None."""
        del index
        stream: int | None = self._interface.get("stream")
        return stream

    def view(self, array: Any, backend: Backend) -> View:
        """Return the view of an array. bfloat16 arrives as NumPy describes it: two bytes without a type."""
        interface = {**self._interface, "stream": None}  # CuPy would wait for it on the host
        bits = interface["typestr"][1:] == "V2"
        if bits:
            interface["typestr"] = "<i2"
        view = backend.from_interface(_Described(array, interface), interface["data"][0])
        return View(view.view(dtypes.resolve("bfloat16")) if bits else view, not interface["data"][1])

    def give(self, array: Array, backend: Backend) -> Any:
        """Return the array itself."""
        del backend
        return array


class _Described:
    """An array with a changed interface. This object keeps the array alive."""

    def __init__(self, array: Any, interface: dict[str, Any]) -> None:
        self._array = array
        self.__cuda_array_interface__ = interface


def current_streams(index: int) -> list[int]:
    """Return the current streams of the libraries that the program uses on a GPU, if they can be known."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    return [int(torch.cuda.current_stream(index).cuda_stream)]


def library_of(array: Any) -> Library | None:
    """Return the library of an array. Return None for NumPy's arrays, and for anything that is not an array."""
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
    """Return the view of an array. Raise an error about the argument if that fails."""
    check_plain(name, array)
    try:
        return library.view(array, backend)
    except Exception as error:  # libraries raise many kinds for sparse, quantised, traced, sharded or deleted arrays
        text = str(error).partition("\n")[0]
        fail(TypeError, name, "an array whose memory can be shared", f"a {describe_type(array)}: {text}")


@functools.lru_cache(maxsize=1)
def _torch(torch: Any) -> Torch:
    return Torch(torch)
