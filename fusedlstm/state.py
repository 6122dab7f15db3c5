"""The state of an LSTM: h and c by name, and one packed array in a named order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from fusedlstm import dtypes
from fusedlstm.backends import backend_of
from fusedlstm.checks import check_array, check_choice, check_size, fail

if TYPE_CHECKING:
    from fusedlstm.dtypes import Array

_ORDERS = ("ch", "hc")
_MISSING: Any = object()


class LSTMState:
    """Both states of a batch: `h` (B, P), the output, and `c` (B, N), the memory of the cell.

    The two are told apart by name only. PyTorch and Keras write (h, c), TensorFlow 1 and Flax (c, h),
    so an LSTMState takes no positional arguments and does not unpack: `output, state = cell(x, state)`
    and `h, c = cell(x, state)` raise instead of giving the wrong array. Take `.h` and `.c`.

    Args:
        h: (B, P) in the cell's dtype; P is the projection's size, or N without a projection.
        c: (B, N) in the cell's dtype, float32 where that is a 16-bit one.

    The arrays are held as they are: nothing is copied or checked until a cell takes the state.

    Raises:
        TypeError: positional arguments, or one of the two missing; on iteration, indexing and len().
    """

    __slots__ = ("__weakref__", "c", "h")
    h: Array
    c: Array

    def __init__(self, *positional: Array, h: Array = _MISSING, c: Array = _MISSING) -> None:
        if positional or h is _MISSING or c is _MISSING:
            raise TypeError(
                "LSTMState takes both states by name: write LSTMState(h=..., c=...). "
                "PyTorch and Keras order them (h, c), TensorFlow 1 and Flax (c, h)"
            )
        object.__setattr__(self, "h", h)
        object.__setattr__(self, "c", c)

    def to_numpy(self) -> LSTMState:
        """Return the state in host memory, as NumPy arrays (the arrays themselves where they are NumPy's)."""
        from fusedlstm.interop import to_host

        return LSTMState(h=to_host("h", self.h), c=to_host("c", self.c))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"LSTMState is immutable: make a new one, LSTMState(h=..., c=...), to set {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"LSTMState is immutable: {name} can't be deleted")

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "LSTMState does not unpack, because frameworks disagree on the order: "
            "write state = cell(x, state), then state.h (which is the output) and state.c"
        )

    def __getitem__(self, index: object) -> NoReturn:
        raise TypeError(f"LSTMState has no order to index by {index!r}: write state.h or state.c")

    def __len__(self) -> NoReturn:
        raise TypeError("LSTMState has no length: the batch is state.h.shape[0]")

    def __bool__(self) -> bool:
        return True

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError('LSTMState is two arrays: write pack_state(state, order="ch") or order="hc" for one')

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.h, self.c)

    def __repr__(self) -> str:
        return f"LSTMState(h={_describe(self.h)}, c={_describe(self.c)})"


def _restore(h: Array, c: Array) -> LSTMState:
    return LSTMState(h=h, c=c)


def _describe(array: Array) -> str:
    if hasattr(array, "dtype") and hasattr(array, "shape"):
        return f"<{array.dtype} {tuple(array.shape)}>"
    return type(array).__name__


def pack_state(state: LSTMState, *, order: str) -> Array:
    """Return both states side by side in one new array (B, N + P), in c's dtype.

    Args:
        state: h (B, P) and c (B, N).
        order: "ch" is [c | h], TensorFlow 1's packed state (`state_is_tuple=False`); "hc" is [h | c],
            what Keras users concatenate. There is no default.

    Raises:
        TypeError: `state` is no LSTMState, or its arrays have dtypes that no cell has.
        ValueError: an unknown order; h and c of different batches, or not two-dimensional.
    """
    check_choice("order", order, _ORDERS)
    check_state_type(state)
    h, c = state.h, state.c
    backend = backend_of(c, "state.c")
    check_array("state.h", h, backend.array_type, backend.device, "Both must be of one library")
    _check_2d("state.h", h, "B P")
    _check_2d("state.c", c, "B N")
    if h.shape[0] != c.shape[0]:
        fail(ValueError, "state", "h and c of one batch", f"h {h.shape} and c {c.shape}")
    if not dtypes.is_supported(h.dtype) or dtypes.state_dtype(h.dtype) != c.dtype:
        wanted = "h of float64, float32, float16 or bfloat16, and c of h's dtype, float32 for 16 bits"
        fail(TypeError, "state", wanted, f"h of {h.dtype} and c of {c.dtype}")
    parts = (c, h) if order == "ch" else (h, c)
    packed: Array = backend.side_by_side(*parts, c.dtype)
    return packed


def unpack_state(packed: Array, hidden_size: int, *, order: str, dtype: Any = None) -> LSTMState:
    """Return the two states that one packed array (B, N + P) holds, as views of it where dtypes allow.

    Args:
        packed: (B, N + P).
        hidden_size: N; what is left of the columns is P, so a packed state of the wrong width shows as
            an h of the wrong width in the cell.
        order: "ch" is [c | h], TensorFlow 1's; "hc" is [h | c]. There is no default.
        dtype: the cell's dtype. None is that of `packed`. With a 16-bit dtype h is cast to it and c to
            float32, as cells keep them.

    Raises:
        TypeError: an unsupported dtype, or an array of another library than NumPy and CuPy.
        ValueError: an unknown order; `packed` not two-dimensional or with no column left for h.
    """
    check_choice("order", order, _ORDERS)
    N = check_size("hidden_size", hidden_size, 1)
    backend_of(packed, "packed")
    if not dtypes.is_supported(packed.dtype):
        fail(TypeError, "packed", f"dtype {', '.join(dtypes.NAMES)}", f"dtype {packed.dtype}")
    _check_2d("packed", packed, "B N+P")
    P = packed.shape[1] - N
    if P < 1:
        fail(ValueError, "packed", f"shape (B, N + P) with N = {N} and P at least 1", f"shape {packed.shape}")
    dtype = dtypes.resolve(packed.dtype if dtype is None else dtype)
    h, c = packed[:, _columns_of_h(order, N, P)], packed[:, _columns_of_c(order, N, P)]
    return LSTMState(h=h.astype(dtype, copy=False), c=c.astype(dtypes.state_dtype(dtype), copy=False))


def _columns_of_c(order: str, N: int, P: int) -> slice:
    return slice(0, N) if order == "ch" else slice(P, P + N)


def _columns_of_h(order: str, N: int, P: int) -> slice:
    return slice(N, N + P) if order == "ch" else slice(0, P)


def _check_2d(name: str, array: Array, spec: str) -> None:
    if array.ndim != 2:
        fail(ValueError, name, f"shape ({spec.replace(' ', ', ')})", f"shape {array.shape}")


def check_state_type(state: Any, name: str = "state") -> None:
    """Raise TypeError unless `state` is an LSTMState, saying what to write for what came."""
    if isinstance(state, LSTMState):
        return
    wanted = "an LSTMState(h=..., c=...)"
    if state is None:
        fail(TypeError, name, wanted, "None", "Start from cell.zero_state(batch)")
    if isinstance(state, (tuple, list)):
        fail(
            TypeError,
            name,
            wanted,
            f"a {type(state).__name__}",
            "Name the two: cell(x, LSTMState(h=..., c=...)), because PyTorch and Keras mean (h, c) "
            "while TensorFlow 1 and Flax mean (c, h)",
        )
    if hasattr(state, "shape"):
        fail(
            TypeError,
            name,
            wanted,
            "one array",
            'A packed state names its order: unpack_state(packed, hidden_size, order="ch") for '
            'TensorFlow 1\'s [c | h], order="hc" for [h | c]',
        )
    fail(TypeError, name, wanted, type(state).__name__)
