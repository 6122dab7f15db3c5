"""States of other frameworks -> LSTMState, and back: the one place that knows which of the two stands first.

    TensorFlow 1  (c, h), an LSTMStateTuple; packed [c | h]     MultiRNNCell: a tuple of them; [c0 | h0 | c1 | h1]
    Keras         [h, c]; Bidirectional [hf, cf, hb, cb]        StackedRNNCells: [[h0, c0], [h1, c1]]
    PyTorch       (h, c)                                        LSTM: both stacked, (L, B, P) and (L, B, N)
    Flax          (c, h)                                        a tuple of them
    Haiku         LSTMState(hidden, cell)                       DeepRNN: a tuple of them
    Equinox       (h, c)                                        a tuple of them
    Silero's VAD  (2, B, N), h first

A pair is a tuple or a list. One whose fields have names, h and c or hidden and cell, is taken by those, whatever their
order; an array is never taken apart as if it were a pair. Arrays may be of any library, as a cell's.

A framework's cell keeps h and c in one dtype, and a cell of 16 bits here keeps c in float32: it is cast on the way in
and, which loses bits, on the way out. What need not be cast is returned as it came.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from fusedlstm.arrays.exchange import Exchange
from fusedlstm.arrays.libraries import library_of
from fusedlstm.backends.select import backend_of
from fusedlstm.packing import borrow_packed, cell_state, pack, stack, unpack, unstack
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import check_bool, describe_type, fail
from fusedlstm.validation.state import backend_of_states, borrow_states, check_pair_dtypes, check_states, named_states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.base import Backend

_Named: TypeAlias = tuple[str, LSTMState]  # a state, and what errors call it

_FIELDS = (("h", "c"), ("hidden", "cell"))


class LSTMStateTuple(NamedTuple):
    """TensorFlow 1's pair: to TensorFlow, tuples of one name and the same fields have one structure."""

    c: Array
    h: Array


class _Form(NamedTuple):
    """A framework's state of one cell and of several."""

    order: str  # "ch" or "hc"
    pair: Callable[[Iterable[Array]], Any]
    cells: Callable[[Iterable[Any]], Any] = tuple

    @property
    def text(self) -> str:
        """What a pair looks like."""
        both = ", ".join(self.order)
        return f"[{both}]" if self.pair is list else f"({both})"


def _haiku_pair(parts: Iterable[Array]) -> Any:
    # Its own class: JAX takes no other tuple for the carry of a scan.
    return importlib.import_module("haiku").LSTMState(*parts)


_TF1 = _Form("ch", LSTMStateTuple._make)
_KERAS = _Form("hc", list, list)
_TORCH = _Form("hc", tuple)
_FLAX = _Form("ch", tuple)
_HAIKU = _Form("hc", _haiku_pair)
_EQUINOX = _Form("hc", tuple)


def state_from_tf1(
    state: Any,
    *,
    hidden_size: int | Sequence[int] | None = None,
    proj_size: int | Sequence[int | None] | None = None,
    dtype: Any = None,
) -> LSTMState | tuple[LSTMState, ...]:
    """Return the states of TensorFlow 1's cells, whose order is c, h.

    The order is that of TensorFlow 1.15.5's numbers; articles that say [h, c] describe Keras.

    Args:
        state: an LSTMStateTuple, or another pair (c, h), of c (B, N) and h (B, P); a MultiRNNCell's tuple of such,
            or the two of bidirectional_dynamic_rnn; or, with `state_is_tuple=False`, one packed array [c | h] or
            [c0 | h0 | c1 | h1 ...]. (A tuple of two packed arrays looks like a pair: give them one by one.)
        hidden_size: of a packed array, N as in `unpack_state`: a number, or one for each layer.
        proj_size: of a packed array, P as there.
        dtype: the cell's; None is the arrays' own.

    Returns:
        An LSTMState; of a MultiRNNCell, or of several hidden sizes, a tuple of one for each.

    Raises:
        TypeError: `state` is neither, or an LSTMState already; a packed array without `hidden_size`, or a pair with
            it; dtypes that no cell has.
        ValueError: a pair of other than two; wrong shapes, or different batches.
    """
    if isinstance(state, (tuple, list)):
        for name, size in (("hidden_size", hidden_size), ("proj_size", proj_size)):
            if size is not None:
                hint = "Several packed arrays are read one at a time"
                fail(TypeError, name, "None with a pair, whose arrays have sizes of their own", repr(size), hint)
        return _states(state, _TF1, dtype)
    if not _is_array(state):
        _refuse_other(state, f"{_TF1.text}, a tuple or list of such, or a packed array")
    if hidden_size is None:
        fail(TypeError, "hidden_size", "N, or one for each layer, with an array, which is [c | h]", "None")
    return unpack("state", state, hidden_size, "ch", proj_size, dtype)


def state_to_tf1(state: LSTMState | Sequence[LSTMState], *, packed: bool = False) -> Any:
    """Return states as TensorFlow 1's cells take them, in h's dtype.

    Args:
        state: an LSTMState, or a tuple or list of one for each cell of a MultiRNNCell.
        packed: whether the cells have `state_is_tuple=False`.

    Returns:
        A named tuple (c, h), which TensorFlow takes for its LSTMStateTuple; of several states a tuple of such. Packed:
        one new array [c | h], of several [c0 | h0 | c1 | h1 ...].

    Raises:
        TypeError: no LSTMState, or dtypes that no cell has.
        ValueError: no state at all; arrays that are not two-dimensional, or of different batches.
    """
    check_bool("packed", packed)
    return pack(state, "ch", 1, "h") if packed else _given(state, _TF1)


def state_from_keras(state: Any, *, dtype: Any = None) -> LSTMState | tuple[LSTMState, ...]:
    """Return the states of Keras' LSTM cells and layers, whose order is h, c.

    The forms are those of Keras 3.15.1, of which tf_keras 2 has the same.

    Args:
        state: [h, c] of an LSTMCell, or of an LSTM layer; [hf, cf, hb, cb] of a Bidirectional one; or a list of
            [h, c], as RNN(StackedRNNCells(...)) has it. With `return_state=True` a layer returns its output first,
            which is no part of it: give the rest.
        dtype: the cell's; None is the arrays' own.

    Returns:
        An LSTMState; of Bidirectional a tuple of the forward and the backward one; of a list of [h, c] a tuple of one
        for each. (A fusedlstm.LSTM takes tuples alone: of a single layer, a tuple of one.)

    Raises:
        TypeError: `state` is no list or tuple of arrays or of pairs; an LSTMState; dtypes that no cell has.
        ValueError: other than two or four arrays; wrong shapes, or different batches.
    """
    if isinstance(state, (tuple, list)) and not hasattr(state, "_fields") and not _has_parts(state):
        if len(state) == 4:
            return _checked([_pair("state[0:2]", state[:2], _KERAS), _pair("state[2:4]", state[2:], _KERAS)], dtype)
        if len(state) in (3, 5):
            hint = "A layer with return_state=True returns its output first: give the rest, [1:]"
            fail(ValueError, "state", "[h, c], or [hf, cf, hb, cb]", f"{len(state)} arrays", hint)
    return _states(state, _KERAS, dtype)


def state_to_keras(state: LSTMState | Sequence[LSTMState], *, bidirectional: bool = False) -> list[Any]:
    """Return states as Keras' LSTM cells and layers take them, in h's dtype.

    Args:
        state: an LSTMState; or a tuple or list of one for each of stacked cells, or for both directions.
        bidirectional: whether two states are those of a Bidirectional layer.

    Returns:
        [h, c]; of several states [[h0, c0], [h1, c1] ...]; of both directions [hf, cf, hb, cb].

    Raises:
        TypeError: no LSTMState, or dtypes that no cell has.
        ValueError: no state at all, or other than two of both directions; arrays that are not two-dimensional, or of
            different batches.
    """
    check_bool("bidirectional", bidirectional)
    if bidirectional and not (isinstance(state, (tuple, list)) and len(state) == 2):
        count = f"{len(state)} of them" if isinstance(state, (tuple, list)) else describe_type(state)
        fail(ValueError, "state", "two states, forward and backward, with bidirectional=True", count)
    given: list[Any] = _given(state, _KERAS)
    return [*given[0], *given[1]] if bidirectional else given


def state_from_torch(state: Any, *, dtype: Any = None) -> LSTMState | tuple[LSTMState, ...]:
    """Return the states of PyTorch's LSTMCell and LSTM, whose order is h, c.

    The forms are those of PyTorch 2.13, and of cuDNN.

    Args:
        state: (h, c) of an LSTMCell, (B, N) each, or of an LSTM, (L, B, P) and (L, B, N), at index
            layer * D + direction. Two dimensions are always a cell's: an LSTM without a batch has (L, N), which
            nothing tells from (B, N); give h[:, None] and c[:, None] of that.
        dtype: the cell's; None is the arrays' own.

    Returns:
        An LSTMState of an LSTMCell; of an LSTM, even of one layer, a tuple of one for each layer and direction, of
        views.

    Raises:
        TypeError: `state` is no pair of arrays, or an LSTMState already; a tensor that requires grad; dtypes that no
            cell has.
        ValueError: a pair of other than two; wrong shapes, or different batches or layers.
    """
    if not isinstance(state, (tuple, list)) or not state:
        _refuse_other(state, _TORCH.text)
    if _has_parts(state):
        hint = "A torch.nn.LSTM returns output, (h, c): give the second alone. Pairs of several cells go one by one"
        fail(TypeError, "state", f"{_TORCH.text}, of arrays", f"a {type(state).__name__} with another in it", hint)
    given = [_pair("state", state, _TORCH)]
    backend = backend_of_states(given)
    with Exchange(backend, given[0][1].c) as exchange:
        views, taken = _taken(exchange, backend, given, dtype)
        one = taken[0][1]
        if one.c.ndim == 3:
            return unstack(exchange, "state.", one.h, one.c)
        return _finished(exchange, backend, given, views, taken)[0]


def state_to_torch(state: LSTMState | Sequence[LSTMState]) -> tuple[Array, Array]:
    """Return states as PyTorch's LSTMCell and LSTM take them, in h's dtype.

    Args:
        state: an LSTMState; or a tuple or list of one for each layer and direction of an LSTM, of the same sizes.

    Returns:
        (h, c), (B, N) each; of a tuple, even of one, (L, B, P) and (L, B, N), new arrays.

    Raises:
        TypeError: no LSTMState, or dtypes that no cell has.
        ValueError: no state at all; arrays that are not two-dimensional, or of different batches or sizes.
    """
    if isinstance(state, LSTMState):
        pair: tuple[Array, Array] = _given(state, _TORCH)
        return pair
    stacked = stack("state", state, "h")
    return stacked.h, stacked.c


def state_from_flax(state: Any, *, dtype: Any = None) -> LSTMState | tuple[LSTMState, ...]:
    """Return the states of Flax's LSTM cells, of linen and of nnx, whose carry is c, h.

    The order is that of Flax 0.12.8's numbers.

    Args:
        state: the carry (c, h) of a cell; or a tuple or list of such, of several cells or both directions.
        dtype: the cell's; None is the arrays' own.

    Returns:
        An LSTMState; of several carries a tuple of one for each.

    Raises:
        TypeError: `state` is no pair of arrays, nor a tuple or list of such; an LSTMState; dtypes that no cell has.
        ValueError: a pair of other than two; wrong shapes, or different batches.
    """
    return _states(state, _FLAX, dtype)


def state_to_flax(state: LSTMState | Sequence[LSTMState]) -> tuple[Any, ...]:
    """Return states as Flax's LSTM cells take them, in h's dtype: (c, h), of several a tuple of such.

    Raises:
        TypeError: no LSTMState, or dtypes that no cell has.
        ValueError: no state at all; arrays that are not two-dimensional, or of different batches.
    """
    carry: tuple[Any, ...] = _given(state, _FLAX)
    return carry


def state_from_haiku(state: Any, *, dtype: Any = None) -> LSTMState | tuple[LSTMState, ...]:
    """Return the states of Haiku's LSTM, whose fields are hidden and cell (as Sonnet's are), in this order.

    The order is that of Haiku 0.0.17's numbers. Arguments, result and errors are those of `state_from_flax`.
    """
    return _states(state, _HAIKU, dtype)


def state_to_haiku(state: LSTMState | Sequence[LSTMState]) -> Any:
    """Return states as Haiku's own LSTMState(hidden, cell), in h's dtype; of several a tuple of such, as DeepRNN's.

    Raises:
        ImportError: Haiku is not installed.
        TypeError: no LSTMState, or dtypes that no cell has.
        ValueError: no state at all; arrays that are not two-dimensional, or of different batches.
    """
    return _given(state, _HAIKU)


def state_from_equinox(state: Any, *, dtype: Any = None) -> LSTMState | tuple[LSTMState, ...]:
    """Return the states of Equinox's LSTMCell under vmap, whose order is h, c.

    The order is that of Equinox 0.13.8's numbers. Arguments, result and errors are those of `state_from_flax`.
    """
    return _states(state, _EQUINOX, dtype)


def state_to_equinox(state: LSTMState | Sequence[LSTMState]) -> tuple[Any, ...]:
    """Return states as Equinox's LSTMCell under vmap takes them, in h's dtype: (h, c), of several a tuple of such.

    Raises:
        TypeError: no LSTMState, or dtypes that no cell has.
        ValueError: no state at all; arrays that are not two-dimensional, or of different batches.
    """
    pair: tuple[Any, ...] = _given(state, _EQUINOX)
    return pair


def state_from_silero(state: Array, *, dtype: Any = None) -> LSTMState:
    """Return the state of Silero's VAD (version 5 and later), as views where dtypes allow.

    Args:
        state: (2, B, N): h, then c. (Up to version 4 they are two arrays, of two layers: `state_from_torch`.)
        dtype: the cell's; None is the array's own.

    Raises:
        TypeError: no array, or one of a dtype that no cell has.
        ValueError: an array of another shape.
    """
    _refuse_state("state", state, "an array (2, B, N)")
    if isinstance(state, (tuple, list)):
        hint = "Two arrays, of h and c, are read by state_from_torch"
        fail(TypeError, "state", "an array (2, B, N)", f"a {type(state).__name__}", hint)
    with Exchange(backend_of(state, "state"), state) as exchange:
        both = borrow_packed(exchange, "state", state)
        if both.ndim != 3 or both.shape[0] != 2:
            fail(ValueError, "state", "shape (2, B, N)", f"shape {both.shape}")
        return exchange.lend_state(cell_state(both[0], both[1], dtype))


def state_to_silero(state: LSTMState | Sequence[LSTMState]) -> Array:
    """Return a state as Silero's VAD takes it: one new array (2, B, N) of h and c, in h's dtype.

    Raises:
        TypeError: no LSTMState (a tuple or list may hold one), or dtypes that no cell has.
        ValueError: several states; h and c that are not two-dimensional, or of different shapes.
    """
    if len(named_states("state", state)) > 1:
        fail(ValueError, "state", "one LSTMState", f"a {type(state).__name__} of {len(state)}")
    return pack(state, "hc", 0, "h")


def _states(state: Any, form: _Form, dtype: Any) -> LSTMState | tuple[LSTMState, ...]:
    """Return the states of a pair, or of a tuple or list of pairs."""
    if not isinstance(state, (tuple, list)) or not state:
        _refuse_other(state, f"{form.text}, or a tuple or list of such")
    if not _has_parts(state):
        return _checked([_pair("state", state, form)], dtype)[0]
    return _checked([_pair(f"state[{k}]", each, form) for k, each in enumerate(state)], dtype)


def _has_parts(state: Any) -> bool:
    """Whether a tuple or list holds others, and so is no pair of arrays."""
    return any(isinstance(part, (tuple, list)) for part in state)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") or library_of(value) is not None


def _refuse_other(state: Any, wanted: str) -> NoReturn:
    """Raise for what is no tuple or list that holds something."""
    _refuse_state("state", state, wanted)
    if isinstance(state, (tuple, list)):
        fail(ValueError, "state", wanted, f"an empty {type(state).__name__}")
    if _is_array(state):
        hint = 'Of both in one array, unpack_state names the order: "ch" is [c | h], "hc" is [h | c]'
        fail(TypeError, "state", wanted, f"one array, a {describe_type(state)}", hint)
    fail(TypeError, "state", wanted, describe_type(state))


def _refuse_state(name: str, value: Any, wanted: str) -> None:
    """Raise for an LSTMState."""
    if isinstance(value, LSTMState):
        fail(TypeError, name, wanted, "an LSTMState", "It has both by name: give it to a cell as it is")


def _pair(name: str, pair: Any, form: _Form) -> _Named:
    """Return h and c of a pair by name, with what errors call it; its arrays are not looked at."""
    _refuse_state(name, pair, form.text)
    if not isinstance(pair, (tuple, list)):
        hint = "A step returns an output and a state: give the state alone" if _is_array(pair) else ""
        fail(TypeError, name, form.text, describe_type(pair), hint)
    if hasattr(pair, "_fields"):
        return name, _by_fields(name, pair, form)
    if len(pair) != 2:
        hint = "Of several layers, give a tuple or list of one pair for each" if len(pair) > 2 else ""
        fail(ValueError, name, form.text, f"a {type(pair).__name__} of {len(pair)}", hint)
    for k, part in enumerate(pair):
        _refuse_state(f"{name}[{k}]", part, "an array")
        if isinstance(part, (tuple, list)):
            hint = "Of nested stacks of cells, give each on its own"
            fail(TypeError, f"{name}[{k}]", "an array", f"a {type(part).__name__}", hint)
    return name, LSTMState(**dict(zip(form.order, pair, strict=True)))


def _by_fields(name: str, pair: Any, form: _Form) -> LSTMState:
    """Return h and c of a named tuple."""
    for h, c in _FIELDS:
        if {h, c} == set(pair._fields):
            return LSTMState(h=getattr(pair, h), c=getattr(pair, c))
    got = f"a {type(pair).__name__}({', '.join(pair._fields)})"
    fail(TypeError, name, f"{form.text}, or fields named h and c, or hidden and cell", got)


def _checked(given: list[_Named], dtype: Any) -> tuple[LSTMState, ...]:
    """Return states as a cell of this dtype keeps them."""
    backend = backend_of_states(given)
    with Exchange(backend, given[0][1].c) as exchange:
        return _finished(exchange, backend, given, *_taken(exchange, backend, given, dtype))


def _taken(exchange: Exchange, backend: Backend, given: list[_Named], dtype: Any) -> tuple[list[_Named], list[_Named]]:
    """Return the backend's views of states, and those in the dtypes of a cell."""
    views = borrow_states(exchange, given)
    check_pair_dtypes(views, backend, any_dtypes=dtype is not None)
    return views, [(name, cell_state(view.h, view.c, dtype)) for name, view in views]


def _finished(
    exchange: Exchange, backend: Backend, given: list[_Named], views: list[_Named], taken: list[_Named]
) -> tuple[LSTMState, ...]:
    """Check states and return them lent, where something had to be cast."""
    check_states(taken, backend)
    return tuple(
        LSTMState(h=_lent(exchange, came.h, view.h, state.h), c=_lent(exchange, came.c, view.c, state.c))
        for (_, came), (_, view), (_, state) in zip(given, views, taken, strict=True)
    )


def _given(state: Any, form: _Form) -> Any:
    """Return states as a framework has them: a pair of one, of a tuple or list what it has for several."""
    given = named_states("state", state)
    backend = backend_of_states(given)
    with Exchange(backend, given[0][1].c) as exchange:
        views = borrow_states(exchange, given)
        check_states(views, backend)
        pairs = []
        for (_, came), (_, view) in zip(given, views, strict=True):
            parts = {"h": came.h, "c": _lent(exchange, came.c, view.c, view.c.astype(view.h.dtype, copy=False))}
            pairs.append(form.pair(parts[name] for name in form.order))
    return pairs[0] if isinstance(state, LSTMState) else form.cells(pairs)


def _lent(exchange: Exchange, came: Any, view: Array, result: Array) -> Any:
    """Return what came where its view needed no cast, else the result in the library of the call."""
    return came if result.dtype == view.dtype else exchange.lend(result)
