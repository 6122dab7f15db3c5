"""Time steps of a file of weights, for the command `fusedlstm bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.atomic_write import check_target, is_replaceable, replace
from fusedlstm.bench.running import benchmark
from fusedlstm.cell import LSTMCell
from fusedlstm.lstm import LSTM
from fusedlstm.stacked import load_weights
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def bench(
    say: Callable[[str], None],
    path: str,
    *,
    batches: Sequence[int],
    every: float | None,
    seconds: float,
    step: str,
    peers: bool,
    json_path: str | None,
    dtype: str | None,
    options: Mapping[str, Any],
) -> int:
    """Time steps of some weights, say the results, and return the command's exit status.

    Args:
        say: writes lines.
        path: a file of LSTMWeights or StackedWeights.
        batches: numbers of rows, each of which is timed.
        every: as for `benchmark`, like `seconds`, `step` and `peers`.
        seconds: the time of each library for each number of rows.
        step: how to step.
        peers: whether to time other libraries.
        json_path: a file to replace after each number of rows, or a pipe to write to at the end; None for no file.
        dtype: the dtype to step in; None for the weights' own.
        options: of the cell or LSTM.

    Raises:
        OSError: a file can't be read or written.
        TypeError, ValueError, RuntimeError: as `benchmark`.
    """
    if json_path is not None:
        check_target("--json", json_path, {"WEIGHTS": path})
    weights: Any = load_weights(path)
    if dtype is not None:
        weights = weights.astype(dtype)
    owner = (LSTMCell if isinstance(weights, LSTMWeights) else LSTM)(weights, **options)
    texts, status = [], 0
    for batch in batches:
        say(f"B = {batch}: each library steps for {seconds:g} s\n")  # as nothing else is said until then
        result = benchmark(owner, batch, every=every, seconds=seconds, step=step, peers=peers)
        say(f"{result}\n")
        status |= bool(result.wrong)
        texts.append(result.to_json())
        if json_path is not None and (len(texts) == len(batches) or is_replaceable(json_path)):
            replace(json_path, ("[\n" + ",\n".join(texts) + "\n]\n").encode())
    return status
