"""fusedlstm with states in place: a Stepper, a StatePool, and the cell with gather and scatter that a pool replaces."""

import functools

import numpy as np

from benchmarks.cases import Result
from benchmarks.peers.fusedlstm_peer import Ours, backend_of, inputs, poisoned, stacked, synchronizer
from benchmarks.peers.peer import waited
from benchmarks.runs import KERNEL
from fusedlstm import LSTM, LSTMCell, LSTMState, StatePool
from fusedlstm.arrays.host import to_host
from fusedlstm.backends import kernel_choice


def cell_of(case, device, kernel=None):
    return LSTMCell(case.weights.layers[0], backend=backend_of(device), precision=case.precision, kernel=kernel)


def owner_of(case, device, kernel=None):
    """Return a cell, or an LSTM for several layers."""
    if case.layers == 1:
        return cell_of(case, device, kernel)
    return LSTM(case.weights, backend=backend_of(device), precision=case.precision, kernel=kernel)


class InPlace(Ours):
    """Base of the Stepper's and the pool's peers, which need cuBLASLt on a GPU."""

    def why_not(self, device):
        reason = super().why_not(device)
        if reason or device == "cpu":
            return reason
        from fusedlstm.backends.cuda.runtime import cublaslt

        return cublaslt.why_not()


class Steps(InPlace):
    """stepper.step() alone. x is already in its buffer. The flags of rows to reset are written before each step."""

    name = "fusedlstm Stepper"
    kernel = None  # the table's

    def prepare(self, case, device, threads):
        del threads
        owner = owner_of(case, device, self.kernel)
        stepper = owner.stepper(case.B)
        (x,), states, is_first = inputs(owner, case)
        stepper.x[...] = x

        def queue():
            if is_first is not None:
                stepper.is_first[...] = is_first[0]
            return stepper, stepper.step()

        begin = functools.partial(stepper.write, states[0] if case.layers == 1 else states)
        return waited(queue, synchronizer(owner), begin)

    def results(self, raw):
        stepper, output = raw
        states = stepper.read()
        result = stacked((states,) if isinstance(states, LSTMState) else states)
        result.h[-1] = to_host("output", output)  # the array that a user reads
        return result


class OneKernel(Steps):
    """A Stepper of one layer with a named kernel, to compare with the table's choice."""

    devices = ("cuda",)

    def __init__(self, kernel):
        self.kernel, self.name = kernel, f"fusedlstm Stepper{KERNEL}{kernel}"

    def why_not(self, device):
        reason = super().why_not(device)
        if reason or self.kernel == "matmul":
            return reason
        from fusedlstm.backends.cuda.runtime import probe

        return kernel_choice.reason_against_device(probe.capabilities()[0])

    def cannot(self, case):
        if case.layers > 1 or case.resets or case.cold:
            return "kernels are compared at warm steps of one layer without resets"
        return super().cannot(case) or kernel_choice.reason_against(self.kernel, case.dtype, case.precision)


class HostSteps(Steps):
    """stepper.step(x) with a NumPy array x. It waits for the output, also a NumPy array."""

    name = "fusedlstm Stepper, host"
    devices = ("cuda",)

    def prepare(self, case, device, threads):
        del threads
        owner = owner_of(case, device)
        stepper = owner.stepper(case.B, host=True)
        data = case.data
        (x,), is_first = data.xs, None if data.is_first is None else data.is_first[0]
        states = tuple(LSTMState(h=h, c=c) for h, c in zip(data.h, data.c, strict=True))

        def run():
            return stepper, stepper.step(x, is_first)

        run.begin = functools.partial(stepper.write, states[0] if case.layers == 1 else states)
        return run


class Pool(InPlace):
    """pool.step(x, slots, out=out) with slots in a NumPy array, which are checked each time."""

    name = "fusedlstm pool"
    kinds = ("pool",)

    def prepare(self, case, device, threads):
        del threads
        cell = cell_of(case, device)
        pool = StatePool(cell, case.capacity)
        pool.allocate(case.capacity)
        (x,), (state,), _ = inputs(cell, case)
        every, given = case.slots.all, self.slots(cell, case)
        out = poisoned(cell, case.B).h

        def queue():
            pool.step(x, given, out=out)
            return pool, every, out

        return waited(queue, synchronizer(cell), functools.partial(pool.write, every, state))

    def slots(self, cell, case):
        del cell
        return case.slots.given

    def results(self, raw):
        pool, every, out = raw
        pool.check()
        return stacked([pool.read(every)], out)._replace(outputs=to_host("out", out)[None])


class PoolOnDevice(Pool):
    """pool.step(x, slots, out=out) with slots in an array on the GPU, which checks them."""

    name = "fusedlstm pool, slots on the GPU"
    devices = ("cuda",)

    def slots(self, cell, case):
        return cell.xp.asarray(case.slots.given)


class GatherAndScatter(Ours):
    """h[slots], cell(..., out=...) and h[slots] = ... Padding rows use the last row of the tables, which is spare."""

    name = "fusedlstm cell, gather and scatter"
    kinds = ("pool",)

    def prepare(self, case, device, threads):
        del threads
        cell = cell_of(case, device)
        (x,), (begun,), _ = inputs(cell, case)
        h, c = (cell.xp.zeros((case.capacity + 1, case.N), part.dtype) for part in (begun.h, begun.c))
        every, given = cell.xp.asarray(case.slots.all), cell.xp.asarray(case.slots.given)
        out = poisoned(cell, case.B).h
        padding = case.slots.padding

        def queue():
            state = LSTMState(h=gathered(h, given), c=gathered(c, given))
            cell(x, state, out=LSTMState(h=out, c=state.c))
            scatter(h, given, out)
            scatter(c, given, state.c)
            return h, c, out, every, padding

        def begin():
            scatter(h, every, begun.h)
            scatter(c, every, begun.c)

        return waited(queue, synchronizer(cell), begin)

    def results(self, raw):
        h, c, out, every, padding = raw
        h, c = (to_host("state", gathered(table, every)) for table in (h, c))
        outputs = to_host("out", out)
        outputs = np.where(padding[:, None], np.zeros_like(outputs), outputs)  # padding rows' outputs are never read
        return Result(h[None], c[None], outputs[None])


def bits(array):
    """Return 16-bit numbers viewed as integers, which every CuPy can index."""
    return array.view(np.int16) if array.dtype.itemsize == 2 else array


def gathered(table, slots):
    return bits(table)[slots].view(table.dtype)


def scatter(table, slots, rows):
    bits(table)[slots] = bits(rows)


PEERS = [Steps(), *map(OneKernel, kernel_choice.NAMES), HostSteps(), Pool(), PoolOnDevice(), GatherAndScatter()]
