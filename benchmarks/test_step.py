"""One float32 step beside PyTorch's LSTMCell and the bare matrix product: python -m pytest benchmarks.

Each group is one size; its table sets all side by side, in one process, on one thread of a CPU. Every
result is compared with float64 before it is timed. On a GPU each timed call waits for the device.
"""

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMState, LSTMWeights, available_backends

SIZES = [(1, 128), (32, 128), (1024, 256)]


class Case:
    """Weights, random data, and the exact result of a step, for a batch of B with N = I units."""

    def __init__(self, B, N):
        self.weights = LSTMWeights.random(N, N, seed=0)
        rng = np.random.default_rng(1)
        self.x, self.h, self.c = rng.normal(size=(3, B, N)).astype(np.float32)
        exact = LSTMCell(self.weights.astype("float64"), backend="numpy")
        state = LSTMState(h=self.h.astype(float), c=self.c.astype(float))
        self.exact = exact(self.x.astype(float), state)

    def assert_right(self, h, c):
        """Raise unless a result is the exact one, to float32."""
        for got, wanted in ((h, self.exact.h), (c, self.exact.c)):
            assert np.isfinite(got).all()
            assert np.abs(got - wanted).max() < 1e-5


@pytest.fixture(params=SIZES, ids=lambda size: f"B={size[0]},N={size[1]}")
def case(request, benchmark):
    """A case, in the group of its size."""
    B, N = request.param
    benchmark.group = f"float32 step, B = {B}, N = I = {N}"
    return Case(B, N)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("out", [False, True], ids=["", "out"])
def test_fusedlstm(benchmark, case, backend, out):
    cell = LSTMCell(case.weights, backend=backend)
    x, state = cell.asarray(case.x), LSTMState(h=cell.asarray(case.h), c=cell.asarray(case.c))
    target = cell.zero_state(len(x)) if out else None
    synchronize = cell.xp.cuda.Device().synchronize if backend == "cuda" else lambda: None

    def step():
        result = cell(x, state, out=target)
        synchronize()
        return result

    result = step().to_numpy()
    case.assert_right(result.h, result.c)
    benchmark(step)


def test_torch_lstmcell(benchmark, case):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.set_num_threads(1)
    w = case.weights
    module = torch.nn.LSTMCell(w.input_size, w.hidden_size)
    with torch.no_grad():
        for name, value in (("weight_ih", w.weight_ih), ("weight_hh", w.weight_hh), ("bias_ih", w.bias)):
            getattr(module, name).copy_(torch.tensor(value))
        module.bias_hh.zero_()
    x, h, c = (torch.tensor(array) for array in (case.x, case.h, case.c))
    with torch.inference_mode():
        case.assert_right(*(result.numpy() for result in module(x, (h, c))))
        benchmark(module, x, (h, c))


def test_bare_matmul(benchmark, case):
    """What no step can be faster than: [x | h] times the weights, by NumPy."""
    w = case.weights
    operand = np.concatenate([case.x, case.h], axis=1)
    weight = np.ascontiguousarray(np.concatenate([w.weight_ih, w.weight_hh], axis=1).T)
    gates = np.empty((len(operand), weight.shape[1]), np.float32)
    benchmark(np.matmul, operand, weight, out=gates)
    assert np.abs(gates - operand.astype(float) @ weight.astype(float)).max() < 1e-4
