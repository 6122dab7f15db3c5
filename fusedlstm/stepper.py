"""Stepper: a fixed batch, stepped again and again with the least overhead."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, overload

from fusedlstm.arrays.exchange import Exchange, is_native
from fusedlstm.in_place import InPlace
from fusedlstm.placement import Placed
from fusedlstm.state import State
from fusedlstm.validation.arguments import check_bool, check_shape
from fusedlstm.validation.weights import check_owner

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.base import Backend, StepperEngine
    from fusedlstm.cell import LSTMCell
    from fusedlstm.lstm import LSTM
    from fusedlstm.state import LSTMState


class Stepper(InPlace[State]):
    """A batch of B rows whose buffers stay in place: x, both states, and the flags of rows to reset.

    `cell.stepper(B)` and `lstm.stepper(B)` make one. Its state begins as zeros. Fill its inputs, then step:

        stepper.x[...] = observations
        stepper.is_first[...] = done
        logits = policy(stepper.step())

    All checks, choices and allocations are made once, when the Stepper is made. In NumPy a step works in these buffers.
    On a GPU a step is one launch of a CUDA graph, and `kernels` names each layer's kernel. If that is "matmul", a layer
    is one matmul and one kernel. A projection then adds one matmul and at most one kernel. Zoneout of h adds one kernel
    without a projection. Once `is_first` has been used, one more kernel resets all layers. With `host` it runs only in
    steps with flags. Any other kernel does a whole layer, but a large projection takes a second one. A step is queued
    on the current stream of the buffers' library. If the stream changes between two calls, the later call waits on the
    GPU for the earlier one.

    A Stepper runs one call at a time. A call raises if another thread is in a call. It also raises in the middle of
    another call in the same thread, such as from a signal handler. `set_weights` of the cell or LSTM also sets the
    Stepper's weights.

    A step works in place. If it fails or is interrupted, the state may be neither the old nor the new one. Then `step`
    and `read` raise until `write` or `reset` sets the state. Those two then also clear `is_first`. Bad arguments raise
    and don't change the state.

    Args:
        owner: an LSTMCell, or an LSTM whose layers are all forward.
        batch: B, at least 1.
        reset_to: the state to reset rows to, with one row or B, on the device; for an LSTM a tuple. It is copied now.
            None for zeros.
        host: whether x, is_first and the output are NumPy arrays, in memory that a GPU reads and writes directly. A
            step then waits until the output is written. Without a GPU, steps are the same either way.
        like: an array of the library that the buffers should be in. None gives NumPy or CuPy arrays.

    Raises:
        TypeError: an argument has the wrong kind, or the arrays of `like`'s library are immutable.
        ValueError: batch or reset_to is wrong, a layer reads backward, or `like` is on another device.
        BackendUnavailableError: steps can't be planned on this GPU; the message says why.
    """

    _engine: StepperEngine

    @overload
    def __init__(
        self: Stepper[LSTMState],
        owner: LSTMCell,
        batch: int,
        *,
        reset_to: LSTMState | None = None,
        host: bool = False,
        like: Any = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Stepper[tuple[LSTMState, ...]],
        owner: LSTM,
        batch: int,
        *,
        reset_to: tuple[LSTMState, ...] | None = None,
        host: bool = False,
        like: Any = None,
    ) -> None: ...
    def __init__(
        self,
        owner: LSTMCell | LSTM,
        batch: int,
        *,
        reset_to: LSTMState | tuple[LSTMState, ...] | None = None,
        host: bool = False,
        like: Any = None,
    ) -> None:
        check_owner("owner", owner)
        super().__init__(owner, batch, host=host, like=like)
        with Exchange(owner._backend, None if host else like, owner._maker) as exchange:
            resets = self._taken_resets(exchange, reset_to)
            self._engine = owner._backend.stepper_engine(
                owner._layers_of_weights, owner._engines, self._batch_size, resets, host=host
            )
        self._lend_buffers()

    def _lend_buffers(self) -> None:
        """Take the buffers as arrays of the library of `like`."""
        batch = self._engine
        with Exchange(self._face, self._like, self._maker) as exchange:
            self._x, self._output = exchange.lend(batch.x), exchange.lend(batch.output)
            if not self._host:
                self._all_states = [tuple(map(exchange.lend_state, states)) for states in batch.all_states]
        self._flags: Array = None
        if self._like is not None:
            self._like = self._x  # so as not to keep the caller's array alive, which may be large

    @property
    def x(self) -> Array:
        """The input of the next step (B, I). It stays until you overwrite it. There may be gaps between its rows."""
        return self._x

    @property
    def is_first(self) -> Array:
        """(B,) booleans: True marks a row to reset before the next step. That step then clears all flags.

        Steps ignore the flags until this property is first read.
        """
        flags = self._engine.is_first
        if self._flags is None:
            with Exchange(self._face, self._like, self._maker) as exchange:
                self._flags = exchange.lend(flags)
        return self._flags

    @property
    def output(self) -> Array:
        """The result of `step` (B, width). It may be the top layer's h itself, so use `write` to change h."""
        return self._output

    @property
    def _states(self) -> tuple[LSTMState, ...]:
        return self._all_states[self._engine.current]

    @property
    def state(self) -> State:
        """The state in place: an LSTMState, or for an LSTM a tuple of them. With `host` it is a copy, as from `read()`.

        On a GPU a step may read h from one buffer and write it to another. So get the state again after each step.
        """
        return self.read() if self._host else self._given(self._states)

    @property
    def h(self) -> Array:
        """The top layer's h (B, P), in place; with `host`, that of the last step. There may be gaps between its rows.

        On a GPU a step may write h to another buffer, so get it again after each step.
        """
        if self._host:
            return self.output if not self._owner._layers_of_weights.residual[-1] else self._read_all()[-1].h
        return self._states[-1].h

    @property
    def c(self) -> Array:
        """The top layer's c (B, N), in place; with `host` a copy. There may be gaps between its rows."""
        return (self._read_all() if self._host else self._states)[-1].c

    def step(self, x: Any = None, is_first: Any = None, *, copy: bool = False) -> Array:
        """Take one step, and return its output (B, width), which the next step overwrites.

        Args:
            x: (B, I) as in `LSTMCell`, or with `host` in host memory, with any strides. It is copied to the buffer.
                None uses the content of the buffer.
            is_first: (B,) booleans, in an array on the device, a host array or a list. They are copied to the buffer.
                None uses the buffer, which has no flags unless you wrote them since the last step.
            copy: whether to return a new array, which later steps don't overwrite. It is in the library of x, or of the
                buffers if x is None.

        Raises:
            RuntimeError: another call of this Stepper is running, in any thread; the last step failed or was
                interrupted; the process was forked after CUDA had been used.
            TypeError: an argument has the wrong kind, dtype or library.
            ValueError: an argument has the wrong shape or device.
        """
        if self._busy.locked():
            self._refuse()
        with self._busy:  # an interrupt can't leave it locked
            self._user = threading.get_ident()
            batch, native = self._engine, self._face.array_type
            if batch.is_torn:
                self._refuse_torn()
            if copy is not False:  # fast path: skip the call for the default
                check_bool("copy", copy)
            if copy or not self._needs_no_exchange:
                return self._exchange_and_step(x, is_first, copy=copy)
            if x is not None or is_first is not None:
                if (x is not None and type(x) is not native) or not is_native(native, is_first, None):
                    return self._exchange_and_step(x, is_first, copy=False)
                self._load(x, is_first)
            batch.run(self._owner._engines)
            return self._output

    def _exchange_and_step(self, x: Any, is_first: Any, *, copy: bool) -> Array:
        """Step with arrays of any library."""
        batch, checks = self._engine, self._owner_states.layer_checks[0]
        with Exchange(self._face, self._like if x is None else x, self._maker) as exchange:
            if x is not None:
                x = exchange.borrow("x", x, checks.dtype, checks.whose)
            self._load(x, exchange.borrow_mask("is_first", is_first))
            batch.run(self._owner._engines)
            if not copy:
                return self._output
            output = exchange.empty(batch.output.shape, batch.output.dtype)
            batch.copy_output(output)
            return exchange.lend(output)

    def _load(self, x: Array | None, is_first: Any) -> None:
        """Check x and is_first, and then copy them to the buffers."""
        batch, face, checks = self._engine, self._face, self._owner_states.layer_checks[0]
        # Fast path: skip the checks, which take several times as long.
        if x is not None and not _is_like(x, batch.x, face):
            checks.check_x(x)
            check_shape("x", x.shape, "B I", {**checks.sizes, "B": self._batch_size})
        if is_first is not None and not _is_like(is_first, batch.is_first, face):
            is_first = checks.check_mask(is_first, self._batch_size)
        if x is not None:
            batch.load(x)
        if is_first is not None:
            batch.mark(is_first)

    def __repr__(self) -> str:
        return f"Stepper({self._owner!r}, {self._batch_size}{', host=True' if self._host else ''})"


def _is_like(array: Any, buffer: Array, face: Backend) -> bool:
    """Return whether an array has the type, shape, dtype and device of the buffer that it is copied to."""
    native: Any = face.array_type
    if type(array) is not native or array.shape != buffer.shape or array.dtype != buffer.dtype:
        return False
    return face.device_of(array) == face.device


class Steppable(Placed[State]):
    """A cell or an LSTM: both can make Steppers."""

    def stepper(
        self, batch: int, *, reset_to: State | None = None, host: bool = False, like: Any = None
    ) -> Stepper[State]:
        """Return a Stepper: a batch of B rows whose buffers stay in place, for steps with the least overhead.

        See `Stepper` for arguments and errors.
        """
        make: Any = Stepper  # Any: the overloads want an LSTMCell or an LSTM, and `self` may be either
        stepper: Stepper[State] = make(self, batch, reset_to=reset_to, host=host, like=like)
        return stepper
