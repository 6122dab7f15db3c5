"""The checks of states to pack or stack, or to make from other arrays. Each state comes with its name for errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.arrays import dtypes
from fusedlstm.backends.select import backend_of
from fusedlstm.state import LSTMState, check_state_type
from fusedlstm.validation.arguments import check_array, check_dtype, fail

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.arrays.exchange import Exchange
    from fusedlstm.backends.base import Backend


def named_states(name: str, states: Any) -> list[tuple[str, LSTMState]]:
    """Return each state after its name for errors: `state` for one, `state[0]` ... for a tuple or list.

    A pair of values that aren't states counts as the h and c of one state. The error then says how to name them.
    """
    are_several = isinstance(states, (tuple, list))
    are_pair = are_several and len(states) == 2 and not any(isinstance(each, LSTMState) for each in states)
    if are_several and not are_pair:
        if not states:
            fail(ValueError, name, "at least one LSTMState(h=..., c=...)", f"an empty {type(states).__name__}")
        named = [(f"{name}[{k}]", one) for k, one in enumerate(states)]
    else:
        named = [(name, states)]
    for one_name, one in named:
        check_state_type(one, one_name)
    return named


def backend_of_states(named: list[tuple[str, LSTMState]]) -> Backend:
    """Return the backend for the first state's device."""
    name, first = named[0]
    return backend_of(first.c, f"{name}.c")


def borrow_states(exchange: Exchange, named: list[tuple[str, LSTMState]]) -> list[tuple[str, LSTMState]]:
    """Return the states with both arrays borrowed."""
    return [(name, exchange.borrow_state(name, state)) for name, state in named]


def check_states(named: list[tuple[str, LSTMState]], backend: Backend) -> None:
    """Raise unless the arrays can be a cell's states, with the same batch, device and dtype."""
    first_name, first = named[0]
    for name, state in named:
        h, c = state.h, state.c
        check_beside(f"{name}.c", c, backend)
        check_beside(f"{name}.h", h, backend)
        check_ndim(f"{name}.h", h, "B P")
        check_ndim(f"{name}.c", c, "B N")
        if h.shape[0] != c.shape[0]:
            fail(ValueError, name, "h and c of the same batch", f"h {h.shape} and c {c.shape}")
        check_dtypes(name, h, c)
        if c.shape[0] != first.c.shape[0]:
            fail(ValueError, name, f"a batch of {first.c.shape[0]}, that of {first_name}", str(c.shape[0]))
        check_dtype(f"{name}.h", h.dtype, first.h.dtype, f"that of {first_name}.h")


def check_beside(name: str, array: Any, backend: Backend) -> None:
    """Raise unless an array is of this backend's library, and on its device."""
    check_array(name, array, backend.array_type, backend.device, "All arrays must be from the same library")
    place = backend.device_of(array)
    if place != backend.device:
        fail(ValueError, name, f"an array on {backend.device}", f"one on {place}")


def check_layers(prefix: str, h: Array, c: Array) -> None:
    """Raise unless h is (L, B, P) and c (L, B, N), with L at least 1. Messages put `prefix` before h and c."""
    name = f"{prefix}h"
    check_ndim(name, h, "L B P")
    check_ndim(f"{prefix}c", c, "L B N")
    if h.shape[:2] != c.shape[:2]:
        fail(ValueError, name, f"shape (L, B, P) with L, B = {c.shape[:2]}, those of c", f"shape {h.shape}")
    if not h.shape[0]:
        fail(ValueError, name, "shape (L, B, P) of at least one layer", f"shape {h.shape}")
    check_dtypes(f"{name} and c", h, c)


def check_dtypes(name: str, h: Array, c: Array) -> None:
    """Raise unless h and c have the dtypes of a cell's states."""
    if not dtypes.is_supported(h.dtype) or dtypes.state_dtype(h.dtype) != c.dtype:
        wanted = "h of float64, float32, float16 or bfloat16, and c of h's dtype, or float32 if that has 16 bits"
        fail(TypeError, name, wanted, f"h of {h.dtype} and c of {c.dtype}")


def check_pair_dtypes(named: list[tuple[str, LSTMState]], backend: Backend, *, any_dtypes: bool) -> None:
    """Raise unless the arrays are this backend's and have dtypes that can be cast to a cell's.

    With `any_dtypes` these are any of the four. Otherwise c has h's dtype, or float32 with a 16-bit h.
    """
    for name, state in named:
        for part in ("c", "h"):
            array = getattr(state, part)
            check_beside(f"{name}.{part}", array, backend)
            if not dtypes.is_supported(array.dtype):
                fail(TypeError, f"{name}.{part}", f"dtype {', '.join(dtypes.NAMES)}", f"dtype {array.dtype}")
        h, c = state.h.dtype, state.c.dtype
        if not any_dtypes and c not in (h, dtypes.state_dtype(h)):
            wanted = "h and c of one dtype, or a float32 c with a 16-bit h"
            fail(TypeError, name, wanted, f"h of {h} and c of {c}", "Pass dtype=, the cell's dtype, to cast both")


def check_ndim(name: str, array: Array, spec: str) -> None:
    """Raise unless an array has as many dimensions as "B N"."""
    ndim = len(spec.split())
    if array.ndim != ndim:
        hint = f"Use {name}[None] for a batch of one" if array.ndim == 1 and ndim == 2 else ""
        fail(ValueError, name, f"shape ({spec.replace(' ', ', ')})", f"shape {array.shape}", hint)
