"""A peer is one way to step an LSTM, ours or another library's. Each file has the peers of one library.

A peer is an instance of `Peer`. It imports its library only when it is used. For a case and a device, `prepare` makes
everything that a user would make once from the case's weights and data, and returns `run`. This function, without
arguments, does one step, or one sequence, from the same inputs each time. It waits for the GPU, if there is one, and
returns what the library returns. `results` turns that into NumPy arrays, which must be exact before anything is timed.
All peers compute in the case's dtype, with as many threads as the run was given. float32 is IEEE float32, not TF32,
unless the case says otherwise.

If a library changes states in place, `run` does too, and continues from the states that it left. Only that is timed.
Its attribute `begin` writes the case's states. After that, the next run's results must be exact. Weights are drawn
close to zero, and x is the same each time. So the states settle at ordinary numbers, with gates between 0 and 1. This
is checked, too.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cases import Case, Result


class CannotRunError(Exception):
    """Raised by `prepare` if a library turns out not to run a case, with the reason."""


class Peer:
    """One way to step an LSTM; see the module.

    Attributes:
        name: its name in tables and tests, which stays the same from commit to commit.
        package: the distribution whose version is recorded.
        module: the module that is imported.
        kinds: the kinds of cases that it runs.
        devices: the devices that it runs on.
        dtypes: the dtypes that it computes in.
        precisions: the precisions of float32 matmuls that it offers on a GPU.
        ours: whether it is fusedlstm.
        quick: whether it runs with --quick; False if it takes long to prepare.
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
        """Return the package's version, or None if it isn't installed."""
        return version_of(self.package)

    def cannot(self, case: Case) -> str | None:
        """Return why it can't run a case, or None."""
        if case.kind not in self.kinds:
            return f"it has no {case.kind}"
        if case.dtype not in self.dtypes:
            return f"it has no {case.dtype}"
        if case.precision not in self.precisions:
            return f"it has no precision {case.precision!r}"
        return None

    def prepare(self, case: Case, device: str, threads: int) -> Callable[[], Any]:
        """Return a function that runs the case once.

        Raises:
            CannotRunError: it can't; the message says why.
        """
        raise NotImplementedError

    def results(self, raw: Any) -> Result:
        """Return what `run` returned, as NumPy arrays."""
        raise NotImplementedError

    def check(self, case: Case, raw: Any) -> None:
        """Raise WrongResultError unless what `run` returned is right."""
        case.assert_right(self.results(raw))

    def remarks(self, run: Callable[[], Any], device: str) -> dict[str, Any]:
        """Return more facts to record beside the times."""
        del run, device
        return {}


def version_of(package: str) -> str | None:
    """Return a package's version, or None if it isn't installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def waited(
    queue: Callable[[], Any], wait: Callable[[], object], begin: Callable[[], object] | None = None
) -> Callable[[], Any]:
    """Return a function that does some work and waits for it. `event_time` calls its `queue`, which doesn't wait.

    Args:
        queue: does the work, or queues it on a GPU.
        wait: waits for the GPU.
        begin: writes the case's states, if `queue` changes states in place; see the module.
    """

    def run() -> Any:
        result = queue()
        wait()
        return result

    run.queue = queue  # type: ignore[attr-defined]
    run.begin = begin  # type: ignore[attr-defined]
    return run
