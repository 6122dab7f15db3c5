"""fusedlstm: a cell that returns a new state, one that writes to `out=`, and LSTM for sequences and layers."""

import functools

import numpy as np

import fusedlstm
from benchmarks.cases import Result
from benchmarks.peers.peer import Peer, waited
from fusedlstm import LSTM, LSTMCell, LSTMState
from fusedlstm.arrays.host import to_host
from fusedlstm.backends.select import unavailable_reason


def backend_of(device):
    return "numpy" if device == "cpu" else device


def synchronizer(fused):
    """Return a function that waits for the GPU's current stream, or does nothing on a CPU."""
    return fused.xp.cuda.get_current_stream().synchronize if fused.backend == "cuda" else lambda: None


def inputs(fused, case):
    """Return a case's xs, a state for each layer, and the rows to reset, on the device."""
    data = case.data
    states = tuple(
        LSTMState(h=fused.asarray(data.h[k]), c=fused.asarray(data.c[k], data.c.dtype)) for k in range(case.layers)
    )
    is_first = None if data.is_first is None else fused.xp.asarray(data.is_first)
    return fused.asarray(data.xs), states, is_first


def poisoned(cell, B):
    """Return a state to write to, full of NaN, so that unwritten elements show."""
    state = cell.zero_state(B)
    state.h.fill(np.nan)
    state.c.fill(np.nan)
    return state


def stacked(states, outputs=None):
    h, c = (np.stack([to_host(part, getattr(state, part)) for state in states]) for part in ("h", "c"))
    return Result(h, c, None if outputs is None else to_host("outputs", outputs))


class Ours(Peer):
    """Base of fusedlstm's own peers."""

    package = module = "fusedlstm"
    dtypes = ("float64", "float32", "float16", "bfloat16")
    precisions = ("highest", "high")
    ours = True

    def version(self):
        return fusedlstm.__version__  # a checkout need not be installed

    def why_not(self, device):
        return super().why_not(device) or unavailable_reason(backend_of(device))


class Call(Ours):
    """state = cell(x, state), or lstm.step for layers: a new state each time."""

    name = "fusedlstm"
    kinds = ("step", "sequence")

    def prepare(self, case, device, threads):
        del threads  # set by OPENBLAS_NUM_THREADS
        if case.kind == "step" and case.layers == 1:
            return self._cell(case, device)
        lstm = LSTM(case.weights, backend=backend_of(device), precision=case.precision)
        xs, states, is_first = inputs(lstm, case)
        if case.kind == "step":
            first = None if is_first is None else is_first[0]
            work = functools.partial(lstm.step, xs[0], states, is_first=first)
        else:
            work = functools.partial(lstm, xs, states, is_first=is_first)

        def queue():
            outputs, ended = work()
            return ended, outputs if case.kind == "sequence" else None

        return waited(queue, synchronizer(lstm))

    def _cell(self, case, device):
        cell = LSTMCell(case.weights.layers[0], backend=backend_of(device), precision=case.precision)
        (x,), (state,), is_first = inputs(cell, case)
        is_first = None if is_first is None else is_first[0]

        def queue():
            return (cell(x, state, is_first=is_first),), None

        return waited(queue, synchronizer(cell))

    def results(self, raw):
        return stacked(*raw)


class Out(Ours):
    """cell(x, state, out=other), which allocates nothing. Layers are cells, one after the other."""

    name = "fusedlstm out="

    def prepare(self, case, device, threads):
        del threads
        place = {"backend": backend_of(device), "precision": case.precision}
        cells = [LSTMCell(weights, **place) for weights in case.weights.layers]
        (x,), states, is_first = inputs(cells[0], case)
        is_first = None if is_first is None else is_first[0]
        outs = tuple(poisoned(cell, case.B) for cell in cells)
        layers = list(zip(cells, states, outs, strict=True))

        def queue():
            below = x
            for cell, state, out in layers:
                below = cell(below, state, is_first=is_first, out=out).h
            return outs

        return waited(queue, synchronizer(cells[0]))

    def results(self, raw):
        return stacked(raw)


class Loop(Ours):
    """A loop of cell(x, state, out=other) over a sequence, which keeps all outputs, as a user would write it."""

    name = "fusedlstm cell in a loop"
    kinds = ("sequence",)

    def cannot(self, case):
        return super().cannot(case) or ("it is written for one layer" if case.layers > 1 else None)

    def prepare(self, case, device, threads):
        del threads
        cell = LSTMCell(case.weights.layers[0], backend=backend_of(device), precision=case.precision)
        xs, (first,), is_first = inputs(cell, case)
        resets = [None] * case.T if is_first is None else is_first

        def queue():
            outputs = cell.xp.empty((case.T, *first.h.shape), first.h.dtype)
            state, c = first, cell.xp.empty(first.c.shape, first.c.dtype)
            for x, reset, output in zip(xs, resets, outputs, strict=True):
                state = cell(x, state, is_first=reset, out=LSTMState(h=output, c=c))
            return (state,), outputs

        return waited(queue, synchronizer(cell))

    def results(self, raw):
        return stacked(*raw)


PEERS = [Call(), Out(), Loop()]
