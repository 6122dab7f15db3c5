"""One launch: the request to the runtime, and its result."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .arguments import Arguments, Extent
from .errors import EmulationError
from .trace import ACCESS, ROOM, Trace, of_accesses, source_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .schedules import Schedule


class Report(NamedTuple):
    """Counts of the runtime's work in a launch, and its trace if it was traced."""

    thread_switches: int
    checked_accesses: int
    trace: Trace | None


class Launch(ctypes.Structure):
    """The runtime's struct of the same name."""

    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("dynamic_shared_bytes", ctypes.c_uint64),
        ("check", ctypes.c_int),
        ("order", ctypes.c_int),
        ("preempt", ctypes.c_uint32),
        ("co_resident", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("extents", ctypes.c_void_p),
        ("extent_count", ctypes.c_uint64),
        ("argument_names", ctypes.c_void_p),
        ("trace", ctypes.c_void_p),
        ("trace_room", ctypes.c_uint64),
        ("traced", ctypes.c_uint64),
        ("kind", ctypes.c_char * 64),
        ("text", ctypes.c_char * 1024),
        ("memory", ctypes.c_char * 64),
        ("place", ctypes.c_uint64),
        ("thread_switches", ctypes.c_uint64),
        ("checked_accesses", ctypes.c_uint64),
    )


def run(
    library: ctypes.CDLL,
    kernel: ctypes.c_void_p,
    arguments: Arguments,
    grid: Sequence[int],
    block: Sequence[int],
    *,
    check: bool,
    shared_mem: int,
    schedule: Schedule,
    co_resident: int,
    trace: bool,
) -> Report:
    """Run a launch to its end.

    Raises:
        EmulationError: the kernel has a fault. The arrays hold what it had written by then.
    """
    packed = arguments.packed()
    pointers = (ctypes.c_void_p * len(packed))(*map(ctypes.addressof, packed))
    extents = arguments.extents() if check else []
    extent_array = (Extent * len(extents))(*extents)
    names = (ctypes.c_char_p * len(arguments.names))(*(name.encode() for name in arguments.names))
    traced = np.zeros(ROOM if trace else 0, ACCESS)
    request = Launch(
        kernel=kernel,
        arguments=ctypes.addressof(pointers),
        grid=_three(grid),
        block=_three(block),
        dynamic_shared_bytes=shared_mem,
        check=check,
        order=schedule.order,
        preempt=schedule.preempt,
        co_resident=co_resident,
        seed=schedule.seed,
        extents=ctypes.addressof(extent_array),
        extent_count=len(extents),
        argument_names=ctypes.addressof(names),
        trace=traced.ctypes.data if trace else None,
        trace_room=len(traced),
    )
    library.emulation_launch(ctypes.byref(request))
    arguments.copy_back()
    if request.kind:
        _raise(Path(library._name), request)
    stray = arguments.neighbour_of_stray_write()
    if stray is not None:
        message = f"the kernel wrote outside its arguments, in the allocation of '{stray}'"
        raise EmulationError("canary", message, argument=stray)
    return Report(
        request.thread_switches, request.checked_accesses, _trace(library, request, traced) if trace else None
    )


def _trace(library: ctypes.CDLL, request: Launch, traced: np.ndarray[Any, Any]) -> Trace:
    if request.traced > len(traced):
        raise ValueError(
            f"the launch made {request.traced} accesses to shared memory: a trace has room for {len(traced)}"
        )
    return of_accesses(Path(library._name), traced[: request.traced])


def _three(sizes: Sequence[int]) -> Any:
    """Return the three sizes of a grid or block, checked as CUDA does."""
    full = [int(size) for size in sizes] + [1] * (3 - len(sizes))
    if len(full) != 3 or min(full) < 1 or math.prod(full) >= 1 << 31:
        raise ValueError(f"a grid or block has one to three sizes of at least 1, not {tuple(sizes)}")
    return (ctypes.c_uint32 * 3)(*full)


def _raise(library: Path, request: Launch) -> None:
    lines = source_lines(library, [request.place])[0] if request.place else []
    place = " <- ".join(f"{file}:{line}" for file, line in lines)
    raise EmulationError(request.kind.decode(), request.text.decode(), place, request.memory.decode() or None)
