"""Exchange: view a call's arguments of any library as the backend's arrays, and its results as the caller's."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays import host
from fusedlstm.arrays.libraries import View, current_streams, library_of, view_of
from fusedlstm.backends.select import backend_of
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import check_array, check_dtype, check_no_grad, describe_type, fail
from fusedlstm.validation.subclasses import check_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedlstm.arrays.dtypes import Array, NumpyArray
    from fusedlstm.arrays.libraries import Library
    from fusedlstm.backends.base import Backend

_HOST = (list, tuple, np.ndarray)
_WRITEABLE = "an array that can be written"


def is_native(native: type, is_first: Any, reset_to: Any) -> bool:
    """Return whether no exchange is needed: a reset's arrays are exactly of this class, or are host flags."""
    if is_first is not None and type(is_first) is not native and type(is_first) not in _HOST:
        return False
    if reset_to is None:
        return True
    return type(reset_to) is LSTMState and type(reset_to.h) is native and type(reset_to.c) is native


@contextlib.contextmanager
def in_order(backend: Backend) -> Iterator[None]:
    """Queue work on CuPy's current stream, after earlier work on PyTorch's current stream and before later work there.

    Use this context for work without array arguments, as no library then says which stream to use.
    """
    with backend.order(None) as order:
        if backend.name != "numpy":
            for stream in current_streams(_index(backend)):
                order.follow(stream)
        yield


def is_captured(backend: Backend) -> bool:
    """Return whether the caller captures the current stream of CuPy or PyTorch on a backend's GPU."""
    return backend.is_captured(current_streams(_index(backend)))


def _index(backend: Backend) -> int:
    """Return the index of a backend's GPU."""
    return int(backend.device.partition(":")[2])


class Exchange:
    """One call's arrays: arguments are borrowed as the backend's arrays, and results are lent in the library of x.

    Enter this context before you look at the first array, and leave it when the work is queued:

        with Exchange(backend, x) as exchange:
            x = exchange.borrow("x", x)
            state = exchange.borrow_state("state", state)
            is_first = exchange.borrow_mask("is_first", is_first)
            target = exchange.borrow_out("out", out)
            ... the checks of arguments, then the work; results in memory of exchange.empty(shape, dtype) ...
            return out if out is not None else exchange.lend_state(result)

    Nothing is copied either way. A borrowed array is a view of the caller's memory, with its shape, strides and dtype
    (even bfloat16). So overlaps are found as among the backend's own arrays. A lent array shares the memory of the
    backend's array. Arrays of the backend are returned unchanged. So is anything that can't share memory (None, a list,
    NumPy's array for a GPU). The checks then refuse it with their own messages.

    On a GPU the context also orders the work (`backends.cuda.runtime.streams.Order`). It makes the GPU the current
    device. It makes the current stream of x's library CuPy's current stream: PyTorch's for a tensor, else CuPy's own.
    Another argument's library may have another current stream, or its interface may name one. The work then waits for
    that stream, and the stream for the work. All of this waits on the GPU, not on the host.

    With DLPack (JAX and others) the work waits for the producer of an input, as the protocol says. The consumer of a
    result waits for the work. But the streams of such libraries are unknown, as are those of an interface that names
    none. So their later work on an input doesn't wait for ours. Their inputs are kept alive until the work is done, and
    must not be overwritten before then. If `out` is theirs, leaving the context waits on the host until it is written.

    Args:
        backend: where the call runs.
        like: the argument whose library gets the results, and whose stream the work runs on.
        maker: the name of the function that makes arrays, for messages.
    """

    def __init__(self, backend: Backend, like: Any, maker: str = "cell.asarray") -> None:
        self._backend = backend
        self._native, self._device = backend.array_type, backend.device
        self._gpu = None if backend.name == "numpy" else _index(backend)
        self._maker = maker
        library = self._library = self._library_of(like)
        self._streams: dict[Library, int | None] = {}
        stream = None
        if library is not None and self._gpu is not None and library.place(like) == self._device:
            stream = self._stream(library)
        self._order = backend.order(stream)
        self._made: dict[int, tuple[Any, Any]] = {}

    def __enter__(self) -> Exchange:
        self._order.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._order.__exit__(*_)

    def borrow(self, name: str, array: Any, dtype: np.dtype[Any] | None = None, why: str = "") -> Array:
        """Return the backend's view of an array of any library on its device.

        Args:
            name: the argument's name, for messages.
            array: the argument.
            dtype: the wanted dtype. If it is checked here, the hint shows a cast in the array's own library. None
                leaves dtypes to later checks.
            why: the owner of that dtype, for the message.

        Raises:
            TypeError: a tensor requires grad, the array's library doesn't share its memory, or the dtype is wrong.
            ValueError: the array is on another device.
        """
        return self._borrow(name, array, dtype, why).array

    def borrow_state(
        self,
        name: str,
        state: Any,
        dtype: np.dtype[Any] | None = None,
        c_dtype: np.dtype[Any] | None = None,
        why: str = "",
    ) -> Any:
        """Borrow both arrays of an LSTMState. Return anything else unchanged. See `borrow` for arguments and errors."""
        if not isinstance(state, LSTMState):
            return state
        h, c = self._borrow_state(name, state, dtype, c_dtype, why)
        return LSTMState(h=h.array, c=c.array)

    def borrow_out(
        self,
        name: str,
        state: Any,
        dtype: np.dtype[Any] | None = None,
        c_dtype: np.dtype[Any] | None = None,
        why: str = "",
    ) -> Any:
        """Do what `borrow_state` does, for arrays that will be written. Raise if one can't be.

        If the stream of an array's library is unknown, leaving the context waits on the host until it is written.

        Raises:
            TypeError: as `borrow`, or the library's arrays are immutable, such as JAX's.
            ValueError: as `borrow`, or an array is read-only.
        """
        if not isinstance(state, LSTMState):
            return state
        h, c = self._borrow_state(name, state, dtype, c_dtype, why)
        self._check_writeable(f"{name}.h", state.h, h)
        self._check_writeable(f"{name}.c", state.c, c)
        return LSTMState(h=h.array, c=c.array)

    def borrow_output(self, name: str, array: Any, dtype: np.dtype[Any], why: str) -> Any:
        """Do for one array, or None, what `borrow_out` does for the two of a state."""
        if array is None:
            return None
        view = self._borrow(name, array, dtype, why)
        self._check_writeable(name, array, view)
        return view.array

    def borrow_mask(self, name: str, mask: Any) -> Any:
        """Return flags, lengths or slots as the backend's array, or as NumPy's if they are on the host.

        Anything that is not an array is returned unchanged.

        Raises:
            TypeError: a tensor requires grad, or the array's library doesn't share its memory.
            ValueError: the array is neither on the host nor on the backend's device.
        """
        library = self._library_of(mask)
        if library is None:
            self._follow_native(mask)
            return mask
        check_no_grad(name, mask)
        if self._gpu is None or library.place(mask) != "cpu":
            return self._borrow(name, mask, None, "").array
        return view_of(name, mask, library, backend_of(mask, name)).array

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an uninitialised array of the backend, which `lend` can lend without a copy."""
        if self._library is None:
            return self._backend.empty(shape, dtype)
        array, own = self._library.empty(shape, dtype, self._backend)
        if own is not None:  # forget it when the array dies, so that it is freed even if it is never lent
            made, key = self._made, id(array)
            made[key] = own, weakref.ref(array, lambda _: made.pop(key, None))
        return array

    def lend(self, array: Array) -> Any:
        """Return an array of x's library over the same memory, or the array itself if that library makes no arrays.

        If the library's arrays are immutable, this memory must not change any more.
        """
        if self._library is None:
            return array
        own, _ = self._made.get(id(array), (None, None))
        return self._library.give(array, self._backend) if own is None else own

    def lend_state(self, state: LSTMState) -> LSTMState:
        """Lend both arrays of an LSTMState."""
        return state if self._library is None else LSTMState(h=self.lend(state.h), c=self.lend(state.c))

    def check_place(self, name: str, array: Any) -> None:
        """Raise unless `array` is an array of any library and dtype on the backend's device."""
        library = self._library_of(array)
        if library is None:
            hint = f"Use {self._maker}(...) to make one"
            check_array(name, array, self._native, self._device, hint)
            place = self._backend.device_of(array)
            if place != self._device:
                fail(ValueError, name, f"an array on {self._device}", f"one on {place}")
        else:
            self._check_device(name, array, self._place(name, array, library))

    def _library_of(self, array: Any) -> Library | None:
        """Return the library of an array that is not the backend's own. Return None for anything else."""
        return None if array is None or isinstance(array, self._native) else library_of(array)

    def _follow_native(self, array: Any) -> None:
        """Order the work with CuPy's current stream if `array` is CuPy's, as the call may run on another stream."""
        if self._gpu is not None and isinstance(array, self._native):
            self._order.follow(None)

    def _place(self, name: str, array: Any, library: Library) -> str:
        """Return the device of an array. Make a view if only a view tells which GPU it is on."""
        place = library.place(array)
        if place == "cuda" and self._gpu is not None:
            place = self._backend.device_of(view_of(name, array, library, self._backend).array)
        return place

    def _check_device(self, name: str, array: Any, place: str, arguments: str = "...") -> None:
        """Raise unless an array is on the backend's device. `arguments` are those of the maker, for the hint."""
        if place != self._device:
            hint = f"Use {self._maker}({arguments}) to make one"
            fail(ValueError, name, f"an array on {self._device}", f"a {describe_type(array)} on {place}", hint)

    def _borrow(self, name: str, array: Any, dtype: np.dtype[Any] | None, why: str, arguments: str = "...") -> View:
        """Return the view that `borrow` needs. `arguments` are those of the maker, for a hint."""
        library = self._library_of(array)
        if library is None:
            if type(array) is not self._native:
                check_plain(name, array)
            self._follow_native(array)
            return View(array, writeable=True)
        check_no_grad(name, array)
        place = library.place(array)
        known = place != "cuda" or self._gpu is None
        if known:
            self._check_device(name, array, place, arguments)
        view = view_of(name, array, library, self._backend)
        if not known:
            self._check_device(name, array, self._backend.device_of(view.array), arguments)
        if dtype is not None and view.array.dtype != dtype:
            complex_ = view.array.dtype.kind == "c"  # check_dtype has another hint for these
            hint = "" if complex_ else f"Use {library.cast(name, dtype)}"
            check_dtype(name, view.array.dtype, dtype, why, hint)
        if self._gpu is not None:
            stream = self._stream(library)
            if stream is None:
                self._order.keep(view.array)
            else:
                self._order.follow(stream)
        return view

    def _stream(self, library: Library) -> int | None:
        """Return a library's current stream on the GPU. Ask each library only once."""
        if library not in self._streams:
            self._streams[library] = library.stream(int(self._gpu or 0))
        return self._streams[library]

    def _borrow_state(
        self, name: str, state: Any, dtype: np.dtype[Any] | None, c_dtype: np.dtype[Any] | None, why: str
    ) -> tuple[View, View]:
        """Return the views of h and c of an LSTMState."""
        if c_dtype is None or c_dtype == dtype:
            arguments, why_c = "...", why
        else:
            arguments, why_c = f'..., "{c_dtype}"', "c's, with a 16-bit h"
        h = self._borrow(f"{name}.h", state.h, dtype, why)
        return h, self._borrow(f"{name}.c", state.c, c_dtype, why_c, arguments)

    def _check_writeable(self, name: str, array: Any, view: View) -> None:
        """Raise unless an array may be written. If its library's stream is unknown, wait for the write on leaving."""
        if not view.writeable:
            _refuse_to_write(name, array)
        library = self._library_of(array)
        if library is not None and self._gpu is not None and self._stream(library) is None:
            self._order.wait_on_host()


def _refuse_to_write(name: str, array: Any) -> None:
    library = library_of(array)
    if library is not None and library.immutable:
        fail(TypeError, name, _WRITEABLE, f"a {describe_type(array)}, which is immutable")
    fail(ValueError, name, _WRITEABLE, "a read-only one")


def _read_by_protocol(name: str, value: Any) -> NumpyArray:
    """Return an array that only a protocol can read, from any device, as a NumPy array."""
    with Exchange(backend_of(value, name), value) as exchange:
        view = exchange.borrow(name, value)
        return np.asarray(view if isinstance(view, np.ndarray) else view.get())


host.read_by_protocol = _read_by_protocol
