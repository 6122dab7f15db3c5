"""States as others keep them: one packed array in a named order, or h and c of all layers stacked.

    [c | h]                  (B, N + P)          order "ch": TensorFlow 1's LSTMCell, state_is_tuple=False
    [c0 | h0 | c1 | h1 ...]  (B, sum of N + P)   order "ch": TensorFlow 1's MultiRNNCell of such cells
    [h | c]                  (B, N + P)          order "hc": what Keras users concatenate
    h and c stacked          (2, B, N)           order "hc" with axis=0: Silero's VAD
    h, and c, of all layers  (L, B, P), (L, B, N)          PyTorch and cuDNN, index layer * D + direction

Frameworks disagree on the order, so a packed array always names it, and stacked ones have names. Arrays may be of any
library, as a cell's, and results are in the same one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from fusedlstm import dtypes
from fusedlstm.backends import backend_of
from fusedlstm.checks import check_array, check_choice, check_dtype, check_size, describe_type, fail
from fusedlstm.exchange import Exchange
from fusedlstm.state import LSTMState, check_state_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from fusedlstm.backends import Backend
    from fusedlstm.dtypes import Array

_ORDERS = ("ch", "hc")


def pack_state(state: LSTMState | Sequence[LSTMState], *, order: str, axis: int = 1) -> Array:
    """Return both states, of one layer or of several, side by side in one new array, in c's dtype.

    Args:
        state: h (B, P) and c (B, N), or a tuple or list of such, in the order of the layers; their sizes
            may differ, their dtypes may not.
        order: "ch" is [c | h], TensorFlow 1's packed state (`state_is_tuple=False`); "hc" is [h | c],
            what Keras users concatenate. There is no default. Several layers follow each other, each
            in this order.
        axis: 1 for columns side by side: (B, N + P), or the sum of it over layers. 0 for (2, B, N), of a single
            layer with P = N: with the order "hc" h is [0], as Silero's VAD keeps it.

    Raises:
        TypeError: `state` is no LSTMState, or its arrays have dtypes that no cell has.
        ValueError: an unknown order; h and c of different batches, or not two-dimensional; with axis=0
            several layers, or h and c of different widths.
    """
    check_choice("order", order, _ORDERS)
    if check_size("axis", axis, 0) > 1:
        fail(ValueError, "axis", "0 or 1", str(axis))
    named = _named_states("state", state)
    backend = _backend_of(named)
    with Exchange(backend, named[0][1].c) as exchange:
        named = _borrow(exchange, named)
        _check_states(named, backend)
        if axis == 0:
            _check_one_width(named)
        dtype = named[0][1].c.dtype
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
    """Return the states that one packed array holds, as views of it where dtypes allow.

    Args:
        packed: (B, N + P) of one layer, (B, sum of N + P) of several, or (2, B, N) of one with P = N.
        hidden_size: N; or a tuple or list of one N for each layer, for a tuple of states.
        order: "ch" is [c | h], TensorFlow 1's; "hc" is [h | c]. There is no default.
        proj_size: P, or None. For one layer None is what is left of the columns, so that a packed state of
            the wrong width shows as an h of the wrong width in the cell. For several layers it is a tuple
            or list of one P, or None for P = N, for each; None for P = N in all.
        dtype: the cell's dtype. None is that of `packed`. With a 16-bit dtype h is cast to it and c to
            float32, as cells keep them.

    Raises:
        TypeError: an unsupported dtype, or an array of no library that shares its memory.
        ValueError: an unknown order; `packed` not of a shape above, with no column left for h, or of another
            width than the sizes give.
    """
    check_choice("order", order, _ORDERS)
    if isinstance(hidden_size, (tuple, list)):
        sizes = _sizes_of_layers(hidden_size, proj_size)
        with Exchange(backend_of(packed, "packed"), packed) as exchange:
            packed = _borrow_packed(exchange, packed)
            states = _unpack_layers(packed, sizes, order, _cell_dtype(packed, dtype))
            return tuple(exchange.lend_state(state) for state in states)
    N = check_size("hidden_size", hidden_size, 1)
    P = None if proj_size is None else check_size("proj_size", proj_size, 1)
    with Exchange(backend_of(packed, "packed"), packed) as exchange:
        packed = _borrow_packed(exchange, packed)
        return exchange.lend_state(_unpack_one(packed, N, P, order, _cell_dtype(packed, dtype)))


def _unpack_one(packed: Array, N: int, P: int | None, order: str, dtype: np.dtype[Any]) -> LSTMState:
    """Return the state of one layer, in columns or stacked."""
    if packed.ndim == 3:
        return _unpack_pair(packed, N, P, order, dtype)
    _check_ndim("packed", packed, "B N+P")
    left = packed.shape[1] - N
    if left < 1:
        fail(ValueError, "packed", f"shape (B, N + P) with N = {N} and P at least 1", f"shape {packed.shape}")
    if P is not None and left != P:
        wanted = f"shape (B, N + P) with N + P = {N} + {P} = {N + P} columns"
        fail(ValueError, "packed", wanted, f"shape {packed.shape}")
    return _unpack_columns(packed, N, left, order, dtype)


def stack_states(states: Sequence[LSTMState]) -> LSTMState:
    """Return the states of all layers as PyTorch's and cuDNN's pair: h (L, B, P) and c (L, B, N), new arrays.

    Args:
        states: a tuple or list of L states of one batch, sizes and dtypes: one for each layer and direction,
            at index layer * D + direction.

    Raises:
        TypeError: not a tuple or list of LSTMState; different dtypes.
        ValueError: no state, or states of different sizes.
    """
    if isinstance(states, LSTMState):
        fail(TypeError, "states", "a tuple or list of LSTMState", "one LSTMState", "Use stack_states([state])")
    named = _named_states("states", states)
    backend = _backend_of(named)
    with Exchange(backend, named[0][1].c) as exchange:
        named = _borrow(exchange, named)
        _check_states(named, backend)
        _check_equal_sizes(named)
        h, c = (backend.xp.stack([getattr(state, part) for _, state in named]) for part in ("h", "c"))
        return exchange.lend_state(LSTMState(h=h, c=c))


def _check_equal_sizes(named: list[tuple[str, LSTMState]]) -> None:
    """Raise unless all states have the shapes of the first."""
    first_name, first = named[0]
    for name, state in named[1:]:
        for part in ("h", "c"):
            shape, wanted = getattr(state, part).shape, getattr(first, part).shape
            if shape != wanted:
                hint = 'Layers of different sizes go into one array by pack_state(states, order="ch") or order="hc"'
                fail(
                    ValueError, f"{name}.{part}", f"shape {wanted}, that of {first_name}.{part}", f"shape {shape}", hint
                )


def unstack_states(*, h: Array, c: Array) -> tuple[LSTMState, ...]:
    """Return one state for each layer and direction, as views, of PyTorch's and cuDNN's pair.

    Args:
        h: (L, B, P), at index layer * D + direction.
        c: (L, B, N).

    Raises:
        TypeError: an array of no library that shares its memory, or on two devices.
        ValueError: h and c not three-dimensional, with no layer, or of different L or B.
    """
    backend = backend_of(c, "c")
    with Exchange(backend, c) as exchange:
        h, c = exchange.borrow("h", h), exchange.borrow("c", c)
        _check_beside("h", h, backend)
        _check_layers(h, c)
        return tuple(exchange.lend_state(LSTMState(h=h[k], c=c[k])) for k in range(h.shape[0]))


def _check_layers(h: Array, c: Array) -> None:
    """Raise unless h is (L, B, P) and c (L, B, N), L at least 1."""
    _check_ndim("h", h, "L B P")
    _check_ndim("c", c, "L B N")
    if h.shape[:2] != c.shape[:2]:
        fail(ValueError, "h", f"shape (L, B, P) with L, B = {c.shape[:2]}, those of c", f"shape {h.shape}")
    if not h.shape[0]:
        fail(ValueError, "h", "shape (L, B, P) of at least one layer", f"shape {h.shape}")
    _check_dtypes("h and c", h, c)


def _named_states(name: str, states: Any) -> list[tuple[str, LSTMState]]:
    """Return each state with what an error calls it: `state` of one, `state[0]` ... of a tuple or list."""
    if isinstance(states, (tuple, list)) and (not states or any(isinstance(one, LSTMState) for one in states)):
        if not states:
            fail(ValueError, name, "at least one LSTMState(h=..., c=...)", f"an empty {type(states).__name__}")
        named = [(f"{name}[{k}]", one) for k, one in enumerate(states)]
    else:
        named = [(name, states)]
    for one_name, one in named:
        check_state_type(one, one_name)
    return named


def _backend_of(named: list[tuple[str, LSTMState]]) -> Backend:
    """Return the backend of the device that the first state is on."""
    name, first = named[0]
    return backend_of(first.c, f"{name}.c")


def _borrow(exchange: Exchange, named: list[tuple[str, LSTMState]]) -> list[tuple[str, LSTMState]]:
    return [(name, exchange.borrow_state(name, state)) for name, state in named]


def _check_states(named: list[tuple[str, LSTMState]], backend: Backend) -> None:
    """Raise unless arrays are a cell's states of one batch, place and dtype."""
    first_name, first = named[0]
    for name, state in named:
        h, c = state.h, state.c
        _check_beside(f"{name}.c", c, backend)
        _check_beside(f"{name}.h", h, backend)
        _check_ndim(f"{name}.h", h, "B P")
        _check_ndim(f"{name}.c", c, "B N")
        if h.shape[0] != c.shape[0]:
            fail(ValueError, name, "h and c of one batch", f"h {h.shape} and c {c.shape}")
        _check_dtypes(name, h, c)
        if c.shape[0] != first.c.shape[0]:
            fail(ValueError, name, f"a batch of {first.c.shape[0]}, that of {first_name}", str(c.shape[0]))
        check_dtype(f"{name}.h", h.dtype, first.h.dtype, f"that of {first_name}.h")


def _check_beside(name: str, array: Any, backend: Backend) -> None:
    """Raise unless an array is of this backend, and on its device."""
    check_array(name, array, backend.array_type, backend.device, "Both must be of one library")
    place = backend.device_of(array)
    if place != backend.device:
        fail(ValueError, name, f"an array on {backend.device}", f"one on {place}")


def _check_one_width(named: list[tuple[str, LSTMState]]) -> None:
    """Raise unless h and c can be stacked: those of one layer, P = N."""
    if len(named) > 1:
        fail(ValueError, "axis", "1 for several layers", "0", "Use stack_states(states) for h and c of all layers")
    name, one = named[0]
    if one.h.shape != one.c.shape:
        fail(ValueError, name, "h and c of one width with axis=0", f"h {one.h.shape} and c {one.c.shape}")


def _check_dtypes(name: str, h: Array, c: Array) -> None:
    """Raise unless h and c have the dtypes of some cell's."""
    if not dtypes.is_supported(h.dtype) or dtypes.state_dtype(h.dtype) != c.dtype:
        wanted = "h of float64, float32, float16 or bfloat16, and c of h's dtype, float32 for 16 bits"
        fail(TypeError, name, wanted, f"h of {h.dtype} and c of {c.dtype}")


def _borrow_packed(exchange: Exchange, packed: Any) -> Array:
    """Return the backend's view of a packed state of any library, whose dtype a cell can have."""
    array = exchange.borrow("packed", packed)
    if not dtypes.is_supported(array.dtype):
        fail(TypeError, "packed", f"dtype {', '.join(dtypes.NAMES)}", f"dtype {array.dtype}")
    return array


def _check_ndim(name: str, array: Array, spec: str) -> None:
    if array.ndim != len(spec.split()):
        fail(ValueError, name, f"shape ({spec.replace(' ', ', ')})", f"shape {array.shape}")


def _sizes_of_layers(hidden_size: Sequence[Any], proj_size: Any) -> list[tuple[int, int]]:
    """Return each layer's N and P."""
    if not hidden_size:
        fail(ValueError, "hidden_size", "an int, or at least one for a layer", f"an empty {type(hidden_size).__name__}")
    if proj_size is None:
        proj_size = [None] * len(hidden_size)
    if not isinstance(proj_size, (tuple, list)):
        wanted = "a tuple or list of one for each layer, as hidden_size is one, or None"
        fail(TypeError, "proj_size", wanted, describe_type(proj_size))
    if len(proj_size) != len(hidden_size):
        fail(ValueError, "proj_size", f"one for each of {len(hidden_size)} layers", f"{len(proj_size)} of them")
    sizes = []
    for k, (hidden, proj) in enumerate(zip(hidden_size, proj_size, strict=True)):
        N = check_size(f"hidden_size[{k}]", hidden, 1)
        sizes.append((N, N if proj is None else check_size(f"proj_size[{k}]", proj, 1)))
    return sizes


def _unpack_layers(
    packed: Array, sizes: list[tuple[int, int]], order: str, dtype: np.dtype[Any]
) -> tuple[LSTMState, ...]:
    if packed.ndim == 3 and len(sizes) == 1:
        return (_unpack_pair(packed, *sizes[0], order, dtype),)
    _check_ndim("packed", packed, "B N+P")
    width = sum(N + P for N, P in sizes)
    if packed.shape[1] != width:
        layers = ", ".join(f"N={N} P={P}" for N, P in sizes)
        fail(ValueError, "packed", f"{width} columns, of layers with {layers}", f"{packed.shape[1]} columns")
    states, start = [], 0
    for N, P in sizes:
        states.append(_unpack_columns(packed[:, start : start + N + P], N, P, order, dtype))
        start += N + P
    return tuple(states)


def _unpack_columns(packed: Array, N: int, P: int, order: str, dtype: np.dtype[Any]) -> LSTMState:
    """Return the state of one layer's columns (B, N + P)."""
    if order == "ch":
        return _state(packed[:, N:], packed[:, :N], dtype)
    return _state(packed[:, :P], packed[:, P:], dtype)


def _unpack_pair(packed: Array, N: int, P: int | None, order: str, dtype: np.dtype[Any]) -> LSTMState:
    """Return the state of (2, B, N)."""
    if packed.shape[0] != 2 or packed.shape[2] != N:
        fail(ValueError, "packed", f"shape (B, N + P), or (2, B, N) with N = {N}", f"shape {packed.shape}")
    if P not in (None, N):
        fail(ValueError, "proj_size", f"None, or N = {N}, for an array (2, B, N)", str(P))
    return _state(packed[order.index("h")], packed[order.index("c")], dtype)


def _cell_dtype(packed: Array, dtype: Any) -> np.dtype[Any]:
    return dtypes.resolve(packed.dtype if dtype is None else dtype)


def _state(h: Array, c: Array, dtype: np.dtype[Any]) -> LSTMState:
    """Return a state in the dtypes that a cell of this dtype keeps."""
    return LSTMState(h=h.astype(dtype, copy=False), c=c.astype(dtypes.state_dtype(dtype), copy=False))
