"""The figures of one row: each kernel's time, if its results are right, and those of PyTorch."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import predictions
from benchmarks.brief import broken
from benchmarks.cases import WrongResultError
from benchmarks.kernel_table.periodic_case import case_of
from benchmarks.kernel_table.sizes import OF_LSTM_CELL
from benchmarks.peers import fusedlstm_sequencer, torch_cell, torch_lstm
from benchmarks.peers.fusedlstm_in_place import OneKernel
from benchmarks.peers.peer import CannotRunError
from benchmarks.sequence_model import predict_sequence
from benchmarks.x_part import KERNELS, XPart
from fusedlstm.tuning.periodic import poison

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.brief.event_time import Timer, Times
    from benchmarks.cases import Case
    from benchmarks.kernel_table.sizes import Size
    from benchmarks.peers.peer import Peer

_BURST = 400e-6  # seconds of the replays between two events
_MOST_REPLAYS = 40
_BUDGET = 40e-3  # seconds of all bursts of a figure
_FEWEST, _MOST = 5, 20  # bursts


def add_figures(size: Size, timer: Timer, found: dict[str, dict[str, Any]]) -> None:
    """Add the figure of each kernel and peer by its name: a "state", and what was measured, or why not.

    For sequences, also add x's part alone.

    Raises:
        BrokenError: CUDA is broken for this process. The figure that broke it is the last.
    """
    case = case_of(size)
    for name, peer, predicted in _of_steps(size) if size.T == 1 else _of_sequences(size):
        found[name] = {"predicted_seconds": predicted}
        _add_figure(found[name], case, peer, timer)
    peers: list[Peer] = [torch_lstm.Lstm()]
    if size.T == 1 and (size.B, size.N) in OF_LSTM_CELL:
        peers.append(torch_cell.Graph())
    for peer in peers:
        found[peer.name] = {}
        _add_figure(found[peer.name], case, peer, timer)


def _of_steps(size: Size) -> Iterator[tuple[str, Peer, float]]:
    """Yield the name of each kernel, what runs it, and its predicted seconds."""
    about = {"B": size.B, "I": size.N, "N": size.N, "arithmetic": size.arithmetic}
    for kernel in size.kernels:
        yield kernel, OneKernel(kernel), predictions.predict(kernel, **about).seconds


def _of_sequences(size: Size) -> Iterator[tuple[str, Peer, float]]:
    """Yield the same for sequences, and x's part of kernels that multiply it before their steps."""
    about = {"B": size.B, "I": size.N, "N": size.N, "arithmetic": size.arithmetic}
    for kernel in size.kernels:
        predicted = predict_sequence(kernel, **about)
        yield kernel, fusedlstm_sequencer.OneKernel(kernel), size.T * predicted.seconds
        if kernel in KERNELS:
            yield f"x of {kernel}", XPart(kernel), size.T * predicted.of_x


def _add_figure(figure: dict[str, Any], case: Case, peer: Peer, timer: Timer) -> None:
    """Add to the figure of a kernel or a peer."""
    try:
        figure |= measured(case, peer, timer)
    except CannotRunError as error:
        figure |= {"state": "unsupported", "why": str(error)}
    except WrongResultError as error:
        figure |= {"state": "wrong", "why": str(error)}
    except Exception as error:  # CuPy's and PyTorch's are of many kinds
        figure |= {"state": "failed", "why": f"{type(error).__name__}: {error}"}
        broken.check()
    finally:
        gc.collect()


def measured(case: Case, peer: Peer, timer: Timer) -> dict[str, Any]:
    """Return a figure's state, and its times. Results are checked before, and states kept in place also afterwards."""
    why_not = peer.why_not("cuda") or peer.cannot(case)
    if why_not:
        return {"state": "unsupported", "why": why_not}
    run: Any = peer.prepare(case, "cuda", 1)
    if timer.dry:
        replayed(run.queue, timer)
        return {"state": "dry"}
    if run.begin:
        poison(run()[0])
        run.begin()
    peer.check(case, run())
    times = replayed(run.queue, timer)
    if run.begin:
        case.assert_ordinary(peer.results(run()))
    return {"state": "measured", "seconds": times.gpu, "host_seconds": times.host}


def replayed(queue: Callable[[], object], timer: Timer) -> Times:
    """Return the time of one replay, from bursts of many."""
    once = timer.times(queue, repetitions=3)
    if once.gpu is None:
        return once
    seconds = max(once.gpu["median"], 1e-7)
    replays = int(np.clip(round(_BURST / seconds), 1, _MOST_REPLAYS))
    bursts = int(np.clip(round(_BUDGET / (replays * seconds)), _FEWEST, _MOST))

    def burst() -> None:
        for _ in range(replays):
            queue()

    return timer.times(burst, repetitions=bursts, calls=replays)
