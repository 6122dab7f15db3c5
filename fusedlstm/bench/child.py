"""A process of a benchmark, for one library, so that different libraries' threads don't disturb each other.

It reads requests from standard input: first a Task, to which it answers Ready, or why it can't step. Then each (every,
seconds) asks for a Block of steps. It ends when the input does, even during a block, because the parent process is then
gone. Requests are pickled bytes, so that the thread that waits for them creates no library's objects.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import signal
import statistics
import threading
import time
import tracemalloc
import warnings
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

from fusedlstm.backends.numpy import blas
from fusedlstm.bench.schedule import Block, back_to_back, by_deadlines
from fusedlstm.bench.steppings import LIBRARIES, inputs_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.bench.steppings import Stepping, Task

CHECKED = 4  # steps from zeros, whose results are compared
_INPUTS = 16  # different x, used in turn
_TRACED = 5  # steps whose memory is counted


@dataclass(frozen=True)
class Ready:
    """A library that can step.

    Attributes:
        library: its name and version.
        first: the seconds of its first step.
        allocated: the most bytes that a step has allocated at once; None if unknown.
        states: h and c of each layer after CHECKED steps from zeros.
    """

    library: str
    first: float
    allocated: int | None
    states: list[tuple[NumpyArray, NumpyArray]]


class Prepared:
    """A library with its inputs, ready to be timed."""

    def __init__(self, task: Task) -> None:
        self._stepping: Stepping = LIBRARIES[task.library](task)
        xs = [self._stepping.native(x) for x in inputs_of(task.weights, task.batch, _INPUTS)]
        start = time.perf_counter()
        self._stepping.step(xs[0])
        first = time.perf_counter() - start
        for x in xs[1:CHECKED]:
            self._stepping.step(x)
        states = self._stepping.states()
        following, step = itertools.cycle(xs).__next__, self._stepping.step

        def step_on() -> object:
            return step(following())

        self._step = step_on
        allocated = _allocated(self._step) if self._stepping.counts_memory else None
        self.ready = Ready(self._stepping.library, first, allocated, states)

    def block(self, every: float | None, seconds: float) -> Block:
        """Take steps, after one that isn't timed."""
        self._step()
        return back_to_back(self._step, seconds) if every is None else by_deadlines(self._step, every, seconds)


def _allocated(step: Any) -> int:
    """Return the most bytes that a step has allocated at once. No step is timed meanwhile."""
    peaks = []
    tracemalloc.start()
    try:
        for _ in range(_TRACED):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            step()
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    return statistics.median_low(peaks)


def requests_of(descriptor: int) -> Iterator[bytes]:
    """Yield the requests from a pipe. A thread waits for them, and ends the process after the last one."""
    come: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        try:
            # Only this thread has the file. Python would fail to close it at exit while the thread waits for more.
            file = open(descriptor, "rb", closefd=False)  # noqa: SIM115
            while True:
                come.put(pickle.load(file))
        finally:
            os._exit(0)  # a request that is cut off is the end, too

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield come.get()


def serve(requests: Iterator[bytes], answers: BinaryIO) -> None:
    """Answer requests until they end."""

    def answer(what: object) -> None:
        pickle.dump(what, answers)
        answers.flush()

    try:
        prepared = Prepared(pickle.loads(next(requests)))
    except Exception as error:  # also a library's own errors: they say why it isn't timed
        answer(" ".join(str(error).split()) or type(error).__name__)
        return
    answer(prepared.ready)
    for request in requests:
        answer(prepared.block(*pickle.loads(request)))


def main(threads: int | None) -> None:
    """Serve on standard input and output. Whatever a library prints goes to standard error.

    Args:
        threads: the number of threads of NumPy's BLAS; None if it can't be set.
    """
    if threads is not None and threads != blas.threads():
        _, put = blas.thread_functions()
        put(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    logging.getLogger("fusedlstm").setLevel(logging.ERROR)  # the parent process has logged the same
    warnings.simplefilter("ignore")  # of other libraries, about their choice of code
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(requests_of(0), answers)
