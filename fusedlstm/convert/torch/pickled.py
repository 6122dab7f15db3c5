"""Types for reading pickles of torch.save: names, dicts and a bounded stream of bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import BinaryIO

_LONGEST_LINE = 1024  # the longest name of a module or class


@dataclass(frozen=True, slots=True)
class Global:
    """The full name of a class, function or dtype."""

    name: str

    def __str__(self) -> str:
        return self.name


class Pairs(Mapping[Any, Any]):
    """A dict as a list of its items, so that nothing from the file is hashed."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[Any, Any]]) -> None:
        self.pairs = pairs

    def __getitem__(self, key: Any) -> Any:
        for one, value in reversed(self.pairs):
            if type(one) is type(key) and isinstance(one, (str, int)) and one == key:
                return value
        raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        return (key for key, _ in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]
        """Return the items in the file's order."""
        return self.pairs


class Stream:
    """Bytes read in order, never past their end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.left = file, size

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes. Raise ValueError if there are fewer."""
        if count > self.left:
            raise ValueError("its pickle is truncated")
        self.left -= count
        return self._file.read(count)

    def line(self) -> str:
        """Return the next line, without its newline. Raise ValueError if it doesn't end."""
        line = self._file.readline(min(_LONGEST_LINE, self.left))
        self.left -= len(line)
        if not line.endswith(b"\n"):
            raise ValueError("its pickle has a name without an end")
        return line[:-1].decode()
