"""A step of a pool: check its arguments, which may be arrays of any library, and run the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.arrays.exchange import Exchange, is_native
from fusedlstm.arrays.libraries import library_of
from fusedlstm.validation.arguments import check_shape, fail
from fusedlstm.validation.signatures import Signatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Array, Empty
    from fusedlstm.backends.base import Backend, CellEngine
    from fusedlstm.pool_slots import PoolSlots
    from fusedlstm.validation.step import StepChecks


class PoolStep:
    """Checks and converts the arguments of a pool's step, and runs it.

    Args:
        backend: the backend of the states' arrays.
        checks: the checks of the first layer's arguments.
        output_size: the width of the outputs.
        slots: the pool's slots. They check the slots of a step, and hold the engine that steps the states.
        maker: the name of the function that makes arrays, for messages.
    """

    def __init__(self, backend: Backend, checks: StepChecks, output_size: int, slots: PoolSlots, maker: str) -> None:
        self._backend = backend
        self._checks = checks
        self._width = {"P": output_size}
        self._slots = slots
        self._maker = maker
        self._known = Signatures()  # signatures of (x, out) that passed the checks

    def __call__(self, engines: Sequence[CellEngine], x: Array, slots: Any, is_first: Any, out: Array | None) -> Array:
        """Step with arrays of any library, using the cell's engines."""
        native, checks = self._backend.array_type, self._checks
        is_plain = type(slots) is native or library_of(slots) is None
        if (
            type(x) is native
            and is_plain
            and (out is None or type(out) is native)
            and is_native(native, is_first, None)
        ):
            return self._step(engines, x, slots, is_first, out, self._backend.empty)
        with Exchange(self._backend, x, self._maker) as exchange:
            result = self._step(
                engines,
                exchange.borrow("x", x, checks.dtype, checks.whose),
                slots if library_of(slots) is None else exchange.borrow_mask("slots", slots),
                exchange.borrow_mask("is_first", is_first),
                exchange.borrow_output("out", out, checks.dtype, checks.whose),
                exchange.empty,
            )
            return exchange.lend(result) if out is None else out

    def _step(
        self, engines: Sequence[CellEngine], x: Array, slots: Any, is_first: Any, out: Array | None, empty: Empty
    ) -> Array:
        """Step with the backend's arrays. Return the outputs in `out`, or in a new array from `empty`."""
        other = x if out is None else out
        try:
            signature = out is None, self._backend.signature(x, other, other)
        except AttributeError:  # one of them isn't an array: the checks will say so
            signature = None
        if signature not in self._known:
            self._check_arrays(x, out, signature)
        B = x.shape[0]
        if is_first is not None:
            is_first = self._checks.check_mask(is_first, B)
        checked = self._slots.checked_for_step(slots, B)
        if out is None:
            out = empty((B, self._width["P"]), self._checks.dtype)
        else:
            self._check_out(out, x, is_first)
        if self._slots.snapshots:
            self._slots.keep(checked)
        self._slots.engine.step(engines, x, checked, is_first, out)
        return out

    def _check_arrays(self, x: Array, out: Array | None, signature: Any) -> None:
        """Check x and `out`, and remember that their signature passed."""
        self._checks.check_x(x)
        if out is not None:
            self._checks.check_input("out", out, self._checks.dtype)
            check_shape("out", out.shape, "B P", {**self._width, "B": x.shape[0]})
        self._known.add(signature)

    def _check_out(self, out: Array, x: Array, is_first: Array | None) -> None:
        """Raise unless `out` can be written without changing an input."""
        self._checks.check_writeable("out", out)
        for name, array in (("x", x), ("is_first", is_first)):
            if array is not None and self._backend.overlap(out, array):
                fail(ValueError, "out", f"memory apart from {name}", "an overlapping range of addresses")
