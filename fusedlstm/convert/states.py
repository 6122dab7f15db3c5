"""Convert states of other systems to LSTMState, and back.

Each system's `state_from_*` and `state_to_*` are next to its code. Its Pairs tells whether h or c comes first.

A pair is a tuple or a list. In a named tuple the fields h and c, or hidden and cell, are found by name, in any order.
An array is never split as if it were a pair. Arrays may be of any library that a cell takes.

A framework's cell keeps h and c in one dtype. A 16-bit cell here keeps c in float32, so c is cast on the way in. It is
cast back on the way out, which loses bits. Arrays that need no cast are returned unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from fusedlstm.arrays.exchange import Exchange
from fusedlstm.arrays.libraries import library_of
from fusedlstm.packing import cell_state
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import describe_type, fail
from fusedlstm.validation.state import backend_of_states, borrow_states, check_pair_dtypes, check_states, named_states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.base import Backend

Named: TypeAlias = tuple[str, LSTMState]  # a state, and what errors call it

_FIELDS = (("h", "c"), ("hidden", "cell"))


class Pairs(NamedTuple):
    """A framework's state of one cell and of several."""

    order: str  # "ch" or "hc"
    pair: Callable[[Iterable[Array]], Any]
    cells: Callable[[Iterable[Any]], Any] = tuple

    @property
    def text(self) -> str:
        """The pair as errors show it."""
        both = ", ".join(self.order)
        return f"[{both}]" if self.pair is list else f"({both})"


def from_pairs(state: Any, pairs: Pairs, dtype: Any) -> LSTMState | tuple[LSTMState, ...]:
    """Return the states of a pair, or of a tuple or list of pairs."""
    if not isinstance(state, (tuple, list)) or not state:
        refuse_other(state, f"{pairs.text}, or a tuple or list of such pairs")
    if not has_parts(state):
        return cell_states([pair_of("state", state, pairs)], dtype)[0]
    return cell_states([pair_of(f"state[{k}]", each, pairs) for k, each in enumerate(state)], dtype)


def has_parts(state: Any) -> bool:
    """Whether a tuple or list holds others, and so isn't a pair of arrays."""
    return any(isinstance(part, (tuple, list)) for part in state)


def is_array(value: Any) -> bool:
    """Whether a value is an array, of any library."""
    return hasattr(value, "shape") or library_of(value) is not None


def refuse_other(state: Any, wanted: str) -> NoReturn:
    """Raise an error about a state that is not a non-empty tuple or list."""
    refuse_state("state", state, wanted)
    if isinstance(state, (tuple, list)):
        fail(ValueError, "state", wanted, f"an empty {type(state).__name__}")
    if is_array(state):
        hint = 'For h and c in one array use unpack_state, with the order "ch" for [c | h] or "hc" for [h | c]'
        fail(TypeError, "state", wanted, f"one array, a {describe_type(state)}", hint)
    fail(TypeError, "state", wanted, describe_type(state))


def refuse_state(name: str, value: Any, wanted: str) -> None:
    """Raise for an LSTMState."""
    if isinstance(value, LSTMState):
        fail(TypeError, name, wanted, "an LSTMState", "It needs no conversion: give it to a cell as it is")


def pair_of(name: str, pair: Any, pairs: Pairs) -> Named:
    """Return a pair as an LSTMState, with its name in errors. Its arrays are not checked."""
    refuse_state(name, pair, pairs.text)
    if not isinstance(pair, (tuple, list)):
        hint = "A step returns an output and a state: give the state alone" if is_array(pair) else ""
        fail(TypeError, name, pairs.text, describe_type(pair), hint)
    if hasattr(pair, "_fields"):
        return name, _by_fields(name, pair, pairs)
    if len(pair) != 2:
        hint = "For several layers, give a tuple or list with a pair for each" if len(pair) > 2 else ""
        fail(ValueError, name, pairs.text, f"a {type(pair).__name__} of {len(pair)}", hint)
    for k, part in enumerate(pair):
        refuse_state(f"{name}[{k}]", part, "an array")
        if isinstance(part, (tuple, list)):
            hint = "Give nested stacks of cells one at a time"
            fail(TypeError, f"{name}[{k}]", "an array", f"a {type(part).__name__}", hint)
    return name, LSTMState(**dict(zip(pairs.order, pair, strict=True)))


def _by_fields(name: str, pair: Any, pairs: Pairs) -> LSTMState:
    """Return h and c of a named tuple."""
    for h, c in _FIELDS:
        if {h, c} == set(pair._fields):
            return LSTMState(h=getattr(pair, h), c=getattr(pair, c))
    got = f"a {type(pair).__name__}({', '.join(pair._fields)})"
    fail(TypeError, name, f"{pairs.text}, or fields named h and c, or hidden and cell", got)


def cell_states(given: list[Named], dtype: Any) -> tuple[LSTMState, ...]:
    """Return states as a cell of this dtype keeps them."""
    backend = backend_of_states(given)
    with Exchange(backend, given[0][1].c) as exchange:
        return lend_states(exchange, backend, given, *cast_states(exchange, backend, given, dtype))


def cast_states(
    exchange: Exchange, backend: Backend, given: list[Named], dtype: Any
) -> tuple[list[Named], list[Named]]:
    """Return the backend's views of states, and these views cast to the dtypes of a cell."""
    views = borrow_states(exchange, given)
    check_pair_dtypes(views, backend, any_dtypes=dtype is not None)
    return views, [(name, cell_state(view.h, view.c, dtype)) for name, view in views]


def lend_states(
    exchange: Exchange, backend: Backend, given: list[Named], views: list[Named], taken: list[Named]
) -> tuple[LSTMState, ...]:
    """Check states and return them: the original arrays, or those that were cast, in the library of the call."""
    check_states(taken, backend)
    return tuple(
        LSTMState(h=_lent(exchange, came.h, view.h, state.h), c=_lent(exchange, came.c, view.c, state.c))
        for (_, came), (_, view), (_, state) in zip(given, views, taken, strict=True)
    )


def to_pairs(state: Any, pairs: Pairs) -> Any:
    """Return states in a framework's form: a pair for an LSTMState, else its form for several cells."""
    given = named_states("state", state)
    backend = backend_of_states(given)
    with Exchange(backend, given[0][1].c) as exchange:
        views = borrow_states(exchange, given)
        check_states(views, backend)
        made = []
        for (_, came), (_, view) in zip(given, views, strict=True):
            parts = {"h": came.h, "c": _lent(exchange, came.c, view.c, view.c.astype(view.h.dtype, copy=False))}
            made.append(pairs.pair(parts[name] for name in pairs.order))
    return made[0] if isinstance(state, LSTMState) else pairs.cells(made)


def _lent(exchange: Exchange, came: Any, view: Array, result: Array) -> Any:
    """Return the original array if it needed no cast, else the result in the library of the call."""
    return came if result.dtype == view.dtype else exchange.lend(result)
