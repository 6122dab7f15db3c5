"""A launch that is repeated with a few new values. It is checked, loaded and packed once.

A launch by CuPy's RawKernel looks at each argument, which takes most of its time. It ends in `driver.launchKernel`,
which takes the address of packed arguments.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from fusedlstm.backends.cuda.runtime.cupy_internals import driver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fusedlstm.backends.cuda.runtime.kernel import Launch


def members_named(launch: Launch, places: Mapping[str, int]) -> list[tuple[int, int]]:
    """Return the members of a launch whose names end like these, such as "pool.tick", each with its place.

    Names that this launch doesn't have are ignored.
    """
    return [
        (at, place)
        for at, member in enumerate(launch.kernel.struct.members)
        for name, place in places.items()
        if f".{member.name}".endswith(f".{name}")
    ]


def members_with(launch: Launch, operands: Sequence[Any]) -> list[tuple[int, int]]:
    """Return the members of a launch that are one of these arrays, each with the array's place.

    Raises:
        RuntimeError: another member has the address of an operand, and would keep it.
    """
    found, taken = [], {operand.data.ptr for operand in operands}
    members = zip(launch.kernel.struct.members, launch.kernel.struct.values(launch.arguments), strict=True)
    for at, (member, value) in enumerate(members):
        place = next((k for k, operand in enumerate(operands) if operand is value), None)
        if place is not None:
            found.append((at, place))
        elif member.dtype is not None and value is not None and value.data.ptr in taken:
            raise RuntimeError(f"{launch.kernel.name}: {member.name} has the address of an operand, and isn't one")
    return found


class PackedLaunch:
    """A launch on the current device, repeated with other values of some members.

    A value is an array, an int, or None for a null pointer. Neither the first launch nor values are kept.

    Args:
        launch: the first launch, whose kernel is loaded.
        changing: the members that change, by their numbers, and the place of each one's value in a repetition's values.
    """

    def __init__(self, launch: Launch, changing: Sequence[tuple[int, int]]) -> None:
        struct, values = launch.kernel.struct, launch.kernel.struct.values(launch.arguments)
        self._content = struct.filled(values, launch.kernel.numbers(values)).tobytes()
        self.name, self._changing = launch.kernel.name, tuple(changing)
        self._kernel, self._shared = launch.kernel.address(), launch.kernel.shared
        self._grid, self._block = _three(launch.grid), _three(launch.block)
        self._unused, self._bound = [_Packed.of(self._content)], _Packed.of(self._content)

    def queue(self, stream: int, values: Sequence[Any]) -> None:
        """Queue a repetition on a stream, given by its handle. Several threads may do so at once."""
        try:
            packed = self._unused.pop()
        except IndexError:  # another thread, or the call that a signal handler interrupted, uses the last one
            packed = _Packed.of(self._content)
        self._fill(packed.words, values)
        driver.launchKernel(self._kernel, *self._grid, *self._block, self._shared, stream, packed.parameters, 0)
        self._unused.append(packed)  # the driver has copied the struct

    def bound(self, stream: int, values: Sequence[Any], grid: tuple[int, ...]) -> Callable[[], Any]:
        """Return a function that queues a repetition on a stream, without running Python code.

        Call it before `bound` is called again.
        """
        packed = self._bound
        self._fill(packed.words, values)
        how = *_three(grid), *self._block, self._shared, stream, packed.parameters, 0
        return functools.partial(driver.launchKernel, self._kernel, *how)

    def _fill(self, words: Any, values: Sequence[Any]) -> None:
        """Overwrite the members of a struct that change."""
        for at, place in self._changing:
            value = values[place]
            words[at] = value if type(value) is int else 0 if value is None else value.data.ptr


def _three(size: tuple[int, ...]) -> tuple[int, ...]:
    """Return a grid or block in three dimensions."""
    return (*size, 1, 1)[:3]


class _Packed(NamedTuple):
    """A struct as a launch takes it.

    Attributes:
        words: its members, of 8 bytes each.
        parameters: the address of `pointers`.
        pointers: the address of each parameter. There is one, the struct.
    """

    words: Any
    parameters: int
    pointers: Any

    @classmethod
    def of(cls, content: bytes) -> _Packed:
        words = (ctypes.c_int64 * (len(content) // 8)).from_buffer_copy(content)
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(words))
        return cls(words, ctypes.addressof(pointers), pointers)
