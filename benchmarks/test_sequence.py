"""Whole sequences, ours beside every peer: a table for each size. Also what lengths and resets cost."""

import numpy as np

from benchmarks.cases import SEQUENCES, sequence
from benchmarks.machine import devices
from benchmarks.peers.fusedlstm_peer import backend_of, inputs, synchronizer
from benchmarks.side_by_side import measure, parametrize
from fusedlstm import LSTM, LSTMState

OPTIONS = {"none": "neither", "lengths": "lengths", "is_first": "is_first"}
SIZES = [(100, 32, 128), (100, 256, 128)]


def pytest_generate_tests(metafunc):
    parametrize(metafunc, SEQUENCES)
    if "option" in metafunc.fixturenames:
        quick = metafunc.config.getoption("quick")
        metafunc.parametrize("device", devices(metafunc.config.getoption("device")))
        metafunc.parametrize("size", SIZES[:1] if quick else SIZES, ids=lambda size: "T{}-B{}-N{}".format(*size))
        metafunc.parametrize("option", OPTIONS)


def test_sequence(benchmark, entry, threads):
    measure(benchmark, entry, threads)


def test_options(benchmark, size, device, option, threads):
    """Time rows of different lengths, rows that reset midway, and neither."""
    T, B, N = size
    case = sequence("options of a sequence", T, B, N, N)
    benchmark.group = f"{case.title}: lengths and resets"
    benchmark.extra_info.update(
        peer=f"fusedlstm, {OPTIONS[option]}",
        ours=True,
        kind="option",
        case=option,
        T=T,
        B=B,
        I=N,
        N=N,
        threads=threads,
        device=device,
    )
    rng = np.random.default_rng(2)
    options = {"none": None, "lengths": rng.integers(T // 2, T + 1, B), "is_first": rng.random((T, B)) < 0.03}
    options = {} if option == "none" else {option: options[option]}
    lstm = LSTM(case.weights, backend=backend_of(device))
    (xs, states, _), synchronize = inputs(lstm, case), synchronizer(lstm)

    def run():
        outputs, ended = lstm(xs, states, **options)
        synchronize()
        return outputs, ended

    exact = LSTM(case.weights.astype("float64"), backend="numpy")
    start = LSTMState(h=case.data.h[0].astype(float), c=case.data.c[0].astype(float))
    wanted, _ = exact(case.data.xs.astype(float), (start,), **options)
    outputs = LSTMState(h=run()[0], c=states[0].c).to_numpy().h
    assert np.abs(outputs - wanted).max() < 1e-5
    assert outputs.shape == wanted.shape
    benchmark(run)
