"""The checks of a sequence's arguments: xs, the states of all layers, lengths, mask, is_first and reset_to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import directions
from fusedlstm.arrays import dtypes
from fusedlstm.arrays.host import host_mask, to_host
from fusedlstm.state import LSTMState, check_state_type
from fusedlstm.validation.arguments import check_bool, check_shape, describe_type, fail
from fusedlstm.validation.step import StepChecks, one_row_or_all
from fusedlstm.validation.subclasses import check_plain

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import Array, NumpyArray
    from fusedlstm.backends.base import Backend
    from fusedlstm.stacked import StackedWeights


class SequenceChecks:
    """The checks of an LSTM's arguments.

    Args:
        backend: the backend of their arrays.
        weights: the layers, which give the sizes and the dtype.
        maker: the name of the function that makes arrays, for messages.
        batch_first: whether xs is (B, T, I) and masks are (B, T).
        whose: the owner of the dtype, for messages.
    """

    def __init__(
        self,
        backend: Backend,
        weights: StackedWeights,
        maker: str,
        *,
        batch_first: bool,
        whose: str = "the weights'",
    ) -> None:
        dtype, c_dtype = weights.dtype, dtypes.state_dtype(weights.dtype)
        self.layer_checks = [
            StepChecks(
                backend,
                {"I": layer.input_size, "N": layer.hidden_size, "P": layer.output_size},
                dtype,
                c_dtype,
                whose,
                maker,
            )
            for layer in weights.layers
        ]
        self._directions = directions.as_argument(weights.directions)
        self.batch_first = batch_first
        self.time_by_batch = "B T" if batch_first else "T B"

    def check_xs(self, xs: Array) -> None:
        """Raise unless xs is (T, B, I), or (B, T, I) with batch_first, in the weights' dtype and on their device."""
        first = self.layer_checks[0]
        first.check_input("xs", xs, first.dtype)
        I = first.sizes["I"]
        if xs.ndim != 3 or xs.shape[2] != I:
            letters = self.time_by_batch.replace(" ", ", ")
            hint = "For one step, use lstm.step(x, state)" if xs.ndim == 2 else ""
            fail(ValueError, "xs", f"shape ({letters}, I) = ({letters}, {I})", f"shape {xs.shape}", hint)

    def check_x(self, x: Array) -> None:
        """Raise unless x is the (B, I) of one step."""
        self.layer_checks[0].check_x(x)

    def check_states(self, name: str, states: Any, B: int, *, may_be_one_row: bool = False) -> tuple[LSTMState, ...]:
        """Return a tuple of LSTMState, one of B rows (or one row) for each layer and direction, or raise."""
        count = len(self.layer_checks)
        wanted = f"a tuple of {count} LSTMState, one for each layer and direction"
        if isinstance(states, LSTMState):
            hint = f"Use ({name},)" if count == 1 else "If its arrays are (L*D, B, N), use unstack_states(h=..., c=...)"
            fail(TypeError, name, wanted, "one LSTMState", hint)
        if not isinstance(states, (tuple, list)):
            hint = "Start from zero_state(batch)" if states is None else ""
            fail(TypeError, name, wanted, describe_type(states), hint)
        for k, state in enumerate(states):
            if hasattr(state, "shape"):
                hint = "For PyTorch's (h, c), each (L*D, B, N), use unstack_states(h=..., c=...)"
                fail(TypeError, name, wanted, f"a {type(states).__name__} of arrays", hint)
            check_state_type(state, f"{name}[{k}]")
        if len(states) != count:
            fail(ValueError, name, wanted, str(len(states)))
        for k, (state, layer) in enumerate(zip(states, self.layer_checks, strict=True)):
            rows = one_row_or_all(state) if may_be_one_row else "B"
            layer.check_state(f"{name}[{k}]", state, {**layer.sizes, "B": B}, rows)
        return tuple(states)

    def check_reset(self, reset_to: Any, is_first: Any, B: int) -> tuple[LSTMState, ...] | None:
        """Return the states that rows are reset to, of one row or B, or None for zeros. Raise if they are wrong."""
        if reset_to is None:
            return None
        states = self.check_states("reset_to", reset_to, B, may_be_one_row=True)
        if is_first is None:
            fail(ValueError, "reset_to", "None without is_first, which marks the rows to reset", "states")
        return states

    def check_is_first(self, is_first: Any, T: int, B: int) -> Array | None:
        """Return is_first as (T, B) booleans, in host memory or on the device as it came, or raise."""
        if is_first is None:
            return None
        mask = self.layer_checks[0].check_mask(is_first, B, T, self.time_by_batch, uploads=False)
        return mask.swapaxes(0, 1) if self.batch_first else mask

    def check_reverse(self, reverse: Any) -> None:
        """Raise unless `reverse` is a bool. It must be False unless every layer is forward."""
        check_bool("reverse", reverse)
        if reverse and self._directions:
            fail(ValueError, "reverse", f"False with {self._directions}", "True")

    def check_steps(
        self, lengths: Any, mask: Any, T: int, B: int, *, strict: bool = False
    ) -> tuple[Array | None, Array | None]:
        """Return checked lengths (B,) and mask (T, B) of the steps that rows take, in host memory or on the device.

        Values of lengths on a device are only checked if `strict`, which waits for the device.
        """
        if mask is None:
            return None if lengths is None else self._check_lengths(lengths, T, B, strict=strict), None
        if lengths is not None:
            fail(ValueError, "mask", "None if lengths are given, as they do the same", "a mask")
        return None, self._check_step_mask(mask, T, B)

    def _check_step_mask(self, mask: Any, T: int, B: int) -> Array:
        check_plain("mask", mask)
        wanted = "booleans, True for the steps that a row takes"
        if isinstance(mask, (list, tuple)):
            try:
                array = host_mask(mask)
            except ValueError:  # lists of unequal lengths
                fail(TypeError, "mask", wanted, describe_type(mask))
        else:
            array = self._host_or_own("mask", mask)
        if array.dtype != np.bool_:
            fail(TypeError, "mask", wanted, f"dtype {array.dtype}", "Use mask != 0")
        check_shape("mask", array.shape, self.time_by_batch, {"T": T, "B": B})
        return array.swapaxes(0, 1) if self.batch_first else array

    def _check_lengths(self, lengths: Any, T: int, B: int, *, strict: bool) -> Array:
        """Return lengths as integers (B,), or raise."""
        check_plain("lengths", lengths)
        empty = isinstance(lengths, (list, tuple)) and not lengths  # NumPy would make it an array of floats
        array = np.zeros(0, np.int64) if empty else self._host_or_own("lengths", lengths)
        if array.dtype.kind not in "iu":
            fail(TypeError, "lengths", "integers, the steps that each row takes", f"dtype {array.dtype}")
        check_shape("lengths", array.shape, "B", {"B": B})
        if strict or isinstance(array, np.ndarray):
            check_range(to_host("lengths", array), T)
        return array

    def _host_or_own(self, name: str, value: Any) -> Array:
        """Return an array of numbers: the backend's own unchanged, anything else as a NumPy array."""
        first = self.layer_checks[0]
        if isinstance(value, np.ndarray) or not isinstance(value, first.backend.array_type):
            return to_host(name, value)
        first.check_place(name, value)
        return value


def check_range(lengths: NumpyArray, T: int) -> None:
    """Raise unless all lengths are from 0 to T."""
    wrong = np.flatnonzero((lengths < 0) | (lengths > T))
    if wrong.size:
        row = int(wrong[0])
        fail(ValueError, "lengths", f"lengths from 0 to T = {T}", f"{lengths[row]} for row {row}")
