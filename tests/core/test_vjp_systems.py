"""Gradients of an LSTM's vjp are those that other systems computed. Gradients of weights are read as weights are."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState, StackedWeights, convert

from support.gradients import by_name, largest_difference, named
from support.oracle_files import Oracle, names

TF1_OPTIONS = ("cell_clip", "num_proj", "proj_clip", "use_peepholes")


@pytest.mark.parametrize("name", ["plain", "lens_tm", "lens_all_options", "multi3", "residual", "bidir_lens"])
def test_gradients_of_tensorflow_1(name):
    oracle = Oracle(f"tf1/dyn_{name}.npz")
    options = {key: value for key, value in oracle.meta["cell"].items() if key in TF1_OPTIONS}
    options["residual"] = name == "residual"
    weights = convert.from_tf1(oracle.variables(), **options)
    variables = {
        key.removeprefix("grad_").replace(".", "/"): array
        for key, array in oracle.arrays.items()
        if key.startswith(("grad_rnn", "grad_bidirectional"))
    }
    wanted = convert.from_tf1(variables, **options | {"forget_bias": 0.0})
    ways = ["fw_l", "bw_l"] if name == "bidir_lens" else ["l"]
    places = [f"{way}{layer}" for layer in range(oracle.meta["layers"]) for way in ways]

    def states(prefix):
        return tuple(LSTMState(h=oracle[f"{prefix}_{place}_h"], c=oracle[f"{prefix}_{place}_c"]) for place in places)

    lengths = {"lengths": oracle["sequence_length"]} if oracle.meta["lens"] else {}
    d_outputs = np.concatenate([oracle[f"grad_out_y{k}"] for k in range(len(ways))], axis=2)
    _, _, pullback = LSTM(weights, backend="numpy").vjp(oracle["x"], states("init"), **lengths)
    got = by_name(pullback(d_outputs, states("grad_out_final")))
    pairs = [(state.h, state.c) for state in states("grad_init")]
    exact = named(oracle["grad_x"], pairs, None, [each.arrays() for each in layers_of(wanted)])
    assert largest_difference(got, exact) <= 10 * oracle.tolerance


def layers_of(weights):
    return weights.layers if isinstance(weights, StackedWeights) else (weights,)


@pytest.mark.parametrize("name", names("torch/LSTM_*.npz"))
def test_gradients_of_torch(name):
    oracle = Oracle(name)
    variables = {
        key.removeprefix("grad_"): np.zeros_like(array) if "bias_hh" in key else array  # the importer adds both biases
        for key, array in oracle.arrays.items()
        if key.startswith("grad_") and key not in ("grad_x", "grad_h0", "grad_c0")
    }
    wanted = convert.from_torch(variables)

    def states(h, c):
        return tuple(LSTMState(h=h, c=c) for h, c in zip(oracle[h], oracle[c], strict=True))

    lengths = {"lengths": oracle["lens"]} if oracle.meta["lens"] else {}
    lstm = LSTM(convert.from_torch(oracle.variables()), backend="numpy")
    _, _, pullback = lstm.vjp(oracle["x"], states("h0", "c0"), **lengths)
    got = by_name(pullback(oracle["gy"], states("gh", "gc")))
    pairs = zip(oracle["grad_h0"], oracle["grad_c0"], strict=True)
    exact = named(oracle["grad_x"], pairs, None, [each.arrays() for each in wanted.layers])
    assert largest_difference(got, exact) <= 10 * oracle.tolerance
