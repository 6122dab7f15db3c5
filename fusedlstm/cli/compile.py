"""Compile the kernels of files of weights ahead, for the command `fusedlstm compile`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fusedlstm.backends import kernel_choice, select, sequence_choice
from fusedlstm.backends.uses import Use
from fusedlstm.selftest.needs import uses_of_all
from fusedlstm.stacked import load_weights
from fusedlstm.validation.arguments import fail
from fusedlstm.validation.weights import as_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def compile_ahead(
    say: Callable[[str], None],
    paths: Sequence[str],
    capabilities: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    options: dict[str, Any],
    self_test: bool = False,
    jobs: int | None = None,
    folder: str | None = None,
) -> int:
    """Fill a cache with every kernel that the weights of some files need, say what was done, and return 0.

    Args:
        say: writes a line.
        paths: files of LSTMWeights or StackedWeights.
        capabilities: the compute capabilities of the GPUs, such as 90.
        names: the dtypes to step in; None for that of each file.
        options: arguments of Use.
        self_test: whether to compile what the command selftest needs, too.
        jobs: how many kernels to compile at once; None for the number of CPUs.
        folder: the cache's folder; None for the one that programs use.

    Raises:
        ValueError: there is nothing to compile, or a kernel doesn't fit the dtype or the GPU.
        RuntimeError, OSError: kernels can't be compiled or kept.
    """
    if not paths and not self_test:
        fail(ValueError, "WEIGHTS", "at least one file, or --self-test", "none")
    uses = [use for path in paths for use in _uses(path, names, options)]
    errors: list[str] = []
    for capability in capabilities:
        start = time.perf_counter()
        wanted = [*uses, *(uses_of_all(capability) if self_test else ())]
        filled = select.compile_uses(wanted, capability, jobs=jobs, folder=folder)
        seconds = time.perf_counter() - start
        counts = f"{filled.compiled} kernels compiled, {filled.there} already cached"
        say(f"{filled.arch}: {counts}, {filled.nbytes:,} bytes, {seconds:.1f} s")
        errors += filled.errors
    say(f"{filled.folder} serves NVRTC {filled.nvrtc}: with another version, kernels are compiled again")
    if errors:
        raise RuntimeError(f"{len(errors)} kernels don't compile. The first: {errors[0]}")
    return 0


def _uses(path: str, names: Sequence[str] | None, options: dict[str, Any]) -> list[Use]:
    """Return the uses of a file's weights. Raise ValueError if the kernel doesn't fit a dtype."""
    weights = load_weights(path)
    found = [weights.astype(name) for name in names or [weights.dtype.name]]
    for each in found:
        precision, invariant = options["precision"], options["batch_invariant"]
        no_scan = sequence_choice.reason_against(as_layers(each).layers, precision)
        kernel_choice.check(options["kernel"], each.dtype.name, precision, batch_invariant=invariant, no_scan=no_scan)
    return [Use(each, **options) for each in found]


def compile_first(say: Callable[[str], None], uses: Sequence[Use], capability: int) -> None:
    """Compile what a command needs, in several threads, and say so. If that fails, it is compiled when it is used."""
    start = time.perf_counter()
    try:
        filled = select.compile_uses(uses, capability)
    except (OSError, RuntimeError) as error:
        say(f"kernels are compiled when they are needed: {error}")
        return
    counts = f"{filled.compiled} compiled, {filled.there} already cached"
    failing = f", {len(filled.errors)} don't compile" if filled.errors else ""
    say(f"kernels: {counts}{failing}, {time.perf_counter() - start:.1f} s")
