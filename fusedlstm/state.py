"""The state of an LSTM: h and c by name. `fusedlstm.packing` packs states into one array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

from fusedlstm.validation.arguments import describe_type, fail

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import Array

# The state of an owner: a cell has an LSTMState, and an LSTM a tuple of them, one for each layer.
State = TypeVar("State", bound="LSTMState | tuple[LSTMState, ...]")

# An LSTMState or a tuple of them, depending on the source. `Any`, because with a union a type checker rejects
# cell(x, state_from_torch(state)). Docstrings name both: help() shows only this name.
EitherState: TypeAlias = Any


class _Required:
    """The default of a required argument, for help() to show."""

    def __repr__(self) -> str:
        return "<required>"


_REQUIRED: Any = _Required()


class LSTMState:
    """Both states of a batch: `h` (B, P), the output, and `c` (B, N), the cell's memory.

    Only names tell the two apart. PyTorch and Keras write (h, c), TensorFlow 1 and Flax (c, h). So
    an LSTMState takes no positional arguments and doesn't unpack. `output, state = cell(x, state)` and
    `h, c = cell(x, state)` raise instead of giving you the wrong array. Use `.h` and `.c`.

    An LSTMState is immutable. It holds the arrays themselves, without a copy. They are not checked until a cell takes
    the state.

    Args:
        h: (B, P) in the cell's dtype; P is the projection's size, or N without a projection.
        c: (B, N) in the cell's dtype, or in float32 if that has 16 bits.

    Raises:
        TypeError: there are positional arguments, or h or c is missing. Iteration, indexing and len() also raise it.
    """

    __slots__ = ("__weakref__", "c", "h")
    h: Array
    c: Array

    if not TYPE_CHECKING:

        def __init__(self, *positional: Array, h: Array = _REQUIRED, c: Array = _REQUIRED) -> None:
            if positional or h is _REQUIRED or c is _REQUIRED:
                raise TypeError(
                    "LSTMState takes both states by name: write LSTMState(h=..., c=...). "
                    "PyTorch and Keras order them (h, c), TensorFlow 1 and Flax (c, h)"
                )
            object.__setattr__(self, "h", h)
            object.__setattr__(self, "c", c)

    else:  # what the API page shows, and type checkers require

        def __init__(self, *, h: Array, c: Array) -> None: ...

    def to_numpy(self) -> LSTMState:
        """Return the state in host memory, as NumPy arrays. Arrays that are already NumPy's are not copied."""
        from fusedlstm.arrays.host import to_host

        return LSTMState(h=to_host("h", self.h), c=to_host("c", self.c))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"LSTMState is immutable: to change {name}, make a new one, LSTMState(h=..., c=...)")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"LSTMState is immutable: {name} can't be deleted")

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "LSTMState does not unpack, because frameworks disagree on the order: "
            "write state = cell(x, state), then use state.h (the output) and state.c"
        )

    def __getitem__(self, index: object) -> NoReturn:
        raise TypeError(f"LSTMState has no order to index by {index!r}: write state.h or state.c")

    def __len__(self) -> NoReturn:
        raise TypeError("LSTMState has no length: the batch size is state.h.shape[0]")

    def __bool__(self) -> bool:
        return True

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError('LSTMState is two arrays: for one array, use pack_state(state, order="ch") or order="hc"')

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


def check_state_type(state: Any, name: str = "state") -> None:
    """Raise TypeError unless `state` is an LSTMState. The hint says what to write instead."""
    if isinstance(state, LSTMState):
        return
    wanted = "an LSTMState(h=..., c=...)"
    if state is None:
        fail(TypeError, name, wanted, "None", "Start from zero_state(batch)")
    if isinstance(state, (tuple, list)) and state and all(isinstance(each, LSTMState) for each in state):
        hint = f"Use {name}[0]" if len(state) == 1 else "Pass one of them: a cell has one state"
        fail(TypeError, name, wanted, f"a {type(state).__name__} of {len(state)} LSTMState", hint)
    if isinstance(state, (tuple, list)) and len(state) == 2:
        fail(
            TypeError,
            name,
            wanted,
            f"a {type(state).__name__}",
            "Name the two: LSTMState(h=..., c=...), because PyTorch and Keras mean (h, c) "
            "while TensorFlow 1 and Flax mean (c, h)",
        )
    if isinstance(state, (tuple, list)):
        fail(TypeError, name, wanted, f"a {type(state).__name__} of {len(state)}")
    if hasattr(state, "shape"):
        fail(
            TypeError,
            name,
            wanted,
            f"one array, a {describe_type(state)}",
            'For a packed state, use unpack_state(packed, hidden_size, order="ch") if it is '
            'TensorFlow 1\'s [c | h], or order="hc" if it is [h | c]',
        )
    fail(TypeError, name, wanted, describe_type(state))
