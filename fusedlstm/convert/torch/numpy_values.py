"""NumPy's scalars and arrays in pickles of torch.save, such as a trainer's best reward beside the weights.

Protocol 2 pickles them as calls of NumPy's functions, with their bytes as text in Latin-1. Nothing is called here. The
text stays as it is until the values are read, so a text that a pickle reuses takes no more memory.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.torch.pickled import Global
from fusedlstm.convert.torch.tensors import MOST_AXES, Other, Storage, StoredTensor

if TYPE_CHECKING:
    from collections.abc import Callable

# NumPy's kinds of numbers, and the names of their dtypes.
_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
_CODE = re.compile(r"([biufc])([0-9]{1,2})")
_KEY = "of NumPy"  # of storages
_LONGEST_CODE = 32  # characters, as in U100; each array of a dtype that isn't read copies its code
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # before NumPy 2, and since
_DAMAGED = "its pickle is damaged: it makes a NumPy {} in a way that NumPy doesn't"


class Text:
    """Bytes, as text in Latin-1."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def storage(self, dtype: str, *, big_endian: bool) -> Storage:
        """Return a storage of these bytes."""
        return Storage(_KEY, dtype, len(self.text), lambda: self.text.encode("latin-1"), big_endian)


class Dtype:
    """A NumPy dtype: its code, such as "f4", and its byte order, which a pickle sets later."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, ""

    def build(self, state: Any) -> None:
        """Set the byte order. The rest of the state describes dtypes that are not numbers."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|"):
            raise ValueError(_DAMAGED.format("dtype"))
        self.order = state[1]

    def values(self, shape: Any, text: Any, *, is_fortran: bool, what: str) -> StoredTensor | Other:
        """Return an array of this dtype; an Other if it is not of numbers."""
        match = _CODE.fullmatch(self.code)
        if match is None or int(match[2]) not in _SIZES[match[1]]:
            return Other(f"a NumPy {what} of dtype {self.code}")
        if not isinstance(text, Text) or not isinstance(shape, tuple) or len(shape) > MOST_AXES or not self.order:
            raise ValueError(_DAMAGED.format(what))
        name = "bool" if match[1] == "b" else f"{_KINDS[match[1]]}{8 * int(match[2])}"
        storage = text.storage(name, big_endian=self.order == ">")
        return StoredTensor.checked(storage, name, 0, shape, _strides(shape, is_fortran=is_fortran))


class Array:
    """A NumPy array, whose pickle sets its values after it is made."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: StoredTensor | Other = Other("a NumPy array without values")

    def build(self, state: Any) -> None:
        """Set the values, given a version, the shape, the dtype, whether it is Fortran-ordered, and the bytes."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], (Dtype, Other)):
            raise ValueError(_DAMAGED.format("array"))
        _, shape, dtype, is_fortran, text = state
        if isinstance(dtype, Dtype):
            self.values = dtype.values(shape, text, is_fortran=is_fortran is True, what="array")


def _strides(shape: tuple[Any, ...], *, is_fortran: bool) -> tuple[int, ...]:
    """Return the strides of an array without gaps. Invalid sizes are refused later."""
    strides, step = [], 1
    for size in shape if is_fortran else reversed(shape):
        strides.append(step)
        step *= max(size, 1) if type(size) is int and size < 2**63 else 1
        step = min(step, 2**63 - 1)  # only damaged files have so large a stride: the size is refused
    return tuple(strides if is_fortran else reversed(strides))


def _bytes(arguments: tuple[Any, ...]) -> Any:
    """Return bytes. Protocol 2 has none, so it pickles the call encode("text", "latin1") instead."""
    if len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] in ("latin1", "latin-1"):
        return Text(arguments[0])
    return Other("bytes")


def _dtype(arguments: tuple[Any, ...]) -> Any:
    if not arguments or not isinstance(arguments[0], str) or len(arguments[0]) > _LONGEST_CODE:
        raise ValueError(_DAMAGED.format("dtype"))
    return Dtype(arguments[0])


def _scalar(arguments: tuple[Any, ...]) -> Any:
    if not arguments or not isinstance(arguments[0], Dtype):
        raise ValueError(_DAMAGED.format("scalar"))
    return arguments[0].values((), arguments[1] if len(arguments) > 1 else None, is_fortran=False, what="scalar")


def _reconstruct(arguments: tuple[Any, ...]) -> Any:
    """Return an array without values, or an Other for a subclass of NumPy's class."""
    kind = arguments[0] if arguments else None
    if not isinstance(kind, Global):
        raise ValueError(_DAMAGED.format("array"))
    return Array() if kind.name == "numpy.ndarray" else Other(kind.name)


CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "_codecs.encode": _bytes,
    "builtins.bytes": lambda arguments: Other("bytes") if arguments else Text(""),
    "numpy.dtype": _dtype,
    **{f"{module}.scalar": _scalar for module in _MODULES},
    **{f"{module}._reconstruct": _reconstruct for module in _MODULES},
}
NAMES = ("numpy.ndarray", *CALLS)


def number(key: Any) -> Any:
    """Return a part of a dict's key: a scalar of NumPy's as a number, anything else as it is."""
    if not isinstance(key, StoredTensor) or key.storage.key is not _KEY:  # a file's key may equal it
        return key
    has_few_bytes = key.storage.nbytes == key.itemsize  # a text may be in many keys
    return key.array().item() if key.shape == () and has_few_bytes else key


def plain(value: Any) -> Any:
    """Return an unpickled value, as a StoredTensor or an Other if it is NumPy's."""
    if isinstance(value, Array):
        return value.values
    return Other("bytes") if isinstance(value, Text) else Other("a NumPy dtype") if isinstance(value, Dtype) else value
