"""x's part of the gates alone: what a layer multiplies before its steps, by the engine's own products and chunks.

Subtract its time from that of the whole sequence to get the time of the steps.
"""

import functools

import numpy as np

from benchmarks.cases import TOLERANCES, WrongResultError
from benchmarks.peers.fusedlstm_peer import Ours, backend_of, synchronizer
from benchmarks.peers.peer import CannotRunError, waited
from fusedlstm import LSTM
from fusedlstm.backends.sequence_choice import SCAN

KERNELS = ("matmul", SCAN)  # the others multiply x in each step


class XPart(Ours):
    """The products of x for all steps of one layer. Those of the last step are compared.

    Args:
        kernel: a kernel of the LSTM; None for the table's.
    """

    name = "fusedlstm, x alone"
    kinds = ("sequence",)

    def __init__(self, kernel=None):
        self.kernel = kernel

    def prepare(self, case, device, threads):
        del threads
        lstm = LSTM(case.weights, backend=backend_of(device), precision=case.precision, kernel=self.kernel)
        queue = (_on_cpu if device == "cpu" else _on_gpu)(lstm, case)
        return waited(queue, synchronizer(lstm))

    def check(self, case, raw):
        """Raise WrongResultError unless the last step's gates are right."""
        (layer,) = case.weights.layers
        wanted = case.data.xs[-1].astype(np.float64) @ layer.weight_ih.astype(np.float64).T
        tolerance = TOLERANCES["float16" if case.precision == "high" else case.dtype]
        worst = np.abs(np.asarray(self.results(raw), np.float64) - wanted).max()
        if not worst <= tolerance * max(1, np.abs(wanted).max()):
            raise WrongResultError(f"{case.id}: x's part of the gates is {worst:.3g} from the exact result")

    def results(self, raw):
        """Return the last step's gates (B, 4N), in the order i, f, g, o."""
        return raw()


def _on_cpu(lstm, case):
    (engine,), xs = lstm._engines, lstm.asarray(case.data.xs)
    at_once = engine.sequence.steps_at_once(case.B)
    if at_once == 1:
        raise CannotRunError("at this size each step multiplies its x itself")
    parts = [xs[start : start + at_once] for start in range(0, case.T, at_once)]

    def queue():
        for part in parts:
            gates = engine.sequence.input_gates(part)
        return functools.partial(_of_planes, gates[-1])

    return queue


def _of_planes(planes):
    i, f, o, g = planes * np.array([-1, -1, -1, 1])[:, None, None]  # as in `fast_pointwise`
    return np.concatenate([i, f, g, o], axis=1)


def _on_gpu(lstm, case):
    from fusedlstm.backends.cuda.runtime.graphs import captured
    from fusedlstm.backends.cuda.scan_kernels import gate_order
    from fusedlstm.backends.cuda.sequence_form import Form
    from fusedlstm.backends.cuda.static_sequence import StaticSequence

    engines, (kernel,) = lstm._engines, lstm.kernels(case.T, case.B)
    if kernel not in KERNELS:
        raise CannotRunError(f"{kernel} multiplies x in each step")
    static = StaticSequence(engines, [False], [kernel], case.T, Form(case.B))
    static.xs[...] = lstm.asarray(case.data.xs)
    (layer,) = static._layers
    layer._step = layer._scan = lambda *_: None  # leave out what follows the products
    static.prepare(case.T)
    graph = captured(functools.partial(layer.queue, case.T))
    static.close()
    order = gate_order(case.N) if kernel == SCAN else np.arange(4 * case.N)

    def last():
        gates = layer._gates[(case.T - 1) % len(layer._gates)].get()
        found = np.empty_like(gates)
        found[:, order] = gates
        return found

    def queue():
        graph.launch(lstm.xp.cuda.get_current_stream())
        return last

    return queue
