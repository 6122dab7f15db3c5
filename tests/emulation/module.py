"""Kernels of one file, compiled for the CPU and called with NumPy arrays."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

from . import launch, parameters
from .arguments import Arguments
from .compiler import build
from .schedules import FORWARD

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .launch import Report
    from .schedules import Schedule

_LARGEST_BLOCK = 1024
# The runtime holds one launch, and modules of the same instances share their library.
_ONE_AT_A_TIME = threading.RLock()


class Module:
    """Instances of the kernels in a file, compiled at once.

    Args:
        file: a .cu file.
        names: the instances, such as "lstm_clip<float>".
        mode: "fast", or "check", which looks at every access.
        flags: more options for the compiler, such as "-DINDEX=int".

    Raises:
        EmulationError: the compiler's errors.
    """

    def __init__(self, file: Path, names: Sequence[str], mode: str = "fast", flags: Sequence[str] = ()) -> None:
        self.file, self.names, self.mode = file, list(names), mode
        self.library = ctypes.CDLL(str(build(self.file, self.names, mode, flags)))

    def function(self, name: str) -> Function:
        """Return one of the instances."""
        return Function(self, name)


class Function:
    """One instance of a kernel."""

    def __init__(self, module: Module, name: str) -> None:
        number = module.names.index(name)
        self.name = name
        self._module = module
        self._kernel = ctypes.cast(getattr(module.library, f"run_kernel_{number}"), ctypes.c_void_p)
        describe = getattr(module.library, f"describe_kernel_{number}")
        self._parameters = (parameters.Parameter * describe(None))()
        describe(self._parameters)
        self._names = parameters.names(module.file, name, len(self._parameters))

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        schedule: Schedule = FORWARD,
        co_resident: int = 4,
    ) -> Report:
        """Launch the kernel, and return when it has run.

        Args:
            grid: blocks in x, y and z; what is left out is 1.
            block: threads in x, y and z, at most 1024.
            args: an array for each pointer, or None or np.uintp(0) for a null pointer; ByValue for a struct; a NumPy
                scalar of the parameter's own type for everything else. An array may be any view; the kernel gets the
                address of its first element. What several arrays share, the kernel sees as shared.
            shared_mem: bytes of dynamic shared memory.
            schedule: in which order threads run.
            co_resident: how many blocks run at the same time. A barrier of the whole grid needs them all.

        Raises:
            EmulationError: the kernel did something wrong.
            TypeError: an argument that is not what its parameter takes.
            ValueError: too many or too few arguments, sizes that CUDA refuses, a read-only array that the
                kernel may write to, or a struct's pointer that is not its array's address.
        """
        threads = 1
        for size in block:
            threads *= size
        if threads > _LARGEST_BLOCK:
            raise ValueError(f"a block has at most {_LARGEST_BLOCK} threads, not {threads}")
        with _ONE_AT_A_TIME:
            return launch.run(
                self._module.library,
                self._kernel,
                Arguments(self.name, self._parameters, self._names, args),
                grid,
                block,
                check=self._module.mode == "check",
                shared_mem=shared_mem,
                schedule=schedule,
                co_resident=co_resident,
            )
