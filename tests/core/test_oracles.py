"""Compare the cell with numbers that TensorFlow 1 and PyTorch computed."""

import json

import numpy as np
import pytest

from fusedlstm import LSTMCell, convert, pack_state, unpack_state

from support.comparisons import assert_close, assert_steps, state_on
from support.oracle_files import FOLDER, Oracle, names

CELL_OPTIONS = ("cell_clip", "num_proj", "proj_clip", "forget_bias", "use_peepholes", "activation")


def tf1_weights(oracle, **options):
    """Import an oracle's variables. The file flattened their names, as in `projection_kernel`."""
    variables = {name.replace("projection_kernel", "projection/kernel"): a for name, a in oracle.variables().items()}
    return convert.from_tf1({f"rnn/lstm_cell/{name}": a for name, a in variables.items()}, **options)


@pytest.mark.parametrize("name", names("tf1/lstmcell_*.npz"))
def test_tf1_lstmcell(name, backend):
    oracle = Oracle(name)
    options = {key: value for key, value in oracle.meta["args"].items() if key in CELL_OPTIONS}
    assert_steps(LSTMCell(tf1_weights(oracle, **options), backend=backend), oracle)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tf1/BasicLSTMCell.npz", {}),
        ("tf1/contrib_LSTMBlockCell_peep_clip.npz", {"cell_clip": 0.5, "forget_bias": 0.5}),
        ("tf1/contrib_CudnnCompatibleLSTMCell.npz", {"forget_bias": 0.0}),
        ("tf1/contrib_CoupledInputForgetGate.npz", {}),
        (
            "tf1/contrib_CoupledInputForgetGate_all.npz",
            {"use_peepholes": True, "num_proj": 3, "proj_clip": 0.25, "forget_bias": 0.5},
        ),
    ],
)
def test_other_tf1_cells(name, options, backend):
    oracle = Oracle(name)
    weights = convert.from_tf1(oracle.variables(), **options)
    assert_steps(LSTMCell(weights, backend=backend), oracle)


@pytest.mark.parametrize("name", names("tf1/raw_*.npz"))
def test_tf1_operations(name, backend):
    """Run LSTMBlockCell, BlockLSTM and BlockLSTMV2, with and without their defaults."""
    oracle = Oracle(name)
    read = convert.from_block_lstm_v2 if "V2" in name else convert.from_block_lstm
    weights = read(**oracle.variables(), **{"use_peephole": False} | oracle.meta["args"])
    assert_steps(LSTMCell(weights, backend=backend), oracle)


def test_tf1_fused_cell(backend):
    """Compare the one row that is valid to the end of the sequence."""
    oracle = Oracle("tf1/fused_lens_peep_clip.npz")
    cell = LSTMCell(convert.from_tf1(oracle.variables(), cell_clip=0.6), backend=backend)
    longest = int(np.argmax(oracle["sequence_length"]))
    state = state_on(cell, oracle["h0"], oracle["c0"])
    for x, y in zip(oracle["x"], oracle["y"], strict=True):
        state = cell(cell.asarray(x), state)
        h = state.to_numpy().h[longest]
        assert np.isfinite(h).all()
        assert np.abs(h - y[longest]).max() <= 3 * oracle.tolerance
    assert np.abs(state.to_numpy().c[longest] - oracle["final_c"][longest]).max() <= 3 * oracle.tolerance


@pytest.mark.parametrize("clip", [None, 1.5])
def test_tf1_extreme_rows(clip, backend):
    """Infinite, huge and NaN rows give TensorFlow's values, and change no bit of other rows."""
    oracle = Oracle("tf1/extreme_rows_f32.npz")
    cell = LSTMCell(tf1_weights(oracle, cell_clip=clip), backend=backend)
    x, state = cell.asarray(oracle["x"]), state_on(cell, oracle["h0"], oracle["c0"])
    got = cell(x, state).to_numpy()
    for name in ("h", "c"):
        wanted = oracle[f"{name}_clip{clip}"]
        np.testing.assert_allclose(getattr(got, name), wanted, rtol=3e-6, atol=3e-6, err_msg=name)
    calm = oracle["x"].copy(), oracle["h0"].copy(), oracle["c0"].copy()
    for array in calm:
        array[1:] = 0.25
    alone = cell(cell.asarray(calm[0]), state_on(cell, calm[1], calm[2])).to_numpy()
    np.testing.assert_array_equal(alone.h[0], got.h[0])
    np.testing.assert_array_equal(alone.c[0], got.c[0])


def test_tf1_state_order(backend):
    """TensorFlow's packed state is [c | h]. A state gives the same numbers packed and by name."""
    proof = json.loads((FOLDER / "tf1_state_order_proof.json").read_text())
    inputs = proof["inputs"]
    variables = {"kernel": np.full((4, 8), 0.5, np.float32), "bias": np.zeros(8, np.float32)}
    cell = LSTMCell(convert.from_tf1(variables, forget_bias=inputs["forget_bias"]), backend=backend)
    x = cell.asarray(inputs["x"])
    packed = cell.asarray(np.concatenate([inputs["c"], inputs["h"]], axis=1))
    state = cell(x, unpack_state(packed, 2, order="ch"))
    assert_close(state, np.array(proof["h_tuple"]), np.array(proof["c_tuple"]), 1e-6)
    by_name = cell(x, state_on(cell, inputs["h"], inputs["c"]))
    assert_close(by_name, state.to_numpy().h, state.to_numpy().c, 0)
    repacked = pack_state(state.to_numpy(), order="ch")
    assert np.abs(repacked - np.array(proof["s_packed_ch"])).max() <= 1e-6
    # Read in the wrong order, the same array gives TensorFlow's other, wrong numbers.
    misread = cell(x, unpack_state(packed, 2, order="hc"))
    theirs = np.array(proof["s_packed_hc"])
    assert_close(misread, theirs[:, 2:], theirs[:, :2], 1e-6)


@pytest.mark.parametrize("name", names("torch/LSTMCell_*.npz"))
def test_torch_cell(name, backend):
    oracle = Oracle(name)
    weights = convert.from_torch(oracle.variables())
    assert str(weights.dtype) == oracle.dtype
    assert_steps(LSTMCell(weights, backend=backend), oracle)
