"""float32 sequences beside as many bare steps, and beside PyTorch's LSTM: python -m pytest benchmarks.

As for steps: a group for each size, one process, one thread of a CPU, results compared with float64 before they are
timed, and on a GPU each timed call waits for the device.
"""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, available_backends

SIZES = [(1000, 1, 128), (100, 256, 128)]


class Case:
    """Weights, random data, lengths and resets, and the exact outputs, for T steps of B rows with N = I units."""

    def __init__(self, T, B, N):
        self.weights = LSTMWeights.random(N, N, seed=0)
        rng = np.random.default_rng(1)
        self.xs = rng.normal(size=(T, B, N)).astype(np.float32)
        self.lengths = rng.integers(T // 2, T + 1, B)
        self.is_first = rng.random((T, B)) < 0.03
        self.exact = LSTM(self.weights.astype("float64"), backend="numpy")

    def assert_right(self, outputs, **options):
        """Raise unless outputs are the exact ones, to float32."""
        wanted, _ = self.exact(self.xs.astype(float), **options)
        assert outputs.shape == wanted.shape
        assert np.isfinite(outputs).all()
        assert np.abs(outputs - wanted).max() < 1e-5


@pytest.fixture(params=SIZES, ids=lambda size: f"T={size[0]},B={size[1]},N={size[2]}")
def case(request, benchmark):
    """A case, in the group of its size."""
    T, B, N = request.param
    benchmark.group = f"float32 sequence, T = {T}, B = {B}, N = I = {N}"
    return Case(T, B, N)


def synchronizer(fused):
    """What waits for the device, where there is one."""
    return fused.xp.cuda.Device().synchronize if fused.backend == "cuda" else lambda: None


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("what", ["sequence", "lengths", "resets"])
def test_fusedlstm(benchmark, case, backend, what):
    lstm = LSTM(case.weights, backend=backend)
    options = {"sequence": {}, "lengths": {"lengths": case.lengths}, "resets": {"is_first": case.is_first}}[what]
    xs, synchronize = lstm.asarray(case.xs), synchronizer(lstm)

    def run():
        outputs, _ = lstm(xs, **options)
        synchronize()
        return outputs

    outputs = run()
    case.assert_right(outputs if backend == "numpy" else outputs.get(), **options)
    benchmark(run)


@pytest.mark.parametrize("backend", available_backends())
def test_bare_steps(benchmark, case, backend):
    """A loop of LSTMCell with out=, which keeps no output but the last."""
    cell = LSTMCell(case.weights, backend=backend)
    xs, synchronize = cell.asarray(case.xs), synchronizer(cell)
    zero, one, other = (cell.zero_state(xs.shape[1]) for _ in range(3))

    def run():
        state, out, spare = zero, one, other
        for t in range(len(xs)):
            state = cell(xs[t], state, out=out)
            out, spare = spare, out
        synchronize()
        return state

    wanted, _ = case.exact(case.xs.astype(float))
    assert np.abs(run().to_numpy().h - wanted[-1]).max() < 1e-5
    benchmark(run)


def test_torch_lstm(benchmark, case):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.set_num_threads(1)
    w = case.weights
    module = torch.nn.LSTM(w.input_size, w.hidden_size)
    with torch.no_grad():
        for name, value in (("weight_ih_l0", w.weight_ih), ("weight_hh_l0", w.weight_hh), ("bias_ih_l0", w.bias)):
            getattr(module, name).copy_(torch.tensor(value))
        module.bias_hh_l0.zero_()
    xs = torch.tensor(case.xs)
    with torch.inference_mode():
        case.assert_right(module(xs)[0].numpy())
        benchmark(module, xs)
