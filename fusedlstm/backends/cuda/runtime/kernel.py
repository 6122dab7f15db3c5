"""Load compiled kernels as CuPy's RawKernels, and launch them. Only this file and `packed.py` launch any."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.cuda.runtime.compile import architecture, kept_or_compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.backends.cuda.runtime.structs import Member, Struct

# Reentrant, as a signal handler may call a cell during its compilation.
_LOCK = threading.RLock()


class Kernel:
    """One instance of a kernel. A call checks the arguments, and launches it.

    Args:
        file: a file of kernels/.
        name: the instance, with its template arguments.
        struct: the struct of its arguments.
        shared: bytes of dynamic shared memory of each launch.
    """

    def __init__(self, file: str, name: str, struct: Struct, shared: int = 0) -> None:
        self.file, self.name, self.struct, self.shared = file, name, struct, shared
        self._functions: dict[int, cupy.RawKernel] = {}  # by device

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: Any) -> None:
        """Launch on the current device and stream. A grid with a zero in it launches nothing.

        This checks the arguments and the grid, as CuPy checks neither: it launches an empty grid as one block.
        """
        values = self.struct.values(arguments)
        self.bound(grid, block, self.struct.filled(values, self.numbers(values)))()

    def numbers(self, values: Sequence[Any]) -> list[Any]:
        """Return the numbers to pack for the values of the struct's members, or raise TypeError."""
        return list(map(number, self.struct.members, values))

    def bound(self, grid: tuple[int, ...], block: tuple[int, ...], *passed: Any) -> Callable[[], Any]:
        """Return a function that launches the kernel on this device. With the real CuPy it runs no Python code."""
        if 0 in grid:
            return bool
        return functools.partial(self._function(), grid, block, passed, shared_mem=self.shared)

    def load(self) -> None:
        """Compile and load the kernel on the current device, so that this can't fail in a launch."""
        self._function()

    def address(self) -> int:
        """Return the handle of the function on the current device, loaded if needed."""
        return int(self._function().kernel.ptr)

    def _function(self) -> cupy.RawKernel:
        device = cupy.cuda.runtime.getDevice()
        function = self._functions.get(device)
        if function is None:
            with _LOCK:  # another thread may have loaded it meanwhile
                function = self._functions.get(device) or self._load(device)
                self._functions[device] = function
        return function

    def _load(self, device: int) -> cupy.RawKernel:
        arch = architecture(cupy.cuda.Device(device).compute_capability)
        mangled, code = kept_or_compiled(self.file, self.name, arch)
        function = cupy.RawModule(path=str(code)).get_function(mangled)
        if self.shared:  # even below the default limit of 48 KiB, which includes the kernel's static shared memory
            function.max_dynamic_shared_size_bytes = self.shared
        return function


@dataclass(frozen=True)
class Launch:
    """A launch of a kernel. Its arguments are a record of `arguments.py`."""

    kernel: Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: Any

    def queue(self) -> None:
        """Queue it on the current stream."""
        self.kernel(self.grid, self.block, self.arguments)


def number(member: Member, value: Any) -> Any:
    """Return a number itself, an array's address, or 0 for None. Raise TypeError if the member can't have the value."""
    if member.dtype is None:
        return value
    if value is None:
        return 0
    if not isinstance(value, cupy.ndarray) or value.dtype != member.dtype:
        dtype = f" of {value.dtype}" if isinstance(value, cupy.ndarray) else ""
        raise TypeError(f"{member.name} must be a CuPy array of {member.dtype}, not {type(value).__name__}{dtype}")
    return value.data.ptr
