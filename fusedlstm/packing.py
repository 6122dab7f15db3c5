"""States in the forms of other systems: packed in one array in a named order, or h and c of all layers stacked.

    [c | h]                  (B, N + P)          order "ch": TensorFlow 1's LSTMCell, state_is_tuple=False
    [c0 | h0 | c1 | h1 ...]  (B, sum of N + P)   order "ch": TensorFlow 1's MultiRNNCell of such cells
    [h | c]                  (B, N + P)          order "hc": as Keras users concatenate them
    h and c stacked          (2, B, N)           order "hc" with axis=0: Silero's VAD
    h, and c, of all layers  (L, B, P), (L, B, N)          PyTorch and cuDNN, index layer * D + direction

Frameworks disagree on the order. So calls name the order of a packed array, and take stacked h and c by name. As with a
cell, arrays may be of any library, and results are in the same library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from fusedlstm.arrays import dtypes
from fusedlstm.arrays.exchange import Exchange
from fusedlstm.backends.select import backend_of
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import check_choice, check_size, describe_type, fail
from fusedlstm.validation.state import (
    backend_of_states,
    borrow_states,
    check_beside,
    check_layers,
    check_ndim,
    check_states,
    named_states,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Array

_ORDERS = ("ch", "hc")


def pack_state(state: LSTMState | Sequence[LSTMState], *, order: str, axis: int = 1) -> Array:
    """Return h and c of one or several layers in one new array, in c's dtype.

    Args:
        state: an LSTMState with h (B, P) and c (B, N), or a tuple or list with one for each layer, in order. The
            layers' sizes may differ, but not their dtypes.
        order: "ch" is [c | h], TensorFlow 1's packed state (`state_is_tuple=False`). "hc" is [h | c], as Keras users
            concatenate them. There is no default. Several layers follow each other, each in this order.
        axis: 1 puts columns side by side: (B, N + P), or the sum of N + P over layers. 0 stacks h and c of a single
            layer with P = N: (2, B, N). With the order "hc", [0] is h, as in Silero's VAD.

    Raises:
        TypeError: `state` is not an LSTMState or a sequence of them, or its arrays have dtypes that no cell has.
        ValueError: the order is unknown; h and c differ in batch size, or are not two-dimensional; or axis is 0 and
            there are several layers, or h and c differ in width.
    """
    check_choice("order", order, _ORDERS)
    if check_size("axis", axis, 0) > 1:
        fail(ValueError, "axis", "0 or 1", str(axis))
    return pack(state, order, axis, "c")


def pack(state: Any, order: str, axis: int, whose: str) -> Array:
    """Return the result of `pack_state` in the dtype of h or of c; `whose` says which."""
    named = named_states("state", state)
    backend = backend_of_states(named)
    with Exchange(backend, named[0][1].c) as exchange:
        named = borrow_states(exchange, named)
        check_states(named, backend)
        if axis == 0:
            _check_one_width(named)
        dtype = getattr(named[0][1], whose).dtype
        parts = [
            part.astype(dtype, copy=False)
            for _, one in named
            for part in ((one.c, one.h) if order == "ch" else (one.h, one.c))
        ]
        return exchange.lend(backend.xp.concatenate(parts, axis=1) if axis == 1 else backend.xp.stack(parts))


@overload
def unpack_state(
    packed: Array, hidden_size: int, *, order: str, proj_size: int | None = None, dtype: Any = None
) -> LSTMState: ...


@overload
def unpack_state(
    packed: Array,
    hidden_size: Sequence[int],
    *,
    order: str,
    proj_size: Sequence[int | None] | None = None,
    dtype: Any = None,
) -> tuple[LSTMState, ...]: ...


def unpack_state(
    packed: Array,
    hidden_size: int | Sequence[int],
    *,
    order: str,
    proj_size: int | Sequence[int | None] | None = None,
    dtype: Any = None,
) -> LSTMState | tuple[LSTMState, ...]:
    """Split one packed array into states, which are views of it where dtypes allow.

    Args:
        packed: (B, N + P) of one layer, (B, sum of N + P) of several, or (2, B, N) of one with P = N.
        hidden_size: N, which gives one state. A tuple or list with N of each layer gives a tuple of states.
        order: "ch" is [c | h], TensorFlow 1's packed state. "hc" is [h | c]. There is no default.
        proj_size: P, or None. For one layer, None takes all columns that c leaves, which may be at most N. If the width
            of `packed` is wrong, so is that of h, and the cell raises. For several layers, pass a tuple or list with
            one P for each, where None means P = N. None instead of the list means P = N for all.
        dtype: the cell's dtype; None for that of `packed`. If it has 16 bits, h is cast to it and c to float32, the
            dtypes of a cell's states.

    Raises:
        TypeError: the dtype is not supported, or the array's library doesn't share its memory.
        ValueError: the order is unknown; `packed` has a shape that is not listed above, leaves no column for h, or
            has a width that doesn't match the sizes, such as that of several layers with one `hidden_size`.
    """
    check_choice("order", order, _ORDERS)
    return unpack("packed", packed, hidden_size, order, proj_size, dtype)


def unpack(
    name: str, packed: Any, hidden_size: Any, order: str, proj_size: Any, dtype: Any
) -> LSTMState | tuple[LSTMState, ...]:
    """Return the result of `unpack_state`. `name` is that of the argument `packed`, for messages."""
    if isinstance(hidden_size, (tuple, list)):
        sizes = _sizes_of_layers(hidden_size, proj_size)
        with Exchange(backend_of(packed, name), packed) as exchange:
            packed = borrow_packed(exchange, name, packed)
            states = _unpack_layers(name, packed, sizes, order, dtype)
            return tuple(exchange.lend_state(state) for state in states)
    N = check_size("hidden_size", hidden_size, 1)
    P = None if proj_size is None else check_size("proj_size", proj_size, 1)
    with Exchange(backend_of(packed, name), packed) as exchange:
        packed = borrow_packed(exchange, name, packed)
        return exchange.lend_state(_unpack_one(name, packed, N, P, order, dtype))


def _unpack_one(name: str, packed: Array, N: int, P: int | None, order: str, dtype: Any) -> LSTMState:
    """Return the state of one layer, from columns or stacked arrays."""
    if packed.ndim == 3:
        return _unpack_pair(name, packed, N, P, order, dtype)
    check_ndim(name, packed, "B N+P")
    left = packed.shape[1] - N
    if left < 1:
        fail(ValueError, name, f"shape (B, N + P) with N = {N} and P at least 1", f"shape {packed.shape}")
    if P is None and left > N:  # the layers of a stack would become one wide h
        hint = f"{_sizes_of_stack(packed.shape[1], N, N)}. If P = {left}, pass proj_size={left}"
        fail(ValueError, name, f"shape (B, N + P) with N = {N} and P at most N", f"shape {packed.shape}", hint)
    if P is not None and left != P:
        wanted = f"shape (B, N + P) with N + P = {N} + {P} = {N + P} columns"
        hint = _sizes_of_stack(packed.shape[1], N, P) if left > P else ""
        fail(ValueError, name, wanted, f"shape {packed.shape}", hint)
    return _unpack_columns(packed, N, left, order, dtype)


def _sizes_of_stack(columns: int, N: int, P: int) -> str:
    """Return a hint about a packed array that is too wide for one layer."""
    L, rest = divmod(columns, N + P)
    if rest:
        return "For several layers, pass hidden_size=[N of each layer]"
    sizes = f"hidden_size=[{N}] * {L}" + (f" and proj_size=[{P}] * {L}" if P != N else "")
    return f"It is as wide as {L} such layers: for them, pass {sizes}"


def stack_states(states: Sequence[LSTMState]) -> LSTMState:
    """Return the states of all layers in PyTorch's and cuDNN's form: new arrays h (L, B, P) and c (L, B, N).

    Args:
        states: a tuple or list of L states, one for each layer and direction, at index layer * D + direction. All have
            the same batch, sizes and dtypes.

    Raises:
        TypeError: `states` is not a tuple or list of LSTMState, or dtypes differ.
        ValueError: there are no states, or sizes differ.
    """
    if isinstance(states, LSTMState):
        fail(TypeError, "states", "a tuple or list of LSTMState", "one LSTMState", "Use stack_states([state])")
    return stack("states", states, "c")


def stack(name: str, states: Any, whose: str) -> LSTMState:
    """Return the result of `stack_states`, with c in the dtype of h or of c; `whose` says which."""
    named = named_states(name, states)
    backend = backend_of_states(named)
    with Exchange(backend, named[0][1].c) as exchange:
        named = borrow_states(exchange, named)
        check_states(named, backend)
        _check_equal_sizes(named)
        h, c = (backend.xp.stack([getattr(state, part) for _, state in named]) for part in ("h", "c"))
        dtype = getattr(named[0][1], whose).dtype
        return exchange.lend_state(LSTMState(h=h, c=c.astype(dtype, copy=False)))


def _check_equal_sizes(named: list[tuple[str, LSTMState]]) -> None:
    """Raise unless all states have the shapes of the first."""
    first_name, first = named[0]
    for name, state in named[1:]:
        for part in ("h", "c"):
            shape, wanted = getattr(state, part).shape, getattr(first, part).shape
            if shape != wanted:
                hint = 'For layers of different sizes, use pack_state(states, order="ch") or order="hc"'
                fail(
                    ValueError, f"{name}.{part}", f"shape {wanted}, that of {first_name}.{part}", f"shape {shape}", hint
                )


def unstack_states(*, h: Array, c: Array) -> tuple[LSTMState, ...]:
    """Return one state for each layer and direction, as views of h and c in PyTorch's and cuDNN's form.

    Args:
        h: (L, B, P), at index layer * D + direction.
        c: (L, B, N).

    Raises:
        TypeError: h or c has the wrong kind or dtype, or its library doesn't share its memory.
        ValueError: h and c are on different devices, are not three-dimensional, have no layer, or differ in L or B.
    """
    backend = backend_of(c, "c")
    with Exchange(backend, c) as exchange:
        h, c = exchange.borrow("h", h), exchange.borrow("c", c)
        check_beside("h", h, backend)
        return unstack(exchange, "", h, c)


def unstack(exchange: Exchange, prefix: str, h: Array, c: Array) -> tuple[LSTMState, ...]:
    """Return the result of `unstack_states` for the backend's arrays, lent. Messages put `prefix` before h and c."""
    check_layers(prefix, h, c)
    return tuple(exchange.lend_state(LSTMState(h=h[k], c=c[k])) for k in range(h.shape[0]))


def _check_one_width(named: list[tuple[str, LSTMState]]) -> None:
    """Raise unless h and c can be stacked: they must be of one layer with P = N."""
    if len(named) > 1:
        fail(ValueError, "axis", "1 for several layers", "0", "Use stack_states(states) for h and c of all layers")
    name, one = named[0]
    if one.h.shape != one.c.shape:
        fail(ValueError, name, "h and c of the same shape (B, N)", f"h {one.h.shape} and c {one.c.shape}")


def borrow_packed(exchange: Exchange, name: str, packed: Any) -> Array:
    """Return the backend's view of a packed state of any library. Raise unless a cell can have its dtype."""
    array = exchange.borrow(name, packed)
    if not dtypes.is_supported(array.dtype):
        fail(TypeError, name, f"dtype {', '.join(dtypes.NAMES)}", f"dtype {array.dtype}")
    return array


def _sizes_of_layers(hidden_size: Sequence[Any], proj_size: Any) -> list[tuple[int, int]]:
    """Return each layer's N and P."""
    if not hidden_size:
        fail(ValueError, "hidden_size", "an int, or one for each layer", f"an empty {type(hidden_size).__name__}")
    if proj_size is None:
        proj_size = [None] * len(hidden_size)
    if not isinstance(proj_size, (tuple, list)):
        wanted = "None, or a tuple or list with one for each layer, like hidden_size"
        fail(TypeError, "proj_size", wanted, describe_type(proj_size))
    if len(proj_size) != len(hidden_size):
        fail(ValueError, "proj_size", f"one for each of {len(hidden_size)} layers", f"{len(proj_size)} of them")
    sizes = []
    for k, (hidden, proj) in enumerate(zip(hidden_size, proj_size, strict=True)):
        N = check_size(f"hidden_size[{k}]", hidden, 1)
        sizes.append((N, N if proj is None else check_size(f"proj_size[{k}]", proj, 1)))
    return sizes


def _unpack_layers(
    name: str, packed: Array, sizes: list[tuple[int, int]], order: str, dtype: Any
) -> tuple[LSTMState, ...]:
    if packed.ndim == 3 and len(sizes) == 1:
        return (_unpack_pair(name, packed, *sizes[0], order, dtype),)
    check_ndim(name, packed, "B N+P")
    width = sum(N + P for N, P in sizes)
    if packed.shape[1] != width:
        layers = ", ".join(f"N={N} P={P}" for N, P in sizes)
        fail(ValueError, name, f"{width} columns for layers with {layers}", f"{packed.shape[1]} columns")
    states, start = [], 0
    for N, P in sizes:
        states.append(_unpack_columns(packed[:, start : start + N + P], N, P, order, dtype))
        start += N + P
    return tuple(states)


def _unpack_columns(packed: Array, N: int, P: int, order: str, dtype: Any) -> LSTMState:
    """Return the state in one layer's columns (B, N + P)."""
    if order == "ch":
        return cell_state(packed[:, N:], packed[:, :N], dtype)
    return cell_state(packed[:, :P], packed[:, P:], dtype)


def _unpack_pair(name: str, packed: Array, N: int, P: int | None, order: str, dtype: Any) -> LSTMState:
    """Return the state in an array (2, B, N)."""
    if packed.shape[0] != 2 or packed.shape[2] != N:
        fail(ValueError, name, f"shape (B, N + P), or (2, B, N) with N = {N}", f"shape {packed.shape}")
    if P not in (None, N):
        fail(ValueError, "proj_size", f"None, or N = {N}, for an array (2, B, N)", str(P))
    return cell_state(packed[order.index("h")], packed[order.index("c")], dtype)


def cell_state(h: Array, c: Array, dtype: Any) -> LSTMState:
    """Return the state in the dtypes of a cell's states. The cell has `dtype`, or if that is None, h's dtype."""
    dtype = dtypes.resolve(h.dtype if dtype is None else dtype)
    return LSTMState(h=h.astype(dtype, copy=False), c=c.astype(dtypes.state_dtype(dtype), copy=False))
