"""The symbols of a shared library, read from its file."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SYMBOL_TABLE, _DYNAMIC_SYMBOLS = 2, 11  # kinds of sections
_FUNCTION = 2  # a type of symbols


class Symbol(NamedTuple):
    """A function, or a name that a library needs from another one.

    Attributes:
        name: its name for the linker.
        offset: its address, relative to the loaded library. 0 for a name from another library.
    """

    name: str
    offset: int


class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


def functions(library: Path) -> Iterator[Symbol]:
    """Yield the functions that a library defines, including those that it doesn't export."""
    for name, info, section, offset in _symbols(library, _SYMBOL_TABLE):
        if info & 15 == _FUNCTION and section:
            yield Symbol(name, offset)


def undefined(library: Path) -> Iterator[Symbol]:
    """Yield the names that a library needs from others."""
    for name, _, section, _ in _symbols(library, _DYNAMIC_SYMBOLS):
        if not section and name:
            yield Symbol(name, 0)


def _symbols(library: Path, kind: int) -> Iterator[tuple[str, int, int, int]]:
    content = library.read_bytes()
    first = struct.unpack_from("<Q", content, 40)[0]  # e_shoff of the ELF header
    count = struct.unpack_from("<H", content, 60)[0]  # e_shnum
    size = struct.calcsize("<IIQQQQIIQQ")
    sections = [_Section(*struct.unpack_from("<IIQQQQIIQQ", content, first + size * k)) for k in range(count)]
    for section in sections:
        if section.kind != kind:
            continue
        names = sections[section.link].offset
        for at in range(section.offset, section.offset + section.size, section.entry_size):
            name, info, _, where, value, _ = struct.unpack_from("<IBBHQQ", content, at)
            end = content.index(b"\0", names + name)
            yield content[names + name : end].decode(), info, where, value
