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
# The runtime handles one launch at a time, and modules of the same instances share a library.
_ONE_AT_A_TIME = threading.RLock()


class Module:
    """Instances of the kernels in a file, compiled at once.

    Args:
        file: a .cu file.
        names: the instances, such as "lstm_clip<float>".
        mode: "fast", or "check", which checks every access.
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
        trace: bool = False,
    ) -> Report:
        """Launch the kernel, and return when it is done.

        Args:
            grid: blocks in x, y and z. Sizes that are left out are 1.
            block: threads in x, y and z, at most 1024.
            args: an array for each pointer, or None or np.uintp(0) for a null pointer. Pass ByValue for a struct, and a
                NumPy scalar of exactly the parameter's type for anything else. An array may be any view, and the kernel
                gets the address of its first element. Memory that arrays share is shared in the kernel too.
            shared_mem: bytes of dynamic shared memory.
            schedule: the order in which threads run.
            co_resident: how many blocks run at the same time. A barrier of the whole grid needs all blocks.
            trace: whether the report gets a trace of shared memory. It needs the mode check.

        Raises:
            EmulationError: the kernel did something wrong.
            TypeError: an argument has another type than its parameter.
            ValueError: there are too many or too few arguments, CUDA refuses the sizes, the kernel may write to a
                read-only array, a struct's pointer isn't its array's address, or the launch can't be traced.
        """
        threads = 1
        for size in block:
            threads *= size
        if threads > _LARGEST_BLOCK:
            raise ValueError(f"a block has at most {_LARGEST_BLOCK} threads, not {threads}")
        if trace and self._module.mode != "check":
            raise ValueError("only the mode check traces shared memory")
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
                trace=trace,
            )
