"""The checks of one step's arguments: x, state, is_first, reset_to and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

from fusedlstm.checks import check_array, check_dtype, check_shape, fail
from fusedlstm.state import LSTMState, check_state_type

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fusedlstm.backends import Backend
    from fusedlstm.dtypes import Array


@dataclass(frozen=True)
class StepChecks:
    """What the arguments of a step must be: sizes by letter (I, N, P), dtypes, and the backend's arrays."""

    backend: Backend
    sizes: Mapping[str, int]
    dtype: np.dtype[Any]  # of x and h
    c_dtype: np.dtype[Any]

    def check_inputs(self, x: Array, state: LSTMState) -> None:
        """Raise unless x is (B, I), state.h (B, P) and state.c (B, N), of the right dtypes and device."""
        self.check_input("x", x, self.dtype)
        if x.ndim != 2:
            wanted = f"shape (B, I) = (B, {self.sizes['I']})"
            fail(ValueError, "x", wanted, f"shape {x.shape}", _dimensions_hint(x.ndim))
        check_shape("x", x.shape, "B I", self._with_batch(x))
        self.check_state("state", state, self._with_batch(x))

    def _with_batch(self, x: Array) -> dict[str, int]:
        return {**self.sizes, "B": x.shape[0]}

    def check_input(self, name: str, array: Array, dtype: np.dtype[Any]) -> None:
        """Raise unless `array` is the backend's, on its device, and has this dtype."""
        check_array(name, array, self.backend.array_type, self.backend.device)
        place = self.backend.device_of(array)
        if place != self.backend.device:
            fail(ValueError, name, f"an array on {self.backend.device}", f"one on {place}")
        narrow_c = name.endswith(".c") and array.dtype.itemsize == 2
        why = "c's, whatever x's is" if narrow_c else "the cell's"
        check_dtype(name, array.dtype, dtype, why)

    def check_state(self, name: str, state: LSTMState, sizes: Mapping[str, int], rows: str = "B") -> None:
        """Raise unless both arrays of a state have `rows` rows and the right widths, dtypes and device."""
        self.check_input(f"{name}.h", state.h, self.dtype)
        self.check_input(f"{name}.c", state.c, self.c_dtype)
        for part, array, spec in (("h", state.h, f"{rows} P"), ("c", state.c, f"{rows} N")):
            check_shape(f"{name}.{part}", array.shape, spec, sizes, _state_hint(state, part, sizes))

    def check_mask(self, is_first: Any, B: int) -> Array:
        """Return is_first as a boolean array (B,) on the device, or raise."""
        mask = self.backend.mask(is_first)
        if mask.dtype != np.bool_:
            fail(
                TypeError,
                "is_first",
                "booleans, True for the rows to reset before this step",
                f"dtype {mask.dtype}",
                "Use is_first != 0. A flag that a step ended an episode belongs to the next step: "
                "is_first[t + 1] = done[t]",
            )
        check_shape("is_first", mask.shape, "B", {"B": B})
        return mask

    def check_reset(self, reset_to: Any, is_first: Any, B: int) -> LSTMState:
        """Return the state that rows are reset to, of one row or B, or raise."""
        check_state_type(reset_to, "reset_to")
        if is_first is None:
            fail(ValueError, "reset_to", "None without is_first, which says the rows to reset", "a state")
        one_row = reset_to.h.shape[:1] == (1,) and reset_to.c.shape[:1] == (1,)
        self.check_state("reset_to", reset_to, {**self.sizes, "B": B}, "1" if one_row else "B")
        state: LSTMState = reset_to
        return state

    def check_out(self, out: Any, x: Array, state: LSTMState, reset_to: LSTMState | None) -> None:
        """Raise unless both arrays of `out` can be written without changing an input, but for c itself."""
        if type(out) is LSTMState and self.backend.overlap(out.h, state.h):
            fail(
                ValueError,
                "out.h",
                "memory apart from state.h, which would be overwritten while it is still read",
                "memory that overlaps it",
                "Alternate two states: cell(x, a, out=b), then cell(x, b, out=a). out.c may be state.c",
            )
        inputs = {"x": x, "state.h": state.h}
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
            fail(ValueError, "out.c", wanted, "memory that overlaps part of it")
        for name, array in inputs.items():
            for target in ("h", "c"):
                if array is not None and overlap(getattr(out, target), array):
                    fail(ValueError, f"out.{target}", f"memory apart from {name}", "memory that overlaps it")
        for name, array in ((name_of_c, c), ("out.c", out.c)):
            if overlap(out.h, array):
                fail(ValueError, "out.h", f"memory apart from {name}", "memory that overlaps it")

    def check_writeable(self, name: str, array: Array) -> None:
        """Raise unless an array to be written is C-contiguous and not read-only."""
        if not array.flags.c_contiguous:
            fail(ValueError, name, "a C-contiguous array", f"strides {array.strides} for shape {array.shape}")
        if not getattr(array.flags, "writeable", True):  # CuPy's arrays are always writeable
            fail(ValueError, name, "an array that can be written", "a read-only one")


class CheckedPairs:
    """The last pairs of (state, out) that passed the checks: a loop alternates two, and checks them once.

    A pair is known by its identity, through weak references, so no state is kept alive. Its arrays can't
    be exchanged, as LSTMState is immutable; only x is compared anew.
    """

    MOST = 16

    def __init__(self, overlap: Callable[[Array, Array], bool]) -> None:
        self._overlap = overlap
        self._pairs: dict[tuple[int, int], tuple[ref[LSTMState], ref[LSTMState]]] = {}

    def fits(self, x: Array, state: LSTMState, out: LSTMState) -> bool:
        """Whether these two passed before, for this batch, and x shares no memory with `out`."""
        pair = self._pairs.get((id(state), id(out)))
        return (
            pair is not None
            and pair[0]() is state
            and pair[1]() is out
            and not self._overlap(out.h, x)
            and not self._overlap(out.c, x)
        )

    def remember(self, state: LSTMState, out: LSTMState) -> None:
        """Note that these two passed."""
        if len(self._pairs) >= self.MOST:
            self._pairs.clear()
        self._pairs[id(state), id(out)] = ref(state), ref(out)


def _dimensions_hint(ndim: int) -> str:
    if ndim == 1:
        return "One row is x[None]"
    if ndim == 3:
        return "A cell takes one step: for a sequence (T, B, I), call it with x[t] and the last state"
    return ""


def _state_hint(state: LSTMState, part: str, sizes: Mapping[str, int]) -> str:
    """Say which known mistake a state of a wrong shape looks like, if any."""
    B, N, P = sizes["B"], sizes["N"], sizes["P"]
    array = getattr(state, part)
    width = P if part == "h" else N
    if P != N and state.h.shape[1:] == (N,) and state.c.shape[1:] == (P,):
        return "h and c look swapped: h is the output, c the cell's memory"
    if array.shape == (B, N + P):
        return f'This looks like a packed state: unpack_state(packed, {N}, order="ch") or order="hc"'
    if array.shape == (width,):
        return f"One row is {part}[None]"
    if array.shape == (1, width):
        return f"Nothing broadcasts: repeat the row, {part}.repeat({B}, axis=0)"
    return ""
