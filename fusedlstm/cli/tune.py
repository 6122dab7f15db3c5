"""Measure the kernels for files of weights on a GPU, for the command `fusedlstm tune`."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusedlstm.backends import select, sequence_choice
from fusedlstm.backends.kernel_choice import SCAN
from fusedlstm.backends.measured import Layer, Measured, now
from fusedlstm.backends.uses import Use
from fusedlstm.cli.compile import compile_first
from fusedlstm.stacked import load_weights
from fusedlstm.tuning import turns
from fusedlstm.validation.arguments import fail
from fusedlstm.validation.weights import as_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fusedlstm.tuning.turns import Found
    from fusedlstm.weights import LSTMWeights

BATCHES = (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096)
# What is measured, by its name in `Measured.updated`: the words for it, and how.
_KINDS = {"rows": ("", turns.measure_steps), "sequences": (" sequences", turns.measure_sequences)}


def tune(
    say: Callable[[str], None],
    paths: Sequence[str],
    *,
    batches: Sequence[int] | None = None,
    backend: str | None = None,
    dtypes: Sequence[str] | None = None,
    precision: str = "highest",
    seconds: float | None = None,
    forget: bool = False,
) -> int:
    """Measure each layer of some files, in single steps and in sequences, and return the command's exit status.

    The times are kept in the cache.

    Args:
        say: writes a line.
        paths: files of LSTMWeights or StackedWeights.
        batches: numbers of rows; None for BATCHES.
        backend: the GPU, "cuda" or "cuda:<index>"; None for the first.
        dtypes: the dtypes to step in; None for that of each file.
        precision: as in LSTMCell.
        seconds: after this time, no measurement begins.
        forget: whether to delete all kept times before.

    Raises:
        ValueError: there is nothing to do, or the backend is not a GPU.
        BackendUnavailableError: the GPU can't run.
        OSError: a file can't be read, or the times can't be kept.
    """
    start = time.monotonic()
    if not paths and not forget:
        fail(ValueError, "WEIGHTS", "at least one file, or --forget", "none")
    if forget:
        say(f"{select.forget_times()} files of measured times deleted")
    if not paths:
        return 0
    device = _device(backend)
    weights = [each for path in paths for each in _in_dtypes(path, dtypes)]
    layers = {Layer.of(each, precision): each for each in weights}
    batches = sorted(set(batches or BATCHES))
    capability = select.capability(device)
    compile_first(say, list(_uses(layers, batches, precision, capability)), capability)
    about: dict[str, Any] = {"backend": f"cuda:{device}", "precision": precision, "timer": select.replay_timer(device)}
    is_right, kept = True, set[Path]()
    for (layer, of), B, (kind, (words, measure)) in itertools.product(layers.items(), batches, _KINDS.items()):
        if seconds is not None and time.monotonic() - start >= seconds:
            say(f"{layer} B={B}{words}: not measured: the {seconds:g} seconds were over")
            continue
        found = measure(of, layer, B, **about)
        say(f"{layer} B={B}{words}: {_described(found)}")
        is_right = is_right and not found.wrong
        if found.seconds:
            before = select.times_of(device, layer) or Measured({}, now())
            kept.add(select.keep_times(device, layer, before.updated(**{kind: {B: found.seconds}})))
    say("\n".join(f"kept in {path}" for path in sorted(kept)) or "nothing was measured")
    say(f"done in {time.monotonic() - start:.1f} s")
    return 0 if is_right else 1


def _device(backend: str | None) -> int:
    """Return the GPU's index. Raise ValueError if the backend isn't a GPU, BackendUnavailableError if it can't run."""
    kind, index = select.parse("--backend", backend or "cuda")
    if kind != "cuda":
        fail(ValueError, "--backend", "'cuda' or 'cuda:<index>'", repr(backend), "NumPy has one way to step")
    select.choose(f"cuda:{index}")
    return index


def _in_dtypes(path: str, names: Sequence[str] | None) -> Iterable[LSTMWeights]:
    """Yield the layers of a file's weights, in each dtype."""
    weights = as_layers(load_weights(path))
    for name in names or [weights.dtype.name]:
        yield from weights.astype(name).layers


def _uses(layers: dict[Layer, LSTMWeights], batches: Sequence[int], precision: str, capability: int) -> Iterable[Use]:
    """Yield what all kernels of a GPU are used for."""
    for layer, weights in layers.items():
        about = weights.hidden_size, weights.dtype.name, precision, capability
        for kernel in layer.kernels_of_sequences():
            if sequence_choice.reason_against_kernel(kernel, *about) is None:
                objects = ("sequence",) if kernel == SCAN else ("stepper", "sequence")
                yield Use(weights, precision, False, kernel, batches, objects, contiguous=True)


def _described(found: Found) -> str:
    """Return a layer's times, the fastest first, and what was not timed."""
    by_time = sorted(found.seconds.items(), key=lambda item: item[1])
    parts = [f"{kernel} {1e6 * seconds:.2f} us" for kernel, seconds in by_time]
    parts += [f"{kernel} is WRONG: {words}" for kernel, words in found.wrong.items()]
    return ", ".join(parts + [f"{kernel} can't run: {words}" for kernel, words in found.unable.items()])
