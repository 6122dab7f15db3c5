"""Compile kernels into the cache before they are needed, on any machine with NVRTC."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fusedlstm.backends.cuda.instances import instances
from fusedlstm.backends.cuda.runtime import cache
from fusedlstm.backends.cuda.runtime import compile as compiler
from fusedlstm.backends.cuda.runtime.cupy_internals import nvrtc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fusedlstm.backends.uses import Use


class Instance(Protocol):
    """An instance of a kernel, such as a `kernel.Kernel`.

    Attributes:
        file: a file of kernels/.
        name: the instance, with its template arguments.
    """

    file: str
    name: str


@dataclass
class Filled:
    """What `fill` found and made.

    Attributes:
        arch: what the code is for, such as "sm_90".
        nvrtc: NVRTC's version, such as "13.0". No other version finds the code.
        folder: where the code is.
        compiled: how many instances were compiled.
        there: how many instances were cached already.
        nbytes: the bytes of the code of both.
        errors: the compiler's errors, in one text for each instance that doesn't compile.
    """

    arch: str
    nvrtc: str
    folder: Path
    compiled: int
    there: int
    nbytes: int
    errors: list[str]


def compile_uses(uses: Iterable[Use], capability: int, *, jobs: int | None = None, folder: str | None = None) -> Filled:
    """Compile all kernels that some uses of weights can load on GPUs of a compute capability, such as 90.

    Args:
        uses: the uses.
        capability: the compute capability, 90 for 9.0.
        jobs: how many threads compile; None for the number of CPUs.
        folder: the cache's folder, to which FUSEDLSTM_CACHE_DIR is set meanwhile; None for the one that programs use.

    Raises:
        ValueError: a use names a kernel that can't run on such GPUs.
        RuntimeError, OSError: as `fill`.
    """
    found = {(each.file, each.name): each for use in uses for each in instances(use, capability)}
    with contextlib.nullcontext() if folder is None else _cache_at(folder):
        return fill(found.values(), capability, jobs or os.cpu_count() or 1)


@contextlib.contextmanager
def _cache_at(folder: str) -> Iterator[None]:
    before = os.environ.get(cache.VARIABLE)
    os.environ[cache.VARIABLE] = folder
    try:
        yield
    finally:
        del os.environ[cache.VARIABLE]
        if before is not None:
            os.environ[cache.VARIABLE] = before


def fill(kernels: Iterable[Instance], capability: int, jobs: int) -> Filled:
    """Compile all kernels that the cache lacks for GPUs of a compute capability, such as 90, in several threads.

    NVRTC needs no GPU, and releases Python's lock while it compiles.

    Raises:
        RuntimeError: NVRTC can't compile for such GPUs, or CUDA's headers are missing.
        OSError: the cache's folder can't be used or written.
    """
    place = cache.folder()
    reason = cache.make_private(place)
    if reason is not None:
        raise OSError(reason)
    arch = compiler.architecture(str(capability))
    compiler.cuda_headers()  # fails once, instead of for every kernel

    def keep(kernel: Instance) -> tuple[bool, int] | str:
        try:
            return compiler.keep(kernel.file, kernel.name, arch)
        except RuntimeError as error:
            return str(error)

    threads = ThreadPoolExecutor(jobs)
    try:
        ended = list(threads.map(keep, kernels))
    finally:
        threads.shutdown(cancel_futures=True)  # after an interrupt, or if the disk is full
    kept = [each for each in ended if not isinstance(each, str)]
    there = sum(was_there for was_there, _ in kept)
    return Filled(
        arch=arch.removeprefix("-arch="),
        nvrtc=".".join(map(str, nvrtc.getVersion())),
        folder=place,
        compiled=len(kept) - there,
        there=there,
        nbytes=sum(size for _, size in kept),
        errors=[each for each in ended if isinstance(each, str)],
    )
