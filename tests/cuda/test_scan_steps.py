"""Whole sequences on the emulated GPU, with kernels/gates.cu and scan.cu in place of a launch for each step."""

import ml_dtypes
import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState, StackedWeights
from fusedlstm.backends.cuda.scan_kernels import gate_order
from fusedlstm.backends.cuda.scan_tiles import LAST, NO_FLAGS, ScanTile, gates_tile, scan_tile
from fusedlstm.backends.cuda.tiles import TENSOR_LARGE, TENSOR_MEDIUM, TENSOR_MEDIUM_SHORT

from support.backends import BACKENDS
from support.on_emulated_gpu import bits, bits_of, nodes_of

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the fake driver")

B, I, N = 11, 6, 10
SCAN = ["gates", "scan"]
GATES_OF_FOUR = 4 * B * 4 * N * 4  # bytes of x's part of four steps


def make(layers=2, *, kernel="scan", dtype="bfloat16", seed=0, **options):
    """Return an LSTM that scans, or one whose single steps sum in the order of a scan, with "tensor_medium"."""
    precision = {"precision": "high"} if dtype == "float32" else {}
    weights = StackedWeights.random(I, N, layers, seed=seed, dtype=dtype, **options)
    return LSTM(weights, backend="cuda", kernel=kernel, **precision)


def arguments(lstm, T, rows=B, seed=0):
    rng = np.random.default_rng(seed)
    states = tuple(
        LSTMState(h=lstm.asarray(rng.uniform(-1, 1, s.h.shape)), c=lstm.asarray(rng.normal(size=s.c.shape), s.c.dtype))
        for s in lstm.zero_state(rows)
    )
    return lstm.asarray(rng.normal(size=(T, rows, I))), states


def bits_of_call(called):
    return bits(called[0]), bits_of(called[1])


def by_steps(lstm, xs, states, **options):
    outputs = []
    for t, x in enumerate(xs):
        more = {name: array[t] if name == "is_first" else array for name, array in options.items()}
        output, states = lstm.step(x, states, **more)
        outputs.append(output)
    return cupy.stack(outputs), states


CELLS = {
    "plain": {"dtype": "bfloat16"},
    "residual": {"dtype": "float16", "residual": [False, True], "peephole": True},
    "zoneout": {"dtype": "float32", "zoneout_c": 0.1, "zoneout_h": 0.2, "cell_clip": 0.5},
    "projection": {"dtype": "bfloat16", "proj_size": 6, "proj_clip": 0.2, "zoneout_h": 0.2, "residual": [True, True]},
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", CELLS)
def test_scans_have_the_bits_of_steps(name):
    """A projection is narrower than the cell, so h and c differ in width."""
    lstm, stepping = (make(kernel=kernel, **CELLS[name]) for kernel in ("scan", "tensor_medium"))
    xs, states = arguments(lstm, 21)
    is_first = np.random.default_rng(1).random((21, B)) < 0.3
    reset_to = arguments(lstm, 1, 1, seed=2)[1]
    for options in ({}, {"is_first": is_first}, {"is_first": is_first, "reset_to": reset_to}):
        assert bits_of_call(lstm(xs, states, **options)) == bits_of_call(by_steps(stepping, xs, states, **options))


@pytest.mark.sampled
@pytest.mark.parametrize("rule", ["zero", "last"])
@pytest.mark.parametrize("shape", ["reverse", "bidirectional", "mixed"])
def test_scans_of_marked_rows(shape, rule, monkeypatch):
    """Lengths, masks and resets in all directions give the bits of a launch for each step."""
    rng, T = np.random.default_rng(0), 7
    directions = {"bidirectional": ["both"] * 2, "mixed": ["both", "backward"]}.get(shape)
    about = {"masked_outputs": rule, "reverse": shape == "reverse", "is_first": rng.random((T, B)) < 0.3}
    wanted = []
    for marks in ({"lengths": rng.integers(0, T + 1, B)}, {"mask": rng.random((T, B)) < 0.7}):
        lstm = make(directions=directions, kernel="tensor_medium")
        wanted.append((marks, bits_of_call(lstm(*arguments(lstm, T), **about, **marks))))
    for gates in (1 << 24, 1, GATES_OF_FOUR):  # bytes of x's part that a launch computes
        monkeypatch.setattr("fusedlstm.backends.cuda.static_sequence._MOST_GATES", gates)
        for marks, want in wanted:
            lstm = make(directions=directions)
            assert bits_of_call(lstm(*arguments(lstm, T), **about, **marks)) == want


def test_every_state_is_kept_without_scans():
    """A scan writes only the last state, so a call that returns all of them takes single steps."""
    lstm, T = make(directions=["backward", "both"], dtype="float16"), 7
    xs, states = arguments(lstm, T)
    outputs, finals, cells = lstm(xs, states, cells=True)
    assert set(lstm.kernels(T, B)) == {"scan"}
    for backward, final, each in zip(lstm.weights.backward, finals, cells, strict=True):
        last = LSTMState(h=each.h[0 if backward else -1], c=each.c[0 if backward else -1])
        assert bits_of(last) == bits_of(final)
    scanned, _ = lstm(xs, states)
    np.testing.assert_allclose(scanned.get().astype("f4"), outputs.get().astype("f4"), atol=2e-3)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_sequencers_scan(bidirectional):
    """A run gives the bits of a call, in the launches that `kernels` names."""
    lstm, T = make(bidirectional=bidirectional), 7
    xs, states = arguments(lstm, T)
    is_first = np.random.default_rng(1).random((T, B)) < 0.3
    sequencer = lstm.sequencer(T, B, is_first=True)
    sequencer.write(states)
    outputs = sequencer.run(xs, is_first=is_first)
    wanted = lstm(xs, states, is_first=is_first)
    assert (bits(outputs), bits_of(sequencer.read())) == bits_of_call(wanted)
    assert sequencer.kernels == lstm.kernels(T, B) == ("scan",) * len(states)
    nodes = nodes_of(sequencer._engine._graph)
    assert [node for node in nodes if node in ("lstm_gates", "lstm_scan")] == ["lstm_gates", "lstm_scan"] * len(states)
    assert "lstm_step" not in nodes


@pytest.mark.parametrize("T", [1, 2, 3, 5, 9, pytest.param(69, marks=pytest.mark.nightly)])
def test_a_scan_leaves_single_steps(T, monkeypatch):
    """Both orders of scans and single steps carry h, c, resets and last outputs, in one graph or several."""
    monkeypatch.setattr("fusedlstm.backends.cuda.static_sequence._MOST_GATES", GATES_OF_FOUR)
    rng = np.random.default_rng(T)
    is_first, mask = rng.random((T, B)) < 0.3, rng.random((T, B)) < 0.7
    for reverse in (False, True):
        about = {"masked_outputs": "last", "reverse": reverse}
        stepping, lstm = make(kernel="tensor_medium"), make(kernel=None)
        xs, states = arguments(lstm, T)
        marks = {"is_first": is_first, "mask": mask}
        wanted = bits_of_call(stepping(xs, states, **marks, **about))
        assert bits_of_call(lstm(xs, states, **marks, **about)) == wanted
        sequencer = lstm.sequencer(T, B, is_first=True, mask=True, **about)
        sequencer.write(states)
        assert (bits(sequencer.run(xs, **marks)), bits_of(sequencer.read())) == wanted


@pytest.mark.parametrize(
    ("T", "reverse", "wanted"),
    [
        (2, False, ["step", "step"]),
        (5, False, [*SCAN, "step"]),
        (5, True, ["step", *SCAN]),
        (8, True, [*SCAN, *SCAN]),
    ],
)
def test_parts_of_one_step(T, reverse, wanted, monkeypatch):
    """Memory for x's part of four steps cuts a graph into scans of four. A step left over runs alone."""
    monkeypatch.setattr("fusedlstm.backends.cuda.static_sequence._MOST_GATES", GATES_OF_FOUR)
    nodes = nodes_of(make(1).sequencer(T, B, reverse=reverse)._engine._graph)
    nodes = [node.removeprefix("lstm_") for node in nodes if node.startswith("lstm_")]
    assert nodes == wanted


def test_wide_batches_scan(monkeypatch):
    """Many rows, or a wide layer of products below, leave memory for a scan's fewest steps at least."""
    monkeypatch.setattr("fusedlstm.backends.cuda.static_sequence._MOST_GATES", 1)
    nodes = nodes_of(make(1).sequencer(7, B)._engine._graph)
    nodes = [node.removeprefix("lstm_") for node in nodes if node.startswith("lstm_")]
    assert nodes == [*SCAN, *SCAN, "step"]


def test_the_table_chooses_scans():
    """Without a name, sequences scan, and single steps don't."""
    lstm, wanted = make(kernel=None), make()
    xs, states = arguments(lstm, 7)
    assert bits_of_call(lstm(xs, states)) == bits_of_call(wanted(xs, states))
    assert lstm.kernels(7, B) == ("scan",) * 2
    assert [engine.kernel_for(B) for engine in wanted._layers.engines] == ["tensor_small"] * 2
    assert bits_of_call(by_steps(wanted, xs, states)) == bits_of_call(by_steps(lstm, xs, states))


def test_a_scan_is_two_launches():
    """A layer of a chunk has one launch for x's part, and one for all its steps, with or without flags."""
    lstm = make()
    xs, states = arguments(lstm, 16)
    for options in ({}, {"is_first": np.ones((16, B), bool)}):
        lstm(xs, states, **options)
        ((_, sequence),) = lstm._layers._sequence._groups[0]
        graphs = sequence._free[-1]._by_steps
        assert nodes_of(graphs[16]) == ["lstm_gates", "lstm_scan"] * 2


def test_new_weights_reach_scans():
    lstm, other = make(), make(seed=1)
    xs, states = arguments(lstm, 5)
    lstm(xs, states)
    lstm.set_weights(other.weights)
    assert bits_of_call(lstm(xs, states)) == bits_of_call(other(xs, states))


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize(
    ("B", "N", "capability", "directions", "flags", "tile"),
    [
        (1, 1, 90, 1, LAST, ScanTile(32, 8)),
        (1024, 128, 90, 1, LAST, ScanTile(128, 8)),
        (1024, 128, 90, 2, LAST, ScanTile(128, 16)),
        (1025, 128, 90, 1, LAST, ScanTile(128, 16)),
        (9000, 128, 90, 1, LAST, ScanTile(128, 64)),
        (9000, 128, 80, 1, LAST, ScanTile(128, 32)),
        (9000, 128, 120, 1, LAST, ScanTile(128, 16)),
        (9000, 64, 120, 1, NO_FLAGS, ScanTile(64, 32)),
    ],
)
def test_rows_of_a_block(B, N, capability, directions, flags, tile):
    """A block has few rows while there are blocks for all multiprocessors. Its shared memory fits."""
    assert scan_tile(B, N, BFLOAT16, capability, directions=directions, flags=flags) == tile


@pytest.mark.parametrize(("N", "most"), [(1, 512), (32, 512), (33, 256), (64, 256), (65, 128), (128, 128)])
def test_tiles_of_the_inputs(N, most):
    """Many rows take large tiles, where a multiprocessor has room for two."""
    assert [gates_tile(B, N, BFLOAT16, 90) for B in (1, most, most + 1)] == [TENSOR_MEDIUM] * 2 + [TENSOR_LARGE]
    assert [gates_tile(B, N, BFLOAT16, 86) for B in (1, most + 1)] == [TENSOR_MEDIUM_SHORT] * 2


def test_order_of_gates():
    assert gate_order(3).tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
