"""The backward pass of a call, which `LSTM.vjp` and `LSTMCell.vjp` return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fusedlstm.arrays.exchange import Exchange
from fusedlstm.gradients import CellGradients, LSTMGradients, WeightGradients
from fusedlstm.state import LSTMState, check_state_type
from fusedlstm.validation.arguments import check_bool, check_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.base import Backend, CellEngine, TrainingEngine
    from fusedlstm.backends.sequence_run import SequenceRun
    from fusedlstm.validation.sequence import SequenceChecks
    from fusedlstm.validation.step import StepChecks


@dataclass
class Forward:
    """A forward pass, with everything that its backward pass needs.

    Attributes:
        backend: where it ran.
        training: its engine.
        engines: the engine of each layer and direction.
        run: the arguments, in the backend's arrays.
        like: the argument whose library the gradients are in.
        every: the number of steps between checkpoints, or None.
        saved: a list with the memory for the backward pass. It is empty during a backward pass, and once the memory is
            released.
    """

    backend: Backend
    training: TrainingEngine
    engines: Sequence[CellEngine]
    run: SequenceRun
    like: Any
    every: int | None = None
    saved: list[list[Array]] = field(default_factory=list)

    def start(self, *, is_step: bool = False) -> None:
        """Run the forward pass, and keep what the backward pass needs."""
        self.run.lengths, self.run.mask, self.run.is_first = (
            None if flags is None else self.backend.xp.array(flags)  # the caller may reuse a buffer of flags
            for flags in (self.run.lengths, self.run.mask, self.run.is_first)
        )
        self.saved.append(self.training.forward(self.engines, self.run, every=self.every, is_step=is_step))
        self.run.outputs, self.run.finals = self.run.outputs[:0].copy(), ()  # the results are the caller's alone

    def backward(self, d_outputs: Array | None, d_finals: Sequence[LSTMState] | None, *, retain: bool) -> LSTMGradients:
        """Run the backward pass. Release the memory, unless `retain` is set or this raises."""
        try:
            saved = self.saved.pop()  # no other call may use it meanwhile
        except IndexError:
            raise RuntimeError(
                "this pullback has been called already, which freed its memory, or another call is in progress. "
                "To call it again, use retain=True in each call but the last"
            ) from None
        keep = True
        try:
            gradients = self.training.backward(self.engines, self.run, saved, d_outputs, d_finals, every=self.every)
            keep = retain
        finally:
            if keep:
                self.saved.append(saved)
        if not keep:
            self.training.release(saved)
        return gradients


class LSTMPullback:
    """The backward pass of one call of an LSTM. `LSTM.vjp` returns it.

    It holds the memory that the forward pass saved. A call without `retain` returns this memory to the LSTM, whose next
    `vjp` of the same sizes reuses it. The pullback also holds xs, the states, the weights and `reset_to`, not copies.
    """

    def __init__(self, forward: Forward, checks: SequenceChecks, maker: str) -> None:
        self._forward, self._checks, self._maker = forward, checks, maker

    def __call__(
        self, d_outputs: Array | None, d_state: tuple[LSTMState, ...] | None, *, retain: bool = False
    ) -> LSTMGradients:
        """Return the gradients of a loss, from its gradients with respect to the outputs and the final states.

        Args:
            d_outputs: in the shape of the outputs and the dtype of the LSTM, on its device, with any strides; None for
                zeros. With masked_outputs="zero", gradients of steps that a row does not take have no effect.
            d_state: an LSTMState for each layer and direction, in the shapes of the final states; None for zeros.
            retain: whether to keep the memory for another call. Calls don't add up their gradients.

        Returns:
            Gradients in new arrays, in the library of xs.

        Raises:
            RuntimeError: an earlier call has freed the memory.
            TypeError: an argument has the wrong kind, dtype or library.
            ValueError: an argument has the wrong shape or device.
        """
        check_bool("retain", retain)
        forward, first = self._forward, self._checks.layer_checks[0]
        T, B, _ = forward.run.xs.shape
        with Exchange(forward.backend, forward.like, self._maker) as exchange:
            if d_outputs is not None:
                d_outputs = exchange.borrow("d_outputs", d_outputs, first.dtype, first.whose)
                first.check_input("d_outputs", d_outputs, first.dtype)
                sizes = {"T": T, "B": B, "W": forward.run.outputs.shape[2]}
                check_shape("d_outputs", d_outputs.shape, f"{self._checks.time_by_batch} W", sizes)
                d_outputs = self._swapped(d_outputs)
            if d_state is not None:
                d_state = self._checks.check_states("d_state", _borrowed(exchange, d_state, first), B)
            gradients = forward.backward(d_outputs, d_state, retain=retain)
            reset_to = gradients.reset_to
            return LSTMGradients(
                xs=exchange.lend(forward.backend.xp.ascontiguousarray(self._swapped(gradients.xs))),
                state=tuple(exchange.lend_state(each) for each in gradients.state),
                reset_to=None if reset_to is None else tuple(exchange.lend_state(each) for each in reset_to),
                weights=tuple(_lent(exchange, each) for each in gradients.weights),
            )

    def _swapped(self, array: Array) -> Array:
        """Return an array with time and batch swapped if the LSTM has the batch first."""
        return array.swapaxes(0, 1) if self._checks.batch_first else array


class CellPullback:
    """The backward pass of one step of a cell. `LSTMCell.vjp` returns it.

    It holds the memory that the step saved, until a call without `retain`. It also holds x, the state, the weights and
    `reset_to`, not copies.
    """

    def __init__(self, forward: Forward, checks: StepChecks) -> None:
        self._forward, self._checks = forward, checks

    def __call__(self, d_state: LSTMState, *, retain: bool = False) -> CellGradients:
        """Return the gradients of a loss, from its gradient with respect to the state after the step.

        Args:
            d_state: h (B, P) and c (B, N), in the dtype of the cell, on its device, with any strides. If the loss also
                depends on the output, add its gradient to that of h.
            retain: whether to keep the memory for another call.

        Returns:
            Gradients in new arrays, in the library of x.

        Raises:
            RuntimeError: an earlier call has freed the memory.
            TypeError: an argument has the wrong kind, dtype or library.
            ValueError: an argument has the wrong shape or device.
        """
        check_bool("retain", retain)
        forward, checks = self._forward, self._checks
        with Exchange(forward.backend, forward.like) as exchange:
            d_state = exchange.borrow_state("d_state", d_state, checks.dtype, checks.c_dtype, checks.whose)
            check_state_type(d_state, "d_state")
            checks.check_state("d_state", d_state, {**checks.sizes, "B": forward.run.xs.shape[1]})
            gradients = forward.backward(None, [d_state], retain=retain)
            reset_to = gradients.reset_to
            return CellGradients(
                x=exchange.lend(gradients.xs[0]),
                state=exchange.lend_state(gradients.state[0]),
                reset_to=None if reset_to is None else exchange.lend_state(reset_to[0]),
                weights=_lent(exchange, gradients.weights[0]),
            )


def _borrowed(exchange: Exchange, states: Any, checks: StepChecks) -> Any:
    """Borrow the gradients of states. Return anything that isn't a tuple of states unchanged."""
    if not isinstance(states, (tuple, list)):
        return states
    wanted = checks.dtype, checks.c_dtype, checks.whose
    return tuple(exchange.borrow_state(f"d_state[{k}]", each, *wanted) for k, each in enumerate(states))


def _lent(exchange: Exchange, gradients: WeightGradients) -> WeightGradients:
    return WeightGradients(**{name: exchange.lend(array) for name, array in gradients.arrays().items()})
