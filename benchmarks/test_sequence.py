"""Whole sequences, ours beside every peer: a table for each size. Also what x's part, lengths and resets cost."""

import numpy as np
import pytest

from benchmarks.cases import SEQUENCES, chosen, sequence
from benchmarks.machine import devices
from benchmarks.peers.fusedlstm_peer import backend_of, inputs, synchronizer
from benchmarks.peers.peer import CannotRunError
from benchmarks.sequence_grid import GRID
from benchmarks.side_by_side import Entry, about, gpu_and_host_seconds, measure, parametrize
from benchmarks.x_part import XPart
from fusedlstm import LSTM, LSTMState

OPTIONS = {"none": "neither", "lengths": "lengths", "is_first": "is_first"}
SIZES = [(100, 32, 128), (100, 256, 128)]


def pytest_generate_tests(metafunc):
    parametrize(metafunc, SEQUENCES + GRID)
    quick, found = metafunc.config.getoption("quick"), devices(metafunc.config.getoption("device"))
    if "multiplied" in metafunc.fixturenames:
        rows = [
            Entry(case, XPart(), device)
            for device in found
            for case in chosen(GRID, quick=quick, device=device, grid=metafunc.config.getoption("grid"))
            if case.quick or not case.resets
        ]
        metafunc.parametrize("multiplied", [pytest.param(row, id=row.id) for row in rows])
    if "option" in metafunc.fixturenames:
        metafunc.parametrize("device", found)
        metafunc.parametrize("size", SIZES[:1] if quick else SIZES, ids=lambda size: "T{}-B{}-N{}".format(*size))
        metafunc.parametrize("option", OPTIONS)


def test_sequence(benchmark, entry, threads):
    measure(benchmark, entry, threads)


def test_x_part(benchmark, multiplied, threads):
    """Time x's part of the gates alone, in the table of the whole sequence."""
    case, part, device = multiplied
    benchmark.group = case.title
    benchmark.extra_info.update(about(multiplied, threads), part=True)
    try:
        run = part.prepare(case, device, threads)
    except CannotRunError as error:
        benchmark.skipped = True
        pytest.skip(str(error))
    part.check(case, run())
    if benchmark.enabled and device == "cuda":
        benchmark.extra_info.update(gpu_and_host_seconds(run.queue))
    part.check(case, benchmark(run))


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
