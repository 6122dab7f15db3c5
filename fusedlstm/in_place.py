"""InPlace: the base of Stepper and Sequencer, whose buffers and state stay in place."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic

from fusedlstm.arrays.exchange import Exchange
from fusedlstm.arrays.libraries import library_of
from fusedlstm.backends.select import choose
from fusedlstm.state import State
from fusedlstm.validation.arguments import check_bool, check_size, describe_type, fail

if TYPE_CHECKING:
    from typing import NoReturn

    from fusedlstm.backends.base import Backend, InPlaceEngine
    from fusedlstm.cell import LSTMCell
    from fusedlstm.lstm import LSTM
    from fusedlstm.state import LSTMState


class InPlace(Generic[State]):
    """A batch of B rows whose buffers and state stay in place. It runs one call at a time.

    A subclass makes `_engine`. Its calls look at `_busy` before they take it, and then set `_user`.

    Args:
        owner: a cell or an LSTM.
        batch: B, at least 1.
        host: whether the buffers are in host memory.
        like: an array of the library that the buffers should be in. None gives the backend's arrays.
    """

    _engine: InPlaceEngine

    def __init__(self, owner: LSTMCell | LSTM, batch: int, *, host: bool, like: Any) -> None:
        self._batch_size = check_size("batch", batch, 1)
        check_bool("host", host)
        self._owner, self._host = owner, host
        self._face: Backend = choose("numpy") if host else owner._backend  # of the buffers' arrays
        self._maker = "numpy.asarray" if host else owner._maker
        self._owner_states = owner._owner_states(self._face, self._maker)
        self._like = like
        self._check_like()
        self._busy = threading.Lock()
        self._user = 0  # the last thread that held the lock

    def _check_like(self) -> None:
        like, face = self._like, self._face
        library = None if like is None or isinstance(like, face.array_type) else library_of(like)
        if like is not None:
            with Exchange(face, like, self._maker) as exchange:
                exchange.check_place("like", like)
        if library is not None and library.immutable:
            got = f"a {describe_type(like)}, which is immutable"
            fail(TypeError, "like", "an array that can be written", got)
        # On a CPU no work needs ordering, whichever library owns the memory.
        self._needs_no_exchange = library is None or face.name == "numpy"

    def _taken_resets(self, exchange: Exchange, reset_to: Any) -> tuple[LSTMState, ...] | None:
        """Return the checked states to reset rows to, one for each layer. None means zeros."""
        if reset_to is None:
            return None
        states = self._owner._owner_states()
        return states.taken(exchange, "reset_to", reset_to, self._batch_size, may_be_one_row=True)

    @property
    def batch(self) -> int:
        """B, the number of rows."""
        return self._batch_size

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernel of each layer and direction: "numpy", or on a GPU a name from LSTMCell's `kernel`."""
        return self._engine.kernels

    def read(self) -> State:
        """Return a copy of the state: an LSTMState, or for an LSTM a tuple of them.

        Its arrays are new, in the library of the buffers.

        Raises:
            RuntimeError: another call of this object is running, in any thread; the last step or run failed or was
                interrupted; the process was forked after CUDA had been used.
        """
        return self._given(self._read_all())

    def _given(self, states: tuple[LSTMState, ...]) -> State:
        state: State = self._owner_states.given(states)
        return state

    def _read_all(self) -> tuple[LSTMState, ...]:
        if self._busy.locked():
            self._refuse()
        with self._busy:
            self._user = threading.get_ident()
            if self._engine.is_torn:
                self._refuse_torn()
            return self._read_alone()

    def _read_alone(self) -> tuple[LSTMState, ...]:
        with Exchange(self._face, self._like, self._maker) as exchange:
            return tuple(exchange.lend_state(state) for state in self._engine.read(exchange.empty))

    def write(self, state: State) -> None:
        """Copy a state to the buffers: an LSTMState, or for an LSTM a tuple of them.

        Its arrays are on the device, or with `host` in host memory.

        Raises:
            RuntimeError: another call of this object is running, in any thread.
            TypeError: the state has the wrong kind, dtype or library.
            ValueError: the state has the wrong shape or device.
        """
        if self._busy.locked():
            self._refuse()
        with self._busy:
            self._user = threading.get_ident()
            with Exchange(self._face, self._like, self._maker) as exchange:
                self._engine.write(self._owner_states.taken(exchange, "state", state, self._batch_size))

    def reset(self) -> None:
        """Set all rows' states to zeros.

        Raises:
            RuntimeError: another call of this object is running, in any thread.
        """
        if self._busy.locked():
            self._refuse()
        with self._busy:
            self._user = threading.get_ident()
            with Exchange(self._face, self._like, self._maker):
                self._engine.clear()

    def _refuse(self) -> NoReturn:
        kind = type(self).__name__
        if self._user == threading.get_ident():
            raise RuntimeError(
                f"this {kind} is in the middle of a call in this thread, and a signal handler, a finalizer or a "
                "callback called it again: call it afterwards"
            )
        raise RuntimeError(
            f"another thread is using this {kind}, and it runs one call at a time: give each thread its own"
        )

    def _refuse_torn(self) -> NoReturn:
        raise RuntimeError(
            f"the last call of this {type(self).__name__} was interrupted or failed while it changed the state, which "
            "may be neither the old nor the new one: call write(state) or reset()"
        )

    def __reduce__(self) -> NoReturn:
        kind = type(self).__name__
        raise TypeError(f"a {kind} can't be copied or pickled: make another, and call its write({kind.lower()}.read())")
