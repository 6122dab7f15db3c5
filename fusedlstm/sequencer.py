"""Sequencer: whole sequences of a fixed size, run again and again with the least overhead."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from fusedlstm.arrays.exchange import Exchange
from fusedlstm.backends.sequence_run import MASKED_OUTPUTS, SequencerForm
from fusedlstm.in_place import InPlace
from fusedlstm.state import LSTMState
from fusedlstm.stepper import Steppable
from fusedlstm.validation.arguments import check_bool, check_choice, check_shape, check_size, describe_type, fail
from fusedlstm.validation.weights import check_lstm

if TYPE_CHECKING:
    from typing import NoReturn

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.base import SequencerEngine
    from fusedlstm.lstm import LSTM
    from fusedlstm.validation.sequence import SequenceChecks


class Sequencer(InPlace[tuple[LSTMState, ...]]):
    """Sequences of T steps and B rows whose buffers stay in place: inputs, outputs, and the state between two runs.

    `lstm.sequencer(T, B)` makes one. Fill its inputs, then run:

        sequencer = lstm.sequencer(T, B, is_first=True)
        sequencer.xs[...] = observations
        sequencer.is_first[...] = first
        logits = policy(sequencer.run())

    A run gives the same numbers as a call of the LSTM. It begins with `state`, which is zeros at first, and leaves the
    final state there. So the next run continues the sequences. For new sequences, call `reset()` or `write(state)`
    before the run. Inputs stay until you overwrite them: unlike a step of a Stepper, a run doesn't clear `is_first`.

    All checks, choices and allocations are made once, when the Sequencer is made, and no buffer ever moves. On a GPU a
    run is one launch of a CUDA graph, and `kernels` names each layer's kernel in each direction. The launch is queued
    on the current stream of the buffers' library. If the stream changes between two calls, the later call waits on the
    GPU for the earlier one.

    If you capture that stream into your own graph, `run`, `reset` and `write` become part of it. Then arguments must be
    on the GPU. Keep the Sequencer as long as your graph. Other calls, and `set_weights`, don't wait for your graph. So
    queue them on the stream where you launch it.

    A Sequencer runs one call at a time. A call raises if another thread is in a call. It also raises in the middle of
    another call in the same thread, such as from a signal handler. `set_weights` of the LSTM also sets the Sequencer's
    weights.

    If a run fails or is interrupted while it writes the state, the state may be neither the old nor the new one. Then
    `run` and `read` raise until `write` or `reset` sets the state. Bad arguments raise and change nothing.

    Shapes here are time-major. With the LSTM's `batch_first` the first two axes of xs, mask, is_first and outputs are
    swapped. Their memory stays time-major.

    Args:
        owner: an LSTM, with layers of any directions.
        steps: T, at least 1.
        batch: B, at least 1.
        lengths: whether each row has its own length, in the buffer `lengths`.
        mask: whether rows take only the steps that the buffer `mask` marks.
        is_first: whether rows are reset where the buffer `is_first` marks the first step of a sequence.
        reset_to: the state to reset those rows to, with one row or B, for each layer and direction. It is copied now.
            None for zeros.
        reverse: whether every layer runs from the last step to the first, as in a call of the LSTM.
        masked_outputs: the outputs of steps that a row does not take, "zero" or "last" as in a call of the LSTM.
        like: an array of the library that the buffers should be in. None gives NumPy or CuPy arrays.

    Raises:
        TypeError: an argument has the wrong kind, or the arrays of `like`'s library are immutable.
        ValueError: a size or reset_to is wrong, lengths and mask are both set, reset_to is given without is_first,
            `reverse` is set but a layer reads backward already, or `like` is on another device.
        BackendUnavailableError: steps can't be planned on this GPU; the message says why.
    """

    _engine: SequencerEngine

    def __init__(
        self,
        owner: LSTM,
        steps: int,
        batch: int,
        *,
        lengths: bool = False,
        mask: bool = False,
        is_first: bool = False,
        reset_to: tuple[LSTMState, ...] | None = None,
        reverse: bool = False,
        masked_outputs: str = "zero",
        like: Any = None,
    ) -> None:
        check_lstm("owner", owner)
        self._steps = check_size("steps", steps, 1)
        super().__init__(owner, batch, host=False, like=like)
        self._checks: SequenceChecks = owner._checks
        asked = {"lengths": lengths, "mask": mask, "is_first": is_first}
        for name, value in asked.items():
            check_bool(name, value)
        if lengths and mask:
            fail(ValueError, "mask", "False with lengths=True, as they do the same", "True")
        if reset_to is not None and not is_first:
            fail(ValueError, "reset_to", "None without is_first=True, which gives rows to reset", "states")
        self._checks.check_reverse(reverse)
        check_choice("masked_outputs", masked_outputs, MASKED_OUTPUTS)
        self._options = {"reverse": reverse, "masked_outputs": masked_outputs}
        self._flags = tuple(name for name, value in asked.items() if value)
        with Exchange(self._face, like, self._maker) as exchange:
            form = SequencerForm(
                self._steps,
                self._batch_size,
                **asked,
                reset_to=self._taken_resets(exchange, reset_to),
                reverse=reverse,
                repeats=masked_outputs == "last",
            )
            self._engine = self._face.sequencer_engine(owner._layers_of_weights, owner._engines, form)
            self._lend_buffers(exchange)

    def _lend_buffers(self, exchange: Exchange) -> None:
        """Take the buffers as arrays of the library of `like`, in the caller's order of axes."""
        buffers = self._engine.buffers
        arrays = {name: getattr(buffers, name) for name in ("xs", "outputs", *self._flags)}
        self._lent = {
            name: exchange.lend(array if name == "lengths" else self._swapped(array)) for name, array in arrays.items()
        }
        self._outputs = self._lent["outputs"]
        self._checks_lengths = "lengths" in self._flags and self._face.name == "numpy"
        self._states = tuple(map(exchange.lend_state, buffers.states))
        if self._like is not None:
            self._like = self._lent["xs"]  # so as not to keep the caller's array alive, which may be large

    def _swapped(self, array: Array) -> Array:
        """Return a time-major array in the caller's order of axes, or the other way round."""
        return array.swapaxes(0, 1) if self._checks.batch_first else array

    @property
    def steps(self) -> int:
        """T, the number of steps of a run."""
        return self._steps

    @property
    def xs(self) -> Array:
        """The inputs (T, B, I). They stay until you overwrite them."""
        return self._lent["xs"]

    @property
    def lengths(self) -> Array:
        """(B,) int64: how many steps each row takes, T at first. They stay until you overwrite them.

        On a GPU a length below 0 counts as 0, and one above T as T. In NumPy such a length raises in `run`.

        Raises:
            AttributeError: the Sequencer was made without `lengths=True`.
        """
        return self._buffer("lengths")

    @property
    def mask(self) -> Array:
        """(T, B) booleans, at first True: the steps that each row takes. They stay until you overwrite them.

        Raises:
            AttributeError: the Sequencer was made without `mask=True`.
        """
        return self._buffer("mask")

    @property
    def is_first(self) -> Array:
        """(T, B) booleans, at first False: the steps that begin a new sequence. They stay until you overwrite them.

        Raises:
            AttributeError: the Sequencer was made without `is_first=True`.
        """
        return self._buffer("is_first")

    @property
    def outputs(self) -> Array:
        """The outputs of the last run (T, B, width), with the top layer's directions side by side."""
        return self._outputs

    @property
    def state(self) -> tuple[LSTMState, ...]:
        """The state of each layer and direction, in place. A run begins with it, and writes the final state to it."""
        return self._states

    def _buffer(self, name: str) -> Array:
        if name not in self._flags:
            raise AttributeError(f"this Sequencer has no {name}: make it with lstm.sequencer(T, B, {name}=True)")
        return self._lent[name]

    def run(self, xs: Any = None, *, lengths: Any = None, mask: Any = None, is_first: Any = None) -> Array:
        """Run the sequences, and return the outputs (T, B, width), which the next run overwrites.

        Each argument is first copied to the buffer of its name, where it stays. None uses the content of the buffer.

        Args:
            xs: (T, B, I) as in a call of the LSTM, with any strides.
            lengths: (B,) integers from 0 to T, in an array on the device, a host array or a list.
            mask: (T, B) booleans, given likewise.
            is_first: (T, B) booleans, given likewise.

        Raises:
            RuntimeError: another call of this Sequencer is running, in any thread; the last run failed or was
                interrupted; the process was forked after CUDA had been used.
            TypeError: an argument has the wrong kind, dtype or library.
            ValueError: an argument has the wrong shape or device, or the Sequencer has no buffer for it. Or a length in
                host memory is below 0 or above T.
        """
        if self._busy.locked():
            self._refuse()
        with self._busy:
            self._user = threading.get_ident()
            if self._engine.is_torn:
                self._refuse_torn()
            if self._needs_no_exchange and xs is lengths is mask is is_first is None:
                self._run_alone()
            else:
                flags = {"lengths": lengths, "mask": mask, "is_first": is_first}
                with Exchange(self._face, self._like, self._maker) as exchange:
                    self._load(exchange, xs, {name: value for name, value in flags.items() if value is not None})
                    self._run_alone()
            return self._outputs

    def _run_alone(self) -> None:
        if self._checks_lengths:
            self._checks.check_steps(self._engine.buffers.lengths, None, self._steps, self._batch_size)
        self._engine.run(self._owner._engines)

    def _load(self, exchange: Exchange, xs: Any, flags: dict[str, Any]) -> None:
        """Check all arguments, and then copy them to the buffers."""
        for name, value in flags.items():
            if name not in self._flags:
                self._refuse_argument(name, value)
        loads = {name: self._checked(name, exchange.borrow_mask(name, value)) for name, value in flags.items()}
        if xs is not None:
            loads["xs"] = self._checked_xs(exchange, xs)
        for name, value in loads.items():
            self._engine.load(getattr(self._engine.buffers, name), value)

    def _refuse_argument(self, name: str, value: Any) -> NoReturn:
        hint = f"Make the Sequencer with lstm.sequencer(T, B, {name}=True)"
        fail(ValueError, name, "None, as this Sequencer has no buffer for it", describe_type(value), hint)

    def _checked_xs(self, exchange: Exchange, xs: Any) -> Array:
        checks, first = self._checks, self._checks.layer_checks[0]
        xs = exchange.borrow("xs", xs, first.dtype, first.whose)
        checks.check_xs(xs)
        sizes = {**first.sizes, "T": self._steps, "B": self._batch_size}
        check_shape("xs", xs.shape, f"{checks.time_by_batch} I", sizes)
        return self._swapped(xs)

    def _checked(self, name: str, value: Any) -> Array:
        """Return lengths, mask or is_first as a time-major array, in host memory or on the device. Raise if wrong."""
        checks, T, B = self._checks, self._steps, self._batch_size
        if name == "is_first":
            return checks.check_is_first(value, T, B)
        if name == "mask":
            return checks.check_steps(None, value, T, B)[1]
        return checks.check_steps(value, None, T, B)[0]

    def __repr__(self) -> str:
        options = {**dict.fromkeys(self._flags, True), **self._options}
        defaults = {"reverse": False, "masked_outputs": "zero"}
        said = "".join(f", {name}={value!r}" for name, value in options.items() if defaults.get(name) != value)
        return f"Sequencer({self._owner!r}, {self._steps}, {self._batch_size}{said})"


class Sequenceable(Steppable[tuple[LSTMState, ...]]):
    """The base of LSTM, which can make Steppers and Sequencers."""

    def sequencer(
        self,
        steps: int,
        batch: int,
        *,
        lengths: bool = False,
        mask: bool = False,
        is_first: bool = False,
        reset_to: tuple[LSTMState, ...] | None = None,
        reverse: bool = False,
        masked_outputs: str = "zero",
        like: Any = None,
    ) -> Sequencer:
        """Return a Sequencer: sequences of T steps and B rows whose buffers stay in place, to run with little overhead.

        See `Sequencer` for arguments and errors.
        """
        owner: Any = self
        return Sequencer(
            owner,
            steps,
            batch,
            lengths=lengths,
            mask=mask,
            is_first=is_first,
            reset_to=reset_to,
            reverse=reverse,
            masked_outputs=masked_outputs,
            like=like,
        )
