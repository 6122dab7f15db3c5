"""Every public bool parameter refuses other types."""

import inspect

import numpy as np
import pytest

import fusedlstm
from fusedlstm import LSTM, LSTMCell, LSTMWeights, Sequencer, StackedWeights, StatePool, Stepper, convert

W = LSTMWeights.random(3, 4, seed=0)
CELL, LAYERS = LSTMCell(W, backend="numpy"), LSTM(W, backend="numpy")
STATE = CELL.zero_state(2)
POOL = StatePool(CELL, 2)
POOL.allocate()
X, XS = np.zeros((2, 3), np.float32), np.zeros((5, 2, 3), np.float32)
TENSORS = [np.zeros((4, 3))] * 4 + [np.zeros((4, 4))] * 4
BLOCK = (np.zeros((7, 16)), np.zeros(16), *[np.zeros(4)] * 3)

# A call for each parameter, with valid other arguments.
CALLS = {
    "LSTM(batch_first)": lambda flag: LSTM(W, backend="numpy", batch_first=flag),
    "LSTM(batch_invariant)": lambda flag: LSTM(W, backend="numpy", batch_invariant=flag),
    "benchmark(peers)": lambda flag: fusedlstm.benchmark(
        LSTMCell(W, backend="numpy"), 1, every=None, seconds=0.001, peers=flag
    ),
    "LSTM.__call__(reverse)": lambda flag: LAYERS(XS, reverse=flag),
    "LSTM.vjp(reverse)": lambda flag: LAYERS.vjp(XS, reverse=flag),
    "LSTMPullback.__call__(retain)": lambda flag: LAYERS.vjp(XS)[2](None, None, retain=flag),
    "CellPullback.__call__(retain)": lambda flag: CELL.vjp(X, STATE)[1](STATE, retain=flag),
    "LSTM.__call__(cells)": lambda flag: LAYERS(XS, cells=flag),
    "LSTM.__call__(strict)": lambda flag: LAYERS(XS, strict=flag),
    **{
        f"LSTM.sequencer({name})": lambda flag, name=name: LAYERS.sequencer(5, 2, **{name: flag})
        for name in ("lengths", "mask", "is_first", "reverse")
    },
    "LSTM.stepper(host)": lambda flag: LAYERS.stepper(2, host=flag),
    "LSTMCell(batch_invariant)": lambda flag: LSTMCell(W, backend="numpy", batch_invariant=flag),
    "LSTMCell(check_state)": lambda flag: LSTMCell(W, backend="numpy", check_state=flag),
    "LSTMCell.stepper(host)": lambda flag: CELL.stepper(2, host=flag),
    "LSTMWeights.random(bias)": lambda flag: LSTMWeights.random(3, 4, seed=0, bias=flag),
    "LSTMWeights.random(peephole)": lambda flag: LSTMWeights.random(3, 4, seed=0, peephole=flag),
    **{
        f"Sequencer({name})": lambda flag, name=name: Sequencer(LAYERS, 5, 2, **{name: flag})
        for name in ("lengths", "mask", "is_first", "reverse")
    },
    "StackedWeights(bidirectional)": lambda flag: StackedWeights([W], bidirectional=flag),
    "StackedWeights(residual)": lambda flag: StackedWeights([W], residual=flag),
    "StackedWeights.random(bias)": lambda flag: StackedWeights.random(3, 4, seed=0, bias=flag),
    "StackedWeights.random(bidirectional)": lambda flag: StackedWeights.random(3, 4, seed=0, bidirectional=flag),
    "StackedWeights.random(peephole)": lambda flag: StackedWeights.random(3, 4, seed=0, peephole=flag),
    "StackedWeights.random(residual)": lambda flag: StackedWeights.random(3, 3, seed=0, residual=flag),
    "StatePool.step(strict)": lambda flag: POOL.step(X[:1], [0], strict=flag),
    "Stepper(host)": lambda flag: Stepper(CELL, 2, host=flag),
    "Stepper.step(copy)": lambda flag: CELL.stepper(2).step(X, copy=flag),
    "from_block_lstm(use_peephole)": lambda flag: convert.from_block_lstm(*BLOCK, use_peephole=flag),
    "from_block_lstm_v2(use_peephole)": lambda flag: convert.from_block_lstm_v2(*BLOCK, use_peephole=flag),
    "from_chainer(bidirectional)": lambda flag: convert.from_chainer(
        {f"0/w{k}": array for k, array in enumerate(TENSORS)} | {f"0/b{k}": np.zeros(4) for k in range(8)},
        bidirectional=flag,
    ),
    "from_cudnn(bidirectional)": lambda flag: convert.from_cudnn(TENSORS, num_layers=1, bidirectional=flag),
    "from_tf1(residual)": lambda flag: convert.from_tf1(convert.to_tf1(W), residual=flag),
    "from_tf1(use_peepholes)": lambda flag: convert.from_tf1(convert.to_tf1(W), use_peepholes=flag),
    "from_torch(reverse)": lambda flag: convert.from_torch(
        {"weight_ih_l0": np.zeros((16, 3)), "weight_hh_l0": np.zeros((16, 4))}, layer=0, reverse=flag
    ),
    "state_to_keras(bidirectional)": lambda flag: convert.state_to_keras((STATE, STATE), bidirectional=flag),
    "state_to_tf1(packed)": lambda flag: convert.state_to_tf1(STATE, packed=flag),
}


def callables():
    """Yield the name and value of each public function and method."""
    for module in (fusedlstm, convert):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                for method in dir(value):
                    if method in ("__init__", "__call__") or not method.startswith("_"):
                        yield name if method == "__init__" else f"{name}.{method}", getattr(value, method)
            else:
                yield name, value


def test_each_public_flag_is_listed():
    found = set()
    for name, function in callables():
        if inspect.isroutine(function) and not inspect.ismethoddescriptor(function):
            for parameter in inspect.signature(function).parameters.values():
                if "bool" in str(parameter.annotation):
                    found.add(f"{name}({parameter.name})")
    assert found == set(CALLS)


@pytest.mark.parametrize("flag", CALLS)
def test_flag_that_is_not_a_bool_raises(flag):
    name = flag.partition("(")[2].removesuffix(")")
    for value in (0, 1, "yes", "no", 0.0, np.zeros(3)):
        with pytest.raises(TypeError, match=rf"^{name}: wanted a bool"):
            CALLS[flag](value)
    CALLS[flag](False)
