"""Exchange: the arrays of a call, of any libraries, as the backend's own, and its results as the caller's."""

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
    """Whether the arrays of a reset are exactly of this class, or on the host, so that no exchange is needed."""
    if is_first is not None and type(is_first) is not native and type(is_first) not in _HOST:
        return False
    if reset_to is None:
        return True
    return type(reset_to) is LSTMState and type(reset_to.h) is native and type(reset_to.c) is native


@contextlib.contextmanager
def in_order(backend: Backend) -> Iterator[None]:
    """Queue work on CuPy's current stream, after what PyTorch's holds by then and before what it is given next.

    It is the context of work that has no array whose library would say the stream.
    """
    with backend.order(None) as order:
        if backend.name != "numpy":
            for stream in current_streams(_index(backend)):
                order.follow(stream)
        yield


def _index(backend: Backend) -> int:
    """Return the number of a backend's GPU."""
    return int(backend.device.partition(":")[2])


class Exchange:
    """One call's arrays: what came is borrowed as the backend's arrays, what is returned is lent in the library of x.

    Use it as a context, from before the first array is looked at until the work is queued:

        with Exchange(backend, x) as exchange:
            x = exchange.borrow("x", x)
            state = exchange.borrow_state("state", state)
            is_first = exchange.borrow_mask("is_first", is_first)
            target = exchange.borrow_out("out", out)
            ... the checks of arguments, then the work; results in memory of exchange.empty(shape, dtype) ...
            return out if out is not None else exchange.lend_state(result)

    Nothing is copied either way: a borrowed array is a view of the caller's memory with its shape, strides
    and dtype (bfloat16 too), so that overlaps are found as among the backend's own, and a lent one
    is over the memory of the backend's array. What is of no library that shares its memory (None, a list, NumPy's
    array for a GPU) is returned as it is, for the checks to refuse in their words; arrays of the backend too.

    On a GPU the context is also where the work runs (`backends.cuda.runtime.streams.Order`): the GPU is the current
    device, and CuPy's current stream is the current stream of the library of x: PyTorch's for a tensor, else
    CuPy's. Where another argument's library has another current stream, or its interface names another one, the
    work waits for that stream, and that stream for the work. All of this waits on the GPU, not on the host.

    JAX and other libraries that speak DLPack are waited for, and results are waited for by their consumers, as
    the protocol says. But nobody tells the streams of such libraries, nor of an interface that names none: what
    they do next with what came is not made to wait. So their inputs are kept alive until the work is done, and
    must not be overwritten before; and where `out` is theirs, leaving waits on the host until it is written.

    Args:
        backend: where the call runs.
        like: the argument whose library results are returned in, and whose stream the work runs on.
        maker: what makes an array of something else, in messages.
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
            name: of the argument, in messages.
            array: what came.
            dtype: the dtype that is wanted, so that a hint about another one is in the words of the array's
                library; None leaves dtypes to the checks that follow.
            why: whose dtype that is, in the message.

        Raises:
            TypeError: a tensor that requires grad, an array whose memory its library does not share, or one of
                another dtype.
            ValueError: an array on another device.
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
        """Return an LSTMState of both arrays borrowed; anything else as it is. Arguments and errors as of `borrow`."""
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
        """Return `borrow_state` of what will be written: an array that must not be is refused, too.

        Where nobody tells the stream of its library, leaving waits on the host until it has been written.

        Raises:
            TypeError: as `borrow`, and an array of a library whose arrays never change, as JAX's.
            ValueError: as `borrow`, and a read-only array.
        """
        if not isinstance(state, LSTMState):
            return state
        h, c = self._borrow_state(name, state, dtype, c_dtype, why)
        self._check_writeable(f"{name}.h", state.h, h)
        self._check_writeable(f"{name}.c", state.c, c)
        return LSTMState(h=h.array, c=c.array)

    def borrow_output(self, name: str, array: Any, dtype: np.dtype[Any], why: str) -> Any:
        """Return `borrow` of one array that will be written, as `borrow_out` of two; None as it is."""
        if array is None:
            return None
        view = self._borrow(name, array, dtype, why)
        self._check_writeable(name, array, view)
        return view.array

    def borrow_mask(self, name: str, mask: Any) -> Any:
        """Return a control array as the backend's array or, where it is on the host, NumPy's; anything else as it is.

        Raises:
            TypeError: a tensor that requires grad, or an array whose memory its library does not share.
            ValueError: an array on a device that is neither the host nor the backend's.
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
        """Return an uninitialised array of the backend that `lend` lends without a copy."""
        if self._library is None:
            return self._backend.empty(shape, dtype)
        array, own = self._library.empty(shape, dtype, self._backend)
        if own is not None:  # it is known as long as the array lives, so that what isn't lent is freed
            made, key = self._made, id(array)
            made[key] = own, weakref.ref(array, lambda _: made.pop(key, None))
        return array

    def lend(self, array: Array) -> Any:
        """Return the array, over the same memory, in the library of x; the array itself where that has none of its own.

        It must be new, and must not change any more: libraries whose arrays never change rely on that.
        """
        if self._library is None:
            return array
        own, _ = self._made.get(id(array), (None, None))
        return self._library.give(array) if own is None else own

    def lend_state(self, state: LSTMState) -> LSTMState:
        """Return an LSTMState of both arrays lent."""
        return state if self._library is None else LSTMState(h=self.lend(state.h), c=self.lend(state.c))

    def check_place(self, name: str, array: Any) -> None:
        """Raise unless `array` is an array of any library on the backend's device, of whatever dtype."""
        library = self._library_of(array)
        if library is None:
            hint = f"{self._maker}(...) makes one of it"
            check_array(name, array, self._native, self._device, hint)
            place = self._backend.device_of(array)
            if place != self._device:
                fail(ValueError, name, f"an array on {self._device}", f"one on {place}")
        else:
            self._check_device(name, array, self._place(name, array, library))

    def _library_of(self, array: Any) -> Library | None:
        """Return the library of an array that is not the backend's own."""
        return None if array is None or isinstance(array, self._native) else library_of(array)

    def _follow_native(self, array: Any) -> None:
        """Order the work with CuPy's current stream, where a call that runs on another one has CuPy's arrays."""
        if self._gpu is not None and isinstance(array, self._native):
            self._order.follow(None)

    def _place(self, name: str, array: Any, library: Library) -> str:
        """Return the device of an array, looking at a view where only that tells which."""
        place = library.place(array)
        if place == "cuda" and self._gpu is not None:
            place = self._backend.device_of(view_of(name, array, library, self._backend).array)
        return place

    def _check_device(self, name: str, array: Any, place: str, arguments: str = "...") -> None:
        """Raise unless a library's array is on the backend's device; `arguments` are the maker's in the hint."""
        if place != self._device:
            hint = f"{self._maker}({arguments}) makes one of it"
            fail(ValueError, name, f"an array on {self._device}", f"a {describe_type(array)} on {place}", hint)

    def _borrow(self, name: str, array: Any, dtype: np.dtype[Any] | None, why: str, arguments: str = "...") -> View:
        """Return `borrow`'s view; `arguments` are the maker's in a hint."""
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
            complex_ = view.array.dtype.kind == "c"  # for which there is another hint
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
        """Return a library's stream of the GPU; PyTorch's current one is asked for once."""
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
            arguments, why_c = f'..., "{c_dtype}"', "c's, whatever x's is"
        h = self._borrow(f"{name}.h", state.h, dtype, why)
        return h, self._borrow(f"{name}.c", state.c, c_dtype, why_c, arguments)

    def _check_writeable(self, name: str, array: Any, view: View) -> None:
        """Raise unless an array may be written; wait for that on leaving where nobody tells its library's stream."""
        if not view.writeable:
            _refuse_to_write(name, array)
        library = self._library_of(array)
        if library is not None and self._gpu is not None and self._stream(library) is None:
            self._order.wait_on_host()


def _refuse_to_write(name: str, array: Any) -> None:
    library = library_of(array)
    if library is not None and library.immutable:
        fail(TypeError, name, _WRITEABLE, f"a {describe_type(array)}, which never changes")
    fail(ValueError, name, _WRITEABLE, "a read-only one")


def _read_by_protocol(name: str, value: Any) -> NumpyArray:
    """Return an array that only a protocol can read, from any device, as a NumPy array."""
    with Exchange(backend_of(value, name), value) as exchange:
        view = exchange.borrow(name, value)
        return np.asarray(view if isinstance(view, np.ndarray) else view.get())


host.read_by_protocol = _read_by_protocol
