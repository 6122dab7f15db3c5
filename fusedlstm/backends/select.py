"""Choose a backend for a new cell or for an array."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import log
from fusedlstm.arrays.libraries import library_of
from fusedlstm.backends import kernel_choice
from fusedlstm.backends.numpy.backend import NumpyBackend
from fusedlstm.errors import BackendUnavailableError
from fusedlstm.validation.arguments import check_no_grad, describe_type, fail

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.base import Backend
    from fusedlstm.backends.cuda.prefill import Filled
    from fusedlstm.backends.cuda.replay_timer import ReplayTimer
    from fusedlstm.backends.measured import Layer, Measured
    from fusedlstm.backends.uses import Use

_VARIABLE = "FUSEDLSTM_BACKEND"
_NUMPY = NumpyBackend()


def choose(name: str | None) -> Backend:
    """Return the named backend, else the one that FUSEDLSTM_BACKEND names, else the first that can run here.

    Raises:
        ValueError: the name is unknown.
        BackendUnavailableError: the named backend can't run here.
    """
    source = "backend"
    if name is None and os.environ.get(_VARIABLE):
        source, name = _VARIABLE, os.environ[_VARIABLE]
    if name is None:
        return _first_that_runs()
    kind, index = parse(source, name)
    if kind == "numpy":
        return _NUMPY
    reason = unavailable_reason("cuda", index)
    if reason is not None:
        raise BackendUnavailableError(f"{source}={name!r} can't run here: {reason}")
    return _cuda(index)


def parse(source: str, name: Any) -> tuple[str, int]:
    """Split "cuda:1" into its name and the device's index. `source` is the argument's name.

    Raises:
        ValueError: the name is unknown.
    """
    kind, colon, index = name.partition(":") if isinstance(name, str) else ("", "", "")
    known = kind == "cuda" if colon else kind in ("numpy", "cuda")
    if not known or (colon and not (index.isascii() and index.isdigit())):
        fail(ValueError, source, "'numpy', 'cuda' or 'cuda:<index>'", repr(name))
    return kind, int(index or 0)


def _first_that_runs() -> Backend:
    reason = unavailable_reason("cuda")
    if reason is None:
        return _cuda(0)
    _say_why_not_cuda(reason)
    return _NUMPY


_said: set[str] = set()


def _say_why_not_cuda(reason: str) -> None:
    """Log each reason once. It is a warning if CuPy is installed, as the user then expects a GPU."""
    if reason not in _said:
        _said.add(reason)
        say = log.info if reason.startswith("CuPy is not installed") else log.warning
        say("running on numpy, because cuda can't run here: %s", reason)


def unavailable_reason(name: str, index: int = 0) -> str | None:
    """Return why a backend can't run here, or None if it can."""
    if name == "numpy":
        return None
    from fusedlstm.backends.cuda.runtime.probe import why_not

    return why_not(index)


def available_backends() -> tuple[str, ...]:
    """Return the names of the backends that can run here: "cuda" first if it can, then "numpy"."""
    return ("numpy",) if unavailable_reason("cuda") else ("cuda", "numpy")


def facts() -> list[tuple[str, str]]:
    """Return facts about the backends here, as rows (name, text). A name may be empty."""
    from fusedlstm.backends.cuda.runtime import cache

    reason = unavailable_reason("cuda")
    gpus = [] if reason else _facts_of_gpus()
    rows = [("backend numpy", "runs"), ("backend cuda", f"can't run: {reason}" if reason else "runs")]
    return [*rows, *gpus, ("cache folder", str(cache.folder()))]


def _facts_of_gpus() -> list[tuple[str, str]]:
    from fusedlstm.backends.cuda.runtime.cublaslt import why_not
    from fusedlstm.backends.cuda.runtime.probe import capabilities, describe_gpus
    from fusedlstm.backends.cuda.runtime.tuned import descriptions

    reason = why_not()
    rows = [("", "can step by matmul, with nvmath-python" if reason is None else f"can't step by matmul: {reason}")]
    for index, (text, capability) in enumerate(zip(describe_gpus(), capabilities(), strict=True)):
        used, unused = descriptions(index)
        rows += [(f"GPU {index}", text), ("", kernel_choice.describe(capability, is_measured=bool(used)))]
        rows += [("", line) for line in (*used, *unused)]
    return rows


def facts_of_gpu(index: int) -> dict[str, str]:
    """Return facts about a GPU and what runs on it, by name. CUDA must be able to run."""
    from fusedlstm.backends.cuda.runtime import about

    return about.facts(index)


def digest_of_kernels() -> str:
    """Return the digest of the kernels' source files."""
    from fusedlstm.backends.cuda.runtime import sources

    return sources.digest()


def compile_uses(uses: Sequence[Use], capability: int, *, jobs: int | None = None, folder: str | None = None) -> Filled:
    """Compile what uses of weights need on a GPU; see `prefill.compile_uses`. No GPU is needed.

    Raises:
        BackendUnavailableError: kernels can't be compiled here.
    """
    from fusedlstm.backends.cuda.runtime import probe

    reason = probe.why_not_compile()
    if reason is not None:
        raise BackendUnavailableError(f"kernels can't be compiled here: {reason}")
    from fusedlstm.backends.cuda import prefill

    return prefill.compile_uses(uses, capability, jobs=jobs, folder=folder)


def replay_timer(index: int) -> ReplayTimer:
    """Return a ReplayTimer, which times steps or runs on a GPU."""
    from fusedlstm.backends.cuda.replay_timer import ReplayTimer

    return ReplayTimer(index)


def times_of(index: int, layer: Layer) -> Measured | None:
    """Return the kept times of a layer's kernels on a GPU, or None."""
    from fusedlstm.backends.cuda.runtime import tuned

    return tuned.read(index, layer)


def keep_times(index: int, layer: Layer, measured: Measured) -> Path:
    """Keep the measured times of a layer on a GPU, and return their file.

    Raises:
        OSError: it can't be written to the cache's folder.
    """
    from fusedlstm.backends.cuda.runtime import tuned

    return tuned.keep(index, layer, measured)


def forget_times() -> int:
    """Delete all measured times. Return how many files there were."""
    from fusedlstm.backends.cuda.runtime import tuned

    return tuned.forget()


def lost(device: str) -> str | None:
    """Return why a device that could be used can't be any more, or None. Such an error lasts until the process ends.

    This waits for the device.
    """
    kind, index = parse("device", device)
    if kind == "numpy":
        return None
    from fusedlstm.backends.cuda.runtime import probe

    return probe.lost(index)


def capability(index: int) -> int:
    """Return a GPU's compute capability, 90 for 9.0. CUDA must be able to run."""
    from fusedlstm.backends.cuda.runtime import probe

    return probe.capabilities()[index]


def reason_against_plans() -> str | None:
    """Return why Steppers and pools can't step by matmul on a GPU, or None. CUDA must be able to run."""
    from fusedlstm.backends.cuda.runtime import cublaslt

    return cublaslt.why_not()


def backend_of(array: Array, name: str = "array") -> Backend:
    """Return the backend for the device of an array, which may be of any library.

    Raises:
        TypeError: `array` is not an array, or is a tensor that requires grad.
        ValueError: no backend runs on the array's device.
        BackendUnavailableError: the array is on a GPU, but cuda can't run; the message says why.
    """
    if isinstance(array, np.ndarray):
        return _NUMPY
    if type(array).__module__.partition(".")[0] == "cupy":
        return _cuda(int(array.device.id))
    check_no_grad(name, array)
    library = library_of(array)
    if library is None:
        fail(TypeError, name, "an array of NumPy or CuPy, or of a library with DLPack", describe_type(array))
    kind, _, index = library.place(array).partition(":")
    if kind == "cpu":
        return _NUMPY
    if kind != "cuda":
        fail(ValueError, name, "an array on cpu or cuda", f"a {describe_type(array)} on {library.place(array)}")
    reason = unavailable_reason("cuda", int(index or 0))
    if reason is not None:
        raise BackendUnavailableError(f"{name} is on {library.place(array)}, and cuda can't run here: {reason}")
    if index:
        return _cuda(int(index))
    return _cuda(int(library.view(array, _cuda(0)).array.device.id))


def _cuda(index: int) -> Backend:
    from fusedlstm.backends.cuda.backend import backend_on

    return backend_on(index)
