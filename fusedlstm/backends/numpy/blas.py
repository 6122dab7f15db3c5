"""Find out which BLAS NumPy uses, and whether its kernel is made for this processor.

A step on a CPU is mostly one matrix product. OpenBLAS has kernels for many processors and picks one when it is loaded.
If it mistakes the processor for an older one, or OPENBLAS_CORETYPE names an older one, steps run at half the speed or
less. These functions never raise, and return None for what they can't find out.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

_VARIABLE = "OPENBLAS_CORETYPE"
_OPENMP = 2  # openblas_get_parallel returns this if OpenBLAS was built with OpenMP

# The instructions that OpenBLAS's x86 kernels use, by kernel names in lower case.
_OLD, _AVX, _AVX2, _AVX512 = range(4)
_INSTRUCTIONS = ("SSE", "AVX", "AVX2", "AVX-512")
_KERNELS = {
    **dict.fromkeys(("skylakex", "cooperlake", "sapphirerapids"), _AVX512),
    **dict.fromkeys(("haswell", "zen", "excavator"), _AVX2),
    **dict.fromkeys(("sandybridge", "bulldozer", "piledriver", "steamroller"), _AVX),
    **dict.fromkeys(("generic", "prescott", "katmai", "core2", "penryn", "dunnington", "nehalem", "atom"), _OLD),
    **dict.fromkeys(("athlon", "opteron", "opteron_sse3", "barcelona", "bobcat", "nano"), _OLD),
}
# The value of _VARIABLE to advise on a processor with these instructions.
_BEST = {_AVX: "Sandybridge", _AVX2: "Haswell", _AVX512: "SkylakeX"}
# The instructions, by the names that NumPy 1.26 and later give them.
_FOUND = {"AVX": _AVX, "AVX2": _AVX2, "X86_V3": _AVX2, "AVX512_SKX": _AVX512, "X86_V4": _AVX512}


def facts() -> dict[str, Any]:
    """Return facts about NumPy's BLAS: its `name`, `version`, running `kernel` (OpenBLAS only) and `threads`."""
    built = _config("Build Dependencies").get("blas") or {}
    return {"name": built.get("name"), "version": built.get("version"), "kernel": kernel(), "threads": threads()}


def kernel() -> str | None:
    """Return OpenBLAS's name for the processor whose kernels run, or None."""
    name = _function(_openblas(), "get_corename", ctypes.c_char_p)
    return None if name is None else str(name().decode(errors="replace"))


def threads() -> int | None:
    """Return how many threads OpenBLAS uses now, or None."""
    count = _function(_openblas(), "get_num_threads", ctypes.c_int)
    return None if count is None else int(count())


def thread_functions() -> tuple[Callable[[], int], Callable[[int], object]]:
    """Return OpenBLAS's own functions that get and set its number of threads, in the whole process.

    They keep the GIL, which saves time, as they are called at each step. `why_threads_are_fixed()` must be None.
    """
    library: Any = _openblas()
    quick = ctypes.PyDLL(library._name)
    return _function(quick, "get_num_threads", ctypes.c_int), _function(quick, "set_num_threads", None)


def why_threads_are_fixed() -> str | None:
    """Return why `thread_functions` can't be used, or None if they can."""
    parallel = _function(_openblas(), "get_parallel", ctypes.c_int)
    if parallel is None or _function(_openblas(), "set_num_threads", None) is None:
        return f"NumPy's BLAS ({describe()}) isn't OpenBLAS, or its library wasn't found"
    kind = int(parallel())
    if kind == _OPENMP:
        return "NumPy's OpenBLAS was built with OpenMP, where each Python thread has its own number of threads"
    return None if kind else "NumPy's OpenBLAS was built without threads"


def describe() -> str:
    """Return the facts in one line."""
    known = facts()
    parts = [" ".join(filter(None, (known["name"], known["version"]))) or "unknown"]
    if known["kernel"]:
        parts.append(f"kernel {known['kernel']}")
    if known["threads"]:
        parts.append(f"{known['threads']} thread{'s' if known['threads'] > 1 else ''}")
    return ", ".join(parts)


def advice() -> str | None:
    """Return what to set if the running kernel is for older processors than this one, else None."""
    return advise(facts()["kernel"], _simd(), os.environ)


def advise(kernel: str | None, simd: Collection[str], environ: Mapping[str, str]) -> str | None:
    """Return what to set for a better kernel, or None.

    Args:
        kernel: OpenBLAS's name for the running kernel, or None.
        simd: NumPy's names of the instructions that the processor has.
        environ: the environment's variables.
    """
    runs = _KERNELS.get((kernel or "").lower())
    has = max((_FOUND[name] for name in simd if name in _FOUND), default=_OLD)
    if runs is None or runs >= has:
        return None
    uses = f"it uses {_INSTRUCTIONS[runs]} where this one has {_INSTRUCTIONS[has]}"
    slow = f"kernel {kernel} is for older processors: {uses}"
    if environ.get(_VARIABLE):
        return f"{slow}; {_VARIABLE}={environ[_VARIABLE]} is set: unset it"
    return f"{slow}; set {_VARIABLE}={_BEST[has]} before Python starts"


def _config(section: str) -> dict[str, Any]:
    """Return a section of NumPy's own report on its build and processor."""
    with contextlib.suppress(Exception):  # an unusual build of NumPy may do anything
        config: Any = np.show_config(mode="dicts")
        return dict(config[section])
    return {}


def _simd() -> set[str]:
    """Return NumPy's names of the instructions that this processor has."""
    extensions = _config("SIMD Extensions")
    return {*extensions.get("baseline", ()), *extensions.get("found", ())}


@functools.cache
def _openblas() -> ctypes.CDLL | None:
    """Return the OpenBLAS that NumPy has loaded, or None if it isn't found."""
    for path in _candidates():
        with contextlib.suppress(OSError):  # not a library, or removed since
            return ctypes.CDLL(path)
    return None


def _candidates() -> Iterator[str]:
    """Yield files that may be NumPy's OpenBLAS: those in its wheel, and on Linux those that this process loaded."""
    package = os.path.dirname(np.__file__)
    for folder in (os.path.join(os.path.dirname(package), "numpy.libs"), f"{package}/.libs", f"{package}/.dylibs"):
        with contextlib.suppress(OSError):  # no such folder
            yield from sorted(os.path.join(folder, name) for name in os.listdir(folder) if "openblas" in name)
    with contextlib.suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        loaded = re.findall(r"(/\S.*openblas.*)$", maps.read(), re.MULTILINE)
        yield from (name for name in dict.fromkeys(loaded) if "scipy.libs" not in name)  # SciPy brings its own


def _function(library: ctypes.CDLL | None, name: str, result: Any) -> Any:
    """Return an OpenBLAS function that takes no arguments or an int, under any of its names, or None."""
    for prefix in ("scipy_", ""):
        for suffix in ("64_", ""):
            function = getattr(library, f"{prefix}openblas_{name}{suffix}", None)
            if function is not None:
                function.restype = result
                return function
    return None
