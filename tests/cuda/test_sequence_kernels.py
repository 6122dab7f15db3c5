"""Sequences of launches with flags, after products and in one kernel, compared with NumPy."""

from dataclasses import dataclass

import numpy as np
import pytest

from fusedlstm import LSTMState, LSTMWeights, StackedWeights

from support import sequences, tolerances
from support.backends import needs_cuda
from support.cells import host

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = needs_cuda

T = 7
CELLS = {
    "plain": ((12, 12), {}),
    "odd": ((7, 7), {"peephole": True, "cell_clip": 0.5, "bias": False}),
    "projection": ((6, 10), {"proj_size": 6, "proj_clip": 0.2}),
    "projection apart": ((8, 40), {"proj_size": 8, "zoneout_h": 0.2, "peephole": True}),
    "zoneout": ((12, 12), {"zoneout_h": 0.3, "zoneout_c": 0.1}),
}
KERNELS = [("matmul", "float32"), ("matmul", "float64"), ("simt", "float32"), ("tensor_small", "float16")]


@dataclass(frozen=True)
class Case:
    """The arguments of a sequence, drawn at random."""

    B: int
    chunk: int
    reverse: bool
    taken: str
    first: str
    reset_rows: int
    residual: bool
    last: bool

    @classmethod
    def drawn(cls, random):
        B = int(random.integers(1, 20))
        return cls(
            B=B,
            chunk=int(random.integers(1, T + 2)),
            reverse=bool(random.integers(2)),
            taken=random.choice(["all", "lengths", "mask", "none", "not first", "not last"]),
            first=random.choice(["none", "some", "every"]),
            reset_rows=int(random.choice([0, 1, B])),
            residual=bool(random.integers(2)),
            last=bool(random.integers(2)),
        )

    def flags(self, random):
        """Return lengths, mask and is_first, or None, and the steps that rows take."""
        own = np.arange(T)[:, None] < np.full(self.B, T)
        first = None if self.first == "none" else random.random((T, self.B)) < (0.3 if self.first == "some" else 1.1)
        if self.taken == "all":
            return None, None, first, own
        if self.taken == "lengths":
            lengths = random.integers(0, T + 1, self.B)
            return lengths, None, first, np.arange(T)[:, None] < lengths
        mask = {"none": ~own, "mask": random.random(own.shape) < 0.6}.get(self.taken, own.copy())
        if self.taken.startswith("not"):
            mask[0 if self.taken == "not first" else -1] = False
        return None, mask, first, mask


class Runner:
    """Steps a cell through a sequence by launches, as a graph of them would."""

    def __init__(self, weights, kernel, case, reset_to):
        from fusedlstm.backends.cuda.device_weights import DeviceWeights
        from fusedlstm.backends.cuda.runtime.cublas import write_product

        self.weights, self.kernel, self.case, self.reset_to = DeviceWeights(weights), kernel, case, reset_to
        self.write_product = write_product

    def product(self, a, weight, dtype):
        out = cupy.empty((len(a), len(weight)), dtype)
        self.write_product(out, a, weight, "highest")
        return out

    def run(self, xs, state, lengths, mask, is_first):
        """Return the outputs and the final state."""
        from fusedlstm.backends.cuda.sequence_kernels import flags_launch

        case, (steps, B, _) = self.case, xs.shape
        h, c = cupy.array(state.h), cupy.array(state.c)
        outputs = cupy.full((steps, B, self.weights.P), np.nan, xs.dtype)
        last = None
        starts = range(0, steps, case.chunk)
        for start in starts[::-1] if case.reverse else starts:
            flags = cupy.empty((min(case.chunk, steps - start), B), np.bool_)
            options = {"lengths": lengths, "mask": mask, "is_first": is_first, "reverse": case.reverse}
            flags_launch(flags, start, steps, **options).queue()
            here = range(start, start + len(flags))
            for t in here[::-1] if case.reverse else here:
                h = self.step(xs[t], h, c, outputs[t], last, flags[t - start])
                last = outputs[t] if case.last else None
            if last is not None:  # a chunk leaves it to the next one in memory that isn't aligned
                last = cupy.concatenate([last[:, :1], last], axis=1)[:, 1:]
        return outputs, LSTMState(h=h, c=c)

    def step(self, x, h, c, output, last, flags):
        """Queue a step, which updates c in place, and return the h after it."""
        from fusedlstm.backends.cuda.kernels import Destinations
        from fusedlstm.backends.cuda.sequence_kernels import finish_step_launch, step_launch
        from fusedlstm.backends.cuda.step_kernels import Resets, launches, needs_m

        weights, to = self.weights, self.reset_to
        resets = Resets(flags, to and to.h, to and to.c, idle=True)
        copy = {"copy": output, "input": x if self.case.residual else None, "last": last}
        if self.kernel != "matmul":
            after = cupy.full(h.shape, np.nan, h.dtype)
            m = cupy.zeros((len(x), 64), x.dtype)[:, : weights.N] if needs_m(weights, self.kernel, len(x)) else None
            for launch in launches(weights, self.kernel, x, h, c, c, Destinations(after, **copy), m, resets=resets):
                launch.queue()
            return after
        A = weights.gates_dtype
        gates, of_h = self.product(x, weights.weight_ih, A), self.product(h, weights.weight_hh, A)
        reset_gates = None if to is None else self.product(to.h, weights.weight_hh, A)
        if weights.weight_hr is None and not weights.functions.zoneout_h:
            step_launch(weights, gates, of_h, c, Destinations(h, **copy), resets, reset_gates).queue()
            return h
        m = cupy.full((len(x), weights.N), np.nan, x.dtype)
        step_launch(weights, gates, of_h, c, Destinations(m), resets, reset_gates).queue()
        projected = m if weights.weight_hr is None else self.product(m, weights.weight_hr, x.dtype)
        finish_step_launch(weights, projected, Destinations(h, old_h=h, **copy), resets).queue()
        return h


@pytest.mark.sampled
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_launches_of_a_sequence(kernel, dtype, cell):
    """Each cell runs twelve sequences, whose other arguments are drawn at random."""
    (I, N), options = CELLS[cell]
    weights = LSTMWeights.random(I, N, seed=0, dtype=dtype, **options)
    for seed in range(12):
        random = np.random.default_rng(seed)
        case = Case.drawn(random)
        lengths, mask, is_first, active = case.flags(random)
        xs = random.uniform(-1, 1, (T, case.B, I)).astype(dtype)
        P, A = weights.output_size, np.float64 if dtype == "float64" else np.float32

        def state(rows, random=random, P=P, A=A):
            h, c = (random.uniform(-1, 1, (rows, width)) for width in (P, N))
            return LSTMState(h=h.astype(dtype), c=c.astype(A))

        start, reset_to = state(case.B), state(case.reset_rows) if case.reset_rows else None
        want, (final,) = sequences.run(
            *(StackedWeights((weights,), residual=case.residual), xs, (start,)),
            active=active,
            is_first=is_first,
            reset_to=None if reset_to is None else (reset_to,),
            reverse=case.reverse,
            last=case.last,
        )
        on_gpu = None if reset_to is None else LSTMState(h=cupy.asarray(reset_to.h), c=cupy.asarray(reset_to.c))
        given = [None if a is None else cupy.asarray(a) for a in (lengths, mask, is_first)]
        outputs, got = Runner(weights, kernel, case, on_gpu).run(cupy.asarray(xs), start, *given)
        close = {"rtol": 0, "atol": 4 * tolerances.of(dtype, I + P), "err_msg": str(case)}
        for name, one, other in (("outputs", outputs, want), ("h", got.h, final.h), ("c", got.c, final.c)):
            np.testing.assert_allclose(host(one).astype(float), other.astype(float), **close, verbose=name == "c")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_lengths_of_any_integer_dtype(dtype):
    """Lengths are clamped, even where int64 can't hold them."""
    from fusedlstm.backends.cuda.sequence_kernels import as_lengths, flags_launch

    limits = np.iinfo(dtype)
    lengths = cupy.asarray(np.array([limits.min, 0, 3, limits.max], dtype))
    flags = cupy.empty((5, 4), np.bool_)
    flags_launch(flags, 0, 5, lengths=as_lengths(lengths, 5), reverse=False).queue()
    takes = host(flags.view(np.uint8)) == 0
    assert takes.sum(axis=0).tolist() == [0, 0, 3, 5]
