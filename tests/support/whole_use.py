"""Use weights in every object and every way on a GPU, and note which kernels that takes."""

import contextlib
import itertools

import numpy as np

from fusedlstm import LSTM, LSTMCell, LSTMState, StatePool
from fusedlstm.weights import LSTMWeights


@contextlib.contextmanager
def noted(monkeypatch):
    """Yield a set that collects the file and name of each kernel that is loaded or launched."""
    from fusedlstm.backends.cuda.runtime.kernel import Kernel

    names, function = set(), Kernel._function

    def noting(kernel):
        names.add((kernel.file, kernel.name))
        return function(kernel)

    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "_function", noting)
        yield names


def everything(use):
    """Run all steps of a `uses.Use`: with and without resets, and with arrays of any strides if it allows them."""
    options = {"precision": use.precision, "batch_invariant": use.batch_invariant, "kernel": use.kernel}
    lstm = LSTM(use.weights, backend="cuda", **options)
    cells = isinstance(use.weights, LSTMWeights) and use.kernel != "scan"  # which cells refuse
    owners = [LSTMCell(use.weights, backend="cuda", **options), lstm] if cells else [lstm]
    for B in use.batches:
        if cells and "cell" in use.objects:
            _call(owners[0], B, use.contiguous)
        if "sequence" in use.objects:
            _sequences(lstm, B, use.contiguous)
        for owner in owners if lstm.weights.is_causal else []:
            if "stepper" in use.objects:
                _step(owner, B)
            if "pool" in use.objects:
                _pool(owner, B, use.contiguous)


class Arrays:
    """Arrays on a cell's device, which may begin anywhere."""

    def __init__(self, owner, *, contiguous):
        self.owner = owner
        self.ways = (self.plain,) if contiguous else (self.aligned, self.odd)

    def plain(self, B, columns, dtype):
        return self.owner.xp.zeros((B, columns), dtype)

    def aligned(self, B, columns, dtype):
        padded = -(-columns * dtype.itemsize // 16) * 16 // dtype.itemsize
        return self.owner.xp.zeros((B, padded), dtype)[:, :columns]

    def odd(self, B, columns, dtype):
        return self.owner.xp.zeros((B, -(-columns // 16) * 16 + 1), dtype)[:, 1 : 1 + columns]

    def outs(self, B, columns, dtype):
        """Yield contiguous arrays: one, and another that begins at an odd element."""
        yield self.owner.xp.zeros((B, columns), dtype)
        if len(self.ways) > 1:
            yield self.owner.xp.zeros((B * columns + 1,), dtype)[1:].reshape(B, columns)


def _call(cell, B, contiguous):
    arrays, weights = Arrays(cell, contiguous=contiguous), cell.weights
    wide = cell.zero_state(0).c.dtype
    for of_x, of_c in itertools.product(arrays.ways, repeat=2):
        x = of_x(B, weights.input_size, cell.dtype)
        state = LSTMState(h=of_x(B, weights.output_size, cell.dtype), c=of_c(B, weights.hidden_size, wide))
        cell(x, state)
        cell(x, state, is_first=[True] * B)
        cell(x, state, is_first=[True] * B, reset_to=cell.zero_state(1))


def _sequences(lstm, B, contiguous):
    T = 5  # a chunk of four steps, and one of a single step
    arrays, wide = Arrays(lstm, contiguous=contiguous), lstm.zero_state(0)[0].c.dtype
    for rule in ("zero", "last"):
        xs = lstm.xp.zeros((T, B, lstm.weights.input_size), lstm.dtype)
        lstm(xs, lengths=[2] * B, masked_outputs=rule)
    for of_x, of_c in itertools.product(arrays.ways, repeat=2):
        xs = of_x(T * B, lstm.weights.input_size, lstm.dtype)
        xs = lstm.xp.lib.stride_tricks.as_strided(xs, (T, B, xs.shape[1]), (B * xs.strides[0], *xs.strides))
        states = tuple(
            LSTMState(h=of_x(B, layer.output_size, lstm.dtype), c=of_c(B, layer.hidden_size, wide))
            for layer in lstm.weights.layers
        )
        for is_first in (None, np.ones((T, B), bool)):
            lstm(xs, states, is_first=is_first)
            lstm(xs, states, is_first=is_first, cells=True)
            if lstm.weights.is_causal:
                lstm.step(xs[0], states, is_first=None if is_first is None else is_first[0])


def _step(owner, B):
    for host, resets in itertools.product((True, False), repeat=2):
        stepper = owner.stepper(B, host=host, reset_to=owner.zero_state(1) if resets else None)
        stepper.step()
        stepper.step(is_first=[True] * B)
        stepper.reset()


def _pool(owner, B, contiguous):
    layers = owner._layers_of_weights
    arrays = Arrays(owner, contiguous=contiguous)
    for capacity in (B, 3000):
        pool = StatePool(owner, capacity)
        slots = pool.allocate(B)
        pool.write(slots, pool.read(slots))
        pool.prepare(B)
        on_device = owner.xp.asarray(slots)
        for rows in range(1, B + 1) if B < 9 else (1, 2, 8, 9, 33, B):
            for of_x in (arrays.plain, *arrays.ways):
                for out in arrays.outs(rows, layers.output_size, owner.dtype):
                    x = of_x(rows, layers.input_size, owner.dtype)
                    for some in (slots[:rows], on_device[:rows]):
                        pool.step(x, some, is_first=[True] * rows, out=out)
