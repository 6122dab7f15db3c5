"""A launch that is repeated for other arrays of the same layouts. It is checked, loaded and packed once.

A launch by CuPy's RawKernel looks at each argument, which takes most of its time. It ends in `driver.launchKernel`,
which takes the address of packed arguments.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NamedTuple

from cupy.cuda import driver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.cuda.runtime.kernel import Kernel


class PackedLaunch:
    """A launch of a kernel on the current device. Several threads may repeat it at once.

    Args:
        kernel: the kernel, which is loaded.
        grid: as for a RawKernel, without a zero.
        block: likewise.
        arguments: the record of the first launch.
        operands: the arrays among its values that change. They are not kept.
    """

    def __init__(
        self,
        kernel: Kernel,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        arguments: Any,
        operands: Sequence[Any],
    ) -> None:
        values = kernel.struct.values(arguments)
        self._content = kernel.struct.filled(values, kernel.numbers(values)).tobytes()
        # Each member that is an operand, and which one it is.
        self._changing = tuple(
            (at, k) for at, value in enumerate(values) for k, operand in enumerate(operands) if value is operand
        )
        mapped = {at for at, _ in self._changing}
        taken = {operand.data.ptr for operand in operands if operand is not None}
        for at, (member, value) in enumerate(zip(kernel.struct.members, values, strict=True)):
            if at not in mapped and member.dtype is not None and value is not None and value.data.ptr in taken:
                raise RuntimeError(f"{kernel.name}: {member.name} is not one of the operands, but has the same address")
        self._how = (kernel.address(), *(*grid, 1, 1)[:3], *(*block, 1, 1)[:3], kernel.shared)
        self._unused = [_Packed.of(self._content)]

    def queue(self, stream: int, addresses: Sequence[int]) -> None:
        """Queue the launch on a stream, given by its handle, with these addresses of the operands."""
        packed = self._filled(addresses)
        driver.launchKernel(*self._how, stream, packed.parameters, 0)
        self._unused.append(packed)  # the driver has copied the struct

    def _filled(self, addresses: Sequence[int]) -> _Packed:
        """Return a struct that nobody else uses, with these addresses."""
        try:
            packed = self._unused.pop()
        except IndexError:  # another thread, or the call that a signal handler interrupted, uses the last one
            packed = _Packed.of(self._content)
        words = packed.words
        for at, k in self._changing:
            words[at] = addresses[k]
        return packed


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
