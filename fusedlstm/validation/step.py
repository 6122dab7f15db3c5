"""The checks of one step's arguments: x, state, is_first, reset_to and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

from fusedlstm.arrays.host import host_mask
from fusedlstm.state import LSTMState, check_state_type
from fusedlstm.validation.arguments import check_array, check_dtype, check_shape, describe_type, fail
from fusedlstm.validation.subclasses import check_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.base import Backend


@dataclass(frozen=True)
class StepChecks:
    """The checks of a step's arguments: sizes by letter (I, N, P), dtypes, and the backend's arrays."""

    backend: Backend
    sizes: Mapping[str, int]
    dtype: np.dtype[Any]  # of x and h
    c_dtype: np.dtype[Any]
    whose: str = "the cell's"  # the owner of the dtype, for messages
    maker: str = "cell.asarray"  # the function that makes arrays, for messages

    def check_inputs(self, x: Array, state: LSTMState) -> None:
        """Raise unless x is (B, I), state.h (B, P) and state.c (B, N), of the right dtypes and device."""
        self.check_x(x)
        self.check_state("state", state, self._with_batch(x))

    def check_x(self, x: Array) -> None:
        """Raise unless x is (B, I), of the right dtype and device."""
        self.check_input("x", x, self.dtype)
        if x.ndim != 2:
            wanted = f"shape (B, I) = (B, {self.sizes['I']})"
            fail(ValueError, "x", wanted, f"shape {x.shape}", _dimensions_hint(x.ndim))
        check_shape("x", x.shape, "B I", self._with_batch(x))

    def _with_batch(self, x: Array) -> dict[str, int]:
        return {**self.sizes, "B": x.shape[0]}

    def check_input(self, name: str, array: Array, dtype: np.dtype[Any]) -> None:
        """Raise unless `array` is the backend's, on its device, and has this dtype."""
        arguments = "..." if dtype == self.dtype else f'..., "{dtype}"'
        hint = f"Use {self.maker}({arguments}) to make one"
        check_array(name, array, self.backend.array_type, self.backend.device, hint)
        self.check_place(name, array)
        check_dtype(name, array.dtype, dtype, self.why(dtype))

    def why(self, dtype: np.dtype[Any]) -> str:
        """Return the owner of this dtype, for messages."""
        return self.whose if dtype == self.dtype else "c's, with a 16-bit h"

    def check_state(self, name: str, state: LSTMState, sizes: Mapping[str, int], rows: str = "B") -> None:
        """Raise unless both arrays of a state have `rows` rows and the right widths, dtypes and device."""
        self.check_input(f"{name}.h", state.h, self.dtype)
        self.check_input(f"{name}.c", state.c, self.c_dtype)
        for part, array, spec in (("h", state.h, f"{rows} P"), ("c", state.c, f"{rows} N")):
            check_shape(f"{name}.{part}", array.shape, spec, sizes, _state_hint(name, state, part, sizes))

    def check_mask(self, is_first: Any, B: int, T: int = 0, shape: str = "B", *, uploads: bool = True) -> Array:
        """Return is_first as booleans, or raise. `shape` is "B", or "T B" or "B T" for a sequence.

        The result is on the device, unless flags are in host memory and `uploads` is False.
        """
        if type(is_first) is self.backend.array_type and shape == "B" and self._is_mask(is_first, B):
            return is_first
        wanted = "booleans, True for the rows to reset before this step"
        if type(is_first) is not np.ndarray:
            check_plain("is_first", is_first)
        try:
            on_device = uploads or isinstance(is_first, self.backend.array_type)
            mask = self.backend.mask(is_first) if on_device else host_mask(is_first)
        except (TypeError, ValueError):  # lists of unequal lengths, arrays on another device
            fail(TypeError, "is_first", wanted, describe_type(is_first))
        if mask.dtype != np.bool_:
            array = "is_first" if hasattr(is_first, "dtype") else "numpy.asarray(is_first)"
            hint = (
                f"Use {array} != 0, as for Stable-Baselines3's episode_starts. If a flag says that a step ended an "
                "episode, use it for the next step: is_first[t + 1] = done[t]"
            )
            fail(TypeError, "is_first", wanted, f"dtype {mask.dtype}", hint)
        if on_device:
            self.check_place("is_first", mask)
        check_shape("is_first", mask.shape, shape, {"B": B, "T": T})
        return mask

    def _is_mask(self, array: Array, B: int) -> bool:
        """Return whether an array passes all checks of a mask. This takes less time than finding out why it doesn't."""
        fits: bool = array.shape == (B,) and array.dtype == np.bool_
        return fits and self.backend.device_of(array) == self.backend.device

    def check_place(self, name: str, array: Array) -> None:
        """Raise unless an array of the backend's type is on its device."""
        place = self.backend.device_of(array)
        if place != self.backend.device:
            fail(ValueError, name, f"an array on {self.backend.device}", f"one on {place}")

    def check_reset(self, reset_to: Any, is_first: Any, B: int) -> LSTMState:
        """Return the state that rows are reset to, of one row or B, or raise."""
        check_state_type(reset_to, "reset_to")
        state: LSTMState = reset_to
        if is_first is None:
            fail(ValueError, "reset_to", "None without is_first, which marks the rows to reset", "a state")
        self.check_state("reset_to", state, {**self.sizes, "B": B}, one_row_or_all(state))
        return state

    def check_out(
        self, out: Any, x: Array, state: LSTMState, is_first: Array | None, reset_to: LSTMState | None
    ) -> None:
        """Raise unless both arrays of `out` can be written without changing an input. out.c may be state.c itself."""
        check_state_type(out, "out")
        if isinstance(out.h, self.backend.array_type) and self.backend.overlap(out.h, state.h):
            fail(
                ValueError,
                "out.h",
                "memory apart from state.h, which would be overwritten while it is still read",
                "an overlapping range of addresses",
                "Alternate two states: cell(x, a, out=b), then cell(x, b, out=a). out.c may be state.c",
            )
        inputs = {"x": x, "state.h": state.h, "is_first": is_first}
        if reset_to is not None:
            inputs |= {"reset_to.h": reset_to.h, "reset_to.c": reset_to.c}
        self.check_out_arrays(out, state.c, inputs, "state.c")

    def check_out_arrays(self, out: Any, c: Array, inputs: Mapping[str, Array | None], name_of_c: str = "c") -> None:
        """Raise unless `out` is a pair of writeable arrays apart from the inputs; out.c may be c itself."""
        check_state_type(out, "out")
        self.check_state("out", out, {**self.sizes, "B": c.shape[0]})
        self.check_writeable("out.h", out.h)
        self.check_writeable("out.c", out.c)
        overlap = self.backend.overlap
        if overlap(out.c, c) and not self.backend.same_place(out.c, c):
            wanted = f"{name_of_c} itself, or memory apart from it"
            fail(ValueError, "out.c", wanted, "an overlapping range of addresses")
        for name, array in inputs.items():
            for target in ("h", "c"):
                if array is not None and overlap(getattr(out, target), array):
                    fail(ValueError, f"out.{target}", f"memory apart from {name}", "an overlapping range of addresses")
        for name, array in ((name_of_c, c), ("out.c", out.c)):
            if overlap(out.h, array):
                fail(ValueError, "out.h", f"memory apart from {name}", "an overlapping range of addresses")

    def check_writeable(self, name: str, array: Array) -> None:
        """Raise unless an array to be written is C-contiguous and not read-only."""
        if not array.flags.c_contiguous:
            fail(ValueError, name, "a C-contiguous array", f"strides {array.strides} for shape {array.shape}")
        if not getattr(array.flags, "writeable", True):  # CuPy's arrays are always writeable
            fail(ValueError, name, "an array that can be written", "a read-only one")


class CheckedPairs:
    """The latest pairs (state, out) that passed the checks. A loop that alternates two pairs checks each pair once.

    A pair is recognised by identity, through weak references, so no state is kept alive. Its arrays can't be replaced,
    because LSTMState is immutable. Only x and is_first are checked each time.
    """

    MOST = 16

    def __init__(self, overlap: Callable[[Array, Array], bool]) -> None:
        self._overlap = overlap
        self._pairs: dict[tuple[int, int], tuple[ref[LSTMState], ref[LSTMState]]] = {}

    def fits(self, out: LSTMState, state: LSTMState, x: Array, is_first: Array | None) -> bool:
        """Return whether this pair has passed before, and `out` shares no memory with x or is_first."""
        pair = self._pairs.get((id(state), id(out)))
        if pair is None or pair[0]() is not state or pair[1]() is not out:
            return False
        overlap = self._overlap
        if is_first is not None and (overlap(out.h, is_first) or overlap(out.c, is_first)):
            return False
        return not (overlap(out.h, x) or overlap(out.c, x))

    def remember(self, state: LSTMState, out: LSTMState) -> None:
        """Remember that this pair passed."""
        if len(self._pairs) >= self.MOST:
            self._pairs.clear()
        self._pairs[id(state), id(out)] = ref(state), ref(out)


def one_row_or_all(state: LSTMState) -> str:
    """Return the first term of a reset state's shapes: "1" if the state seems to have one row, else "B"."""
    return "1" if all(getattr(part, "shape", ())[:1] == (1,) for part in (state.h, state.c)) else "B"


def _dimensions_hint(ndim: int) -> str:
    if ndim == 1:
        return "For one row, use x[None]"
    if ndim == 3:
        return "This takes one step. For a sequence (T, B, I), use LSTM(weights)(x)"
    return ""


def _state_hint(name: str, state: LSTMState, part: str, sizes: Mapping[str, int]) -> str:
    """Return a hint if a state's wrong shape looks like a known mistake, else ""."""
    B, N, P = sizes["B"], sizes["N"], sizes["P"]
    array = getattr(state, part)
    width = P if part == "h" else N
    if P != N and state.h.shape[1:] == (N,) and state.c.shape[1:] == (P,):
        return "h and c look swapped: h is the output, c the cell's memory"
    if array.shape == (B, N + P):
        return f'This looks like a packed state: use unpack_state(packed, {N}, order="ch") or order="hc"'
    if array.shape == (width,):
        return f"For one row, use {name}.{part}[None]"
    if array.shape == (1, width):
        return f"States don't broadcast: repeat the row with {name}.{part}.repeat({B}, axis=0)"
    return ""
