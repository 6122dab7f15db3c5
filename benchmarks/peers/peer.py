"""A peer: one way to step an LSTM, ours or another library's. Each file has one library's, imported at use only.

A peer is an instance of `Peer`. For a case and a device, `prepare` makes all that a user would make once of the case's
weights and data, and returns `run`: a function without arguments that does one step, or one sequence, from the same
inputs each time, waits for the GPU where there is one, and returns what the library does. `results` turns that into
NumPy arrays, which must be the exact ones before anything is timed. Everybody computes in the case's dtype, float32 in
IEEE's (no TF32) unless the case says so, with as many threads as the run was given.

Where a library changes states in place, so does `run`, and goes on from the states that it has left, which is all that
is timed. Its attribute `begin` writes the case's states, after which the next run's results must be the exact ones. The
weights are drawn from so near to zero, and x is the same each time, that the states come to rest at ordinary numbers,
with gates between 0 and 1; that they did is checked, too.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cases import Case, Result


class CannotRunError(Exception):
    """What `prepare` raises where a library turns out not to run a case, with its reason."""


class Peer:
    """One way to step an LSTM; see the module.

    Attributes:
        name: in tables and in tests' names, which stay the same from commit to commit.
        package: the distribution whose version is recorded.
        module: what is imported of it.
        kinds: of the cases that it runs.
        devices: that it runs on.
        dtypes: that it computes in.
        precisions: the precisions of float32 matmuls on a GPU that it offers.
        ours: whether it is fusedlstm.
        quick: whether it takes part with --quick: not if it takes long to prepare.
    """

    name = ""
    package = ""
    module = ""
    kinds: tuple[str, ...] = ("step",)
    devices: tuple[str, ...] = ("cpu", "cuda")
    dtypes: tuple[str, ...] = ("float32",)
    precisions: tuple[str, ...] = ("highest",)
    ours = False
    quick = True

    def why_not(self, device: str) -> str | None:
        """Return why it can't run on this machine's "cpu" or "cuda", or None."""
        if device not in self.devices:
            return f"it runs on {' and '.join(self.devices)} only"
        if importlib.util.find_spec(self.module) is None:
            return f"{self.module} is not installed"
        return None

    def version(self) -> str | None:
        """Return the package's version, or None where it is not installed."""
        return version_of(self.package)

    def cannot(self, case: Case) -> str | None:
        """Return why it does not do a case, or None."""
        if case.kind not in self.kinds:
            return f"it does no {case.kind}"
        if case.dtype not in self.dtypes:
            return f"it has no {case.dtype}"
        if case.precision not in self.precisions:
            return f"it has no precision {case.precision!r}"
        return None

    def prepare(self, case: Case, device: str, threads: int) -> Callable[[], Any]:
        """Return what does the case once.

        Raises:
            CannotRunError: it does not, and why.
        """
        raise NotImplementedError

    def results(self, raw: Any) -> Result:
        """Return what `run` returned as NumPy arrays."""
        raise NotImplementedError

    def remarks(self, run: Callable[[], Any], device: str) -> dict[str, Any]:
        """Return what else is to be recorded beside the times."""
        del run, device
        return {}


def version_of(package: str) -> str | None:
    """Return a package's version, or None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def waited(
    queue: Callable[[], Any], wait: Callable[[], object], begin: Callable[[], object] | None = None
) -> Callable[[], Any]:
    """Return what does some work and waits for it; its attribute `queue` doesn't wait, for `gpu_time`.

    Args:
        queue: does the work, or queues it on a GPU.
        wait: for the GPU.
        begin: of what changes states in place: writes the case's; see the module.
    """

    def run() -> Any:
        result = queue()
        wait()
        return result

    run.queue = queue  # type: ignore[attr-defined]
    run.begin = begin  # type: ignore[attr-defined]
    return run
