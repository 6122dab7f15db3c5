"""Compile kernels into the cache before they are needed, on any machine with NVRTC."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cupy.cuda import nvrtc

from fusedlstm.backends.cuda.runtime import cache
from fusedlstm.backends.cuda.runtime import compile as compiler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusedlstm.backends.cuda.runtime.compile import Kernel


@dataclass
class Filled:
    """What `fill` found and made.

    Attributes:
        compiled: the instances that were compiled.
        there: the instances that were cached already.
        nbytes: the bytes of the code of both.
        errors: the compiler's errors, in one text for each instance that doesn't compile.
    """

    compiled: int
    there: int
    nbytes: int
    errors: list[str]


def version() -> str:
    """Return NVRTC's version, such as "13.0". Code in the cache serves only this version."""
    return ".".join(map(str, nvrtc.getVersion()))


def fill(kernels: Iterable[Kernel], capability: int, jobs: int) -> Filled:
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

    def ensure(kernel: Kernel) -> tuple[bool, int] | str:
        about = kernel.file, kernel.name, arch
        there = compiler.kept_bytes(*about)
        if there is not None:
            return True, there
        try:
            compiler.kept_or_compiled(*about)
        except RuntimeError as error:
            return str(error)
        size = compiler.kept_bytes(*about)
        if size is None:
            raise OSError(f"{place}: compiled kernels can't be written there")
        return False, size

    with ThreadPoolExecutor(jobs) as threads:
        ended = list(threads.map(ensure, kernels))
    kept = [each for each in ended if not isinstance(each, str)]
    there = sum(was_there for was_there, _ in kept)
    nbytes = sum(size for _, size in kept)
    return Filled(len(kept) - there, there, nbytes, [each for each in ended if isinstance(each, str)])
