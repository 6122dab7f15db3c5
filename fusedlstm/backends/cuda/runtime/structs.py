"""A kernel's arguments as one struct: turn a record of named values into the bytes that a launch passes.

A record is a dataclass. Its members are records, or annotated with their C++ type: `Annotated[Any, "const T*"]`.
Members are pointers, i64 and double. Each has 8 bytes, so there is no padding.
"""

from __future__ import annotations

import dataclasses
import operator
import struct
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_origin, get_type_hints

import numpy as np

from fusedlstm.arrays import dtypes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_BYTES = 8  # of a member
_DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in (
        ("unsigned char", np.bool_),
        ("int", np.int32),
        ("unsigned", np.uint32),
        ("i64", np.int64),
        ("u64", np.uint64),
    )
}
_FORMATS = {"i64": "q", "double": "d"}
# C++ type names, by dtype.
C_NAMES = {"float64": "double", "float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}


class Member(NamedTuple):
    """A member of a struct, or of a struct inside it.

    Attributes:
        name: its path, such as "rows.x.at".
        kind: its C++ type, such as "const T*".
        offset: its first byte.
        dtype: the dtype of the array that it points to; None for a number.
    """

    name: str
    kind: str
    offset: int
    dtype: np.dtype[Any] | None

    @property
    def is_const(self) -> bool:
        """Whether it is a pointer that a kernel can't write through."""
        return self.kind.startswith("const ")


class Filled(np.ndarray[Any, Any]):
    """The bytes of a struct as an array of one element, which CuPy passes by value.

    Attributes:
        struct: the struct.
        values: the values of its members. They keep arrays alive as long as this lives.
    """

    struct: Struct
    values: Sequence[Any]


class Struct:
    """The members of a struct for some dtypes, in order.

    Args:
        record: the record of the struct.
        types: the dtypes of its template's parameters, by name: T and, for some, G. A follows from T.
    """

    def __init__(self, record: type, **types: np.dtype[Any]) -> None:
        self.record, self.types = record, types
        known = _DTYPES | types | ({"A": dtypes.state_dtype(types["T"])} if "T" in types else {})
        self.members = tuple(
            Member(name, kind, _BYTES * k, known[kind.removeprefix("const ")[:-1]] if kind[-1] == "*" else None)
            for k, (name, kind) in enumerate(_members(record))
        )
        self.size = _BYTES * len(self.members)
        self._bytes = struct.Struct("<" + "".join(_FORMATS.get(member.kind, "Q") for member in self.members))
        self._dtype = np.dtype((np.void, self.size))
        self._get: Callable[[Any], Sequence[Any]] = operator.attrgetter(*(member.name for member in self.members))

    def values(self, arguments: Any) -> list[Any]:
        """Return the values of a record's members, in order."""
        return list(self._get(arguments))

    def filled(self, values: Sequence[Any], numbers: Sequence[Any]) -> Filled:
        """Return the struct filled with these numbers: addresses of arrays, or values. It keeps the values alive."""
        try:
            filled = Filled((1,), self._dtype, self._bytes.pack(*numbers))
        except struct.error as error:
            raise TypeError(f"{self.record.__name__}: {error}") from None
        filled.struct, filled.values = self, values
        return filled


def _members(record: type) -> Iterator[tuple[str, str]]:
    """Yield the paths and kinds of all members. E in a record stands for the type that an outer record gives."""
    for name, hint in get_type_hints(record, include_extras=True).items():
        of, kind = (hint.__origin__, hint.__metadata__[0]) if get_origin(hint) is Annotated else (hint, "")
        if not dataclasses.is_dataclass(of):
            yield name, kind
            continue
        for path, inner in _members(of):  # type: ignore[arg-type]
            yield f"{name}.{path}", f"{kind}*" if inner == "E*" else inner
