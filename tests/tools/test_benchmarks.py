"""The benchmarks refuse wrong results, compare on equal terms, and save comparable runs."""

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter

import numpy as np
import pytest

from benchmarks import caches, cases, peers, predictions, sequence_grid, side_by_side, threads
from benchmarks.brief.event_time import Times
from benchmarks.cases import Result, WrongResultError, pool, sequence, step
from benchmarks.fresh import Clock
from benchmarks.peers import fusedlstm_in_place
from benchmarks.peers import peer as peer_module
from benchmarks.peers.numpy_peer import Numpy
from benchmarks.peers.onnxruntime_peer import in_onnx_order
from benchmarks.peers.peer import CannotRunError, Peer, waited
from benchmarks.peers.tensorflow_peer import in_block_order
from fusedlstm import LSTMCell, Sequencer, StatePool, Stepper
from fusedlstm.backends import kernel_choice
from fusedlstm.backends.numpy import blas

from support.backends import needs_cuda
from support.places import ROOT

LISTS = [value for file in (cases, sequence_grid) for value in vars(file).values() if isinstance(value, list)]
ALL = [case for each in LISTS for case in each]
PEERS = {peer.name: peer for peer in peers.all_peers()}
SMALL = [
    step("plain", 5, 7, 12),
    step("layers", 5, 7, 12, layers=2),
    step("resets", 5, 7, 12, layers=2, resets=0.3),
    step("projection", 5, 7, 12, P=3, layers=2),
    step("doubles", 5, 7, 12, dtype="float64"),
    step("halves", 5, 7, 12, dtype="float16"),
    step("TF32", 5, 7, 12, precision="high"),
    sequence("plain", 9, 5, 7, 12),
    sequence("layers", 9, 5, 7, 12, layers=3),
    sequence("resets", 9, 5, 7, 12, resets=0.2),
    sequence("projection", 9, 5, 7, 12, P=3),
    sequence("all of it", 16, 5, 7, 12, layers=2, resets=0.2),
    sequence("projection and resets", 9, 5, 7, 12, P=3, resets=0.2),
    pool(11, 12, capacity=30),
    pool(9, 12, capacity=9),  # no padding, and all slots
    pool(11, 12, capacity=30, dtype="bfloat16"),
]
SMALL_POOL = pool(20, 12, capacity=30)


def right(case):
    """Return the exact result of a case, as float32. The case must compare all of its rows."""
    return Result(*(None if array is None else array.astype(np.float32) for array in case.exact))


def swapped(result):
    return result._replace(h=result.c, c=result.h)


def off(result):
    return result._replace(h=result.h + np.float32(1e-4))


def one_row_off(result):
    c = result.c.copy()
    c[:, -1] *= 1.001
    return result._replace(c=c)


def one_nan(result):
    c = result.c.copy()
    c[0, 1, 1] = np.nan
    return result._replace(c=c)


def poison(result):
    return Result(*(None if array is None else np.full_like(array, np.nan) for array in result))


def zeros(result):
    return Result(*(None if array is None else np.zeros_like(array) for array in result))


def one_row_missing(result):
    return result._replace(h=result.h[:, :-1])


WRONG = [swapped, off, one_row_off, one_nan, poison, zeros, one_row_missing]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    "case", [step("s", 5, 7, 12), sequence("q", 9, 5, 7, 12), SMALL_POOL], ids=lambda case: case.kind
)
def test_wrong_results_are_refused(case, wrong):
    case.assert_right(right(case))
    with pytest.raises(WrongResultError):
        case.assert_right(wrong(right(case)))


@pytest.mark.parametrize(
    "outputs", [lambda a: a + np.float32(1e-4), lambda a: a[:-1], lambda a: a[::-1], lambda a: None]
)
def test_wrong_outputs_are_refused(outputs):
    case = sequence("q", 9, 5, 7, 12)
    result = right(case)
    with pytest.raises(WrongResultError, match="outputs"):
        case.assert_right(result._replace(outputs=outputs(result.outputs)))


def test_nan_in_uncompared_rows_is_refused(monkeypatch):
    monkeypatch.setattr(cases, "_EXACT_WORK", 0)
    case = step("a large one", 11, 7, 13)
    assert len(case.rows) == 4
    assert {0, 10} <= set(case.rows)
    c = np.zeros((1, 11, 13))
    c[:, case.rows] = case.exact.c
    h = np.zeros((1, 11, 13))
    h[:, case.rows] = case.exact.h
    case.assert_right(Result(h, c))
    left = next(row for row in range(11) if row not in case.rows)
    c[0, left, 5] = np.nan
    with pytest.raises(WrongResultError, match="finite"):
        case.assert_right(Result(h, c))


def padding_that_stepped(result):
    h = result.h.copy()
    h[:, SMALL_POOL.slots.padding] *= 0.9
    return result._replace(h=h)


def output_of_padding(result):
    outputs = result.outputs.copy()
    outputs[:, SMALL_POOL.slots.padding] = 0.5
    return result._replace(outputs=outputs)


def shifted_slots(result):
    return Result(np.roll(result.h, 1, axis=1), np.roll(result.c, 1, axis=1), result.outputs)


def late_outputs(result):
    return result._replace(outputs=SMALL_POOL.data.h)


@pytest.mark.parametrize("wrong", [padding_that_stepped, output_of_padding, shifted_slots, late_outputs])
def test_wrong_results_of_a_pool_are_refused(wrong):
    assert SMALL_POOL.slots.padding.sum() == 2
    with pytest.raises(WrongResultError):
        SMALL_POOL.assert_right(wrong(right(SMALL_POOL)))


class Stopwatch:
    """Replaces pytest-benchmark, and counts what it was given to time."""

    enabled, group = True, None

    def __init__(self):
        self.extra_info, self.timed = {}, 0

    def __call__(self, run):
        self.timed += 1
        return run()


class Planted(Numpy):
    """A peer whose results are wrong after some calls."""

    def __init__(self, wrong, after):
        self.wrong, self.left = wrong, after

    def results(self, raw):
        self.left -= 1
        result = super().results(raw)
        return result if self.left >= 0 else self.wrong(result)


def test_right_peer_is_timed():
    case, benchmark = step("s", 5, 7, 12), Stopwatch()
    side_by_side.measure(benchmark, side_by_side.Entry(case, Numpy(), "cpu"), 64)
    assert benchmark.timed == 1
    assert benchmark.group == "s, float32: B = 5, I = 7, N = 12"
    wanted = {"kind": "step", "case": "s", "T": 1, "B": 5, "I": 7, "N": 12, "P": None, "layers": 1, "dtype": "float32"}
    more = {"threads": 64, "device": "cpu", "peer": "NumPy", "peer_version": np.__version__, "ours": False}
    assert benchmark.extra_info.items() >= {**wanted, **more}.items()
    json.dumps(benchmark.extra_info)


def test_cold_caches_are_emptied_before_each_time(monkeypatch):
    """Emptying is not timed."""
    emptied = []
    monkeypatch.setattr(side_by_side.caches, "flusher", lambda device: lambda: emptied.append(device))

    class Pedantic(Stopwatch):
        def pedantic(self, run, setup, rounds):
            for _ in range(rounds):
                setup()
                result = run()
            self.timed += rounds
            return result

    benchmark = Pedantic()
    side_by_side.measure(benchmark, side_by_side.Entry(step("s", 5, 7, 12, cold=True), Numpy(), "cpu"), 64)
    assert emptied == ["cpu"] * benchmark.timed
    assert benchmark.timed == 20
    assert (benchmark.extra_info["cold"], benchmark.extra_info["workload"]) == (True, "s")
    with pytest.raises(WrongResultError):
        side_by_side.measure(
            Pedantic(), side_by_side.Entry(step("s", 5, 7, 12, cold=True), Planted(poison, 1), "cpu"), 64
        )


def test_caches_are_overwritten(monkeypatch):
    monkeypatch.setattr(caches, "BYTES", 1 << 16)
    written = []
    monkeypatch.setattr(caches.np, "zeros", lambda *size: written.append(np.empty(*size)) or written[-1])
    flush = caches.flusher("cpu")
    flush()
    assert written[0].all()
    assert written[0].nbytes == 1 << 16


@pytest.mark.parametrize("of_gpu", [{"median": 7e-6}, None])
def test_gpu_and_host_times_are_recorded(of_gpu, monkeypatch):
    """They are recorded beside a call's time for each peer that can queue a call without waiting."""

    class Timer:
        def __init__(self, *, dry):
            assert not dry

        def times(self, queue):
            queue()
            return Times(of_gpu, {"median": 3e-5})

    class OnGpu(Numpy):
        def prepare(self, case, device, threads):
            run = super().prepare(case, "cpu", threads)
            return waited(run, lambda: None) if self.queues else run

    monkeypatch.setattr(side_by_side, "Timer", Timer)
    for OnGpu.queues in (True, False):
        benchmark = Stopwatch()
        side_by_side.measure(benchmark, side_by_side.Entry(step("s", 5, 7, 12), OnGpu(), "cuda"), 64)
        about = {name: value for name, value in benchmark.extra_info.items() if name.endswith("_seconds")}
        of_host = of_gpu and {"median": 3e-5}
        assert about == ({"gpu_seconds": of_gpu, "host_seconds": of_host} if OnGpu.queues else {})


def planted(monkeypatch, peer, owner, name, wrong):
    """Plant a mistake in a peer's library: one method does something else. Return the peer."""
    right = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *arguments, **options: wrong(right, *arguments, **options))
    return PEERS[peer]


def no_step(_, stepper):
    return stepper.output


def output_before(right, stepper):
    before = np.array(stepper.output)
    right(stepper)
    return before


def state_that_begins_anew(right, stepper):
    stepper.reset()
    return right(stepper)


def all_but_one_row(right, *arguments, out):
    step, x, slots = arguments
    slots = slots.copy()
    slots[np.flatnonzero(slots >= 0)[0]] = -1
    return right(step, x, slots, out=out)


def slots_in_order(right, *arguments, out):
    step, x, slots = arguments
    return right(step, x, np.sort(slots), out=out)


def one_output_late(right, *arguments, out):
    out[1:] = right(*arguments, out=out)[:-1]


def padding_not_skipped(right, *arguments, out):
    right(*arguments, out=out)
    out[arguments[2] < 0] = 1e-3


@pytest.mark.parametrize(
    ("peer", "owner", "name", "wrong"),
    [
        *(("fusedlstm Stepper", Stepper, "step", one) for one in (no_step, output_before, state_that_begins_anew)),
        *(
            ("fusedlstm pool", StatePool, "step", one)
            for one in (all_but_one_row, slots_in_order, one_output_late, padding_not_skipped)
        ),
        ("fusedlstm pool", StatePool, "write", lambda right, pool, slots, state: None),
    ],
)
def test_wrong_steps_in_place_are_not_timed(peer, owner, name, wrong, monkeypatch):
    peer = planted(monkeypatch, peer, owner, name, wrong)
    case = step("s", 20, 12, 12) if "Stepper" in peer.name else SMALL_POOL
    benchmark = Stopwatch()
    with pytest.raises(WrongResultError):
        side_by_side.measure(benchmark, side_by_side.Entry(case, peer, "cpu"), 64)
    assert not benchmark.timed


def no_run(_, sequencer):
    return sequencer.outputs


def outputs_before(right, sequencer):
    before = np.array(sequencer.outputs)
    right(sequencer)
    return before


def run_without_resets(right, sequencer):
    sequencer.is_first[...] = False
    return right(sequencer)


@pytest.mark.parametrize("wrong", [no_run, outputs_before, run_without_resets])
def test_wrong_sequences_are_not_timed(wrong, monkeypatch):
    peer, benchmark = planted(monkeypatch, "fusedlstm Sequencer", Sequencer, "run", wrong), Stopwatch()
    with pytest.raises(WrongResultError):
        entry = side_by_side.Entry(sequence("q", 9, 5, 7, 12, resets=0.2), peer, "cpu")
        side_by_side.measure(benchmark, entry, 64)
    assert not benchmark.timed


class Worn(Stopwatch):
    """Changes what it times: afterwards its library is wrong, or its states take longer to step."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def __call__(self, run):
        result = super().__call__(run)
        self.change(result)
        return result


@pytest.mark.parametrize(
    ("state", "words"),
    [(np.nan, "finite"), (1e-40, "after many steps the median"), (100.0, "after many steps the median")],
)
def test_states_after_timing_are_checked(state, words):
    """If states are no longer of order 1, the time is not that of the case."""
    case = step("s", 5, 7, 12)

    def change(result):
        stepper, _ = result
        stepper.h.fill(state)
        stepper.c.fill(state)

    with pytest.raises(WrongResultError, match=words):
        side_by_side.measure(Worn(change), side_by_side.Entry(case, PEERS["fusedlstm Stepper"], "cpu"), 64)


@pytest.mark.parametrize(
    ("peer", "owner", "name"),
    [
        ("fusedlstm Stepper", Stepper, "step"),
        ("fusedlstm pool", StatePool, "step"),
        ("fusedlstm cell, gather and scatter", LSTMCell, "__call__"),
    ],
)
def test_steps_going_wrong_while_timed_fail(peer, owner, name, monkeypatch):
    """The final states look ordinary, so the last check steps from the case's state."""
    case = step("s", 20, 12, 12) if "Stepper" in peer else SMALL_POOL
    benchmark = Worn(
        lambda _: monkeypatch.setattr(owner, name, lambda stepper, *_, **__: getattr(stepper, "output", 0))
    )
    with pytest.raises(WrongResultError):
        side_by_side.measure(benchmark, side_by_side.Entry(case, PEERS[peer], "cpu"), 64)
    assert benchmark.timed == 1


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_peer_is_not_timed(wrong):
    benchmark = Stopwatch()
    with pytest.raises(WrongResultError):
        side_by_side.measure(benchmark, side_by_side.Entry(step("s", 5, 7, 12), Planted(wrong, 0), "cpu"), 64)
    assert not benchmark.timed


def test_peer_going_wrong_while_timed_fails():
    with pytest.raises(WrongResultError):
        entry = side_by_side.Entry(step("s", 5, 7, 12), Planted(poison, 1), "cpu")
        side_by_side.measure(Stopwatch(), entry, 64)


def test_unable_peer_is_skipped_with_its_reason():
    class Unable(Numpy):
        def prepare(self, case, device, threads):
            raise CannotRunError("no compiler")

    with pytest.raises(pytest.skip.Exception, match="no compiler"):
        side_by_side.measure(Stopwatch(), side_by_side.Entry(step("s", 5, 7, 12), Unable(), "cpu"), 1)


def twice(names):
    return [name for name, count in Counter(names).items() if count > 1]


def test_cases_have_different_ids():
    for suite in (cases.STEPS + cases.TRAPS, *LISTS):
        assert not twice(case.id for case in suite), "benchmarks/cases.py: give each case of a list an id of its own"
    assert not twice(case.title for case in ALL), "benchmarks/cases.py: give each case a title of its own"
    for case in ALL:
        assert case.kind in {"step", "sequence", "pool"}
        assert (case.T == 1) or case.kind == "sequence"
        assert re.fullmatch(r"[\w.-]+", case.id), "a test's name has no spaces"


def test_quick_runs_a_subset():
    for suite in (cases.STEPS, cases.TRAPS, cases.SEQUENCES, sequence_grid.GRID, cases.POOLS, cases.WORKLOADS):
        for device in ("cpu", "cuda"):
            quick = cases.chosen(suite, quick=True, device=device)
            full = cases.chosen(suite, quick=False, device=device)
            assert quick
            assert len(quick) < len(full)
            assert all(case in full for case in quick)
    assert not any(case.gpu_only for case in cases.chosen(ALL, quick=False, device="cpu"))
    assert cases.chosen(ALL, quick=False, device="cuda", grid=True) == ALL


ELSEWHERE = "benchmarks/cases.py: STEPS and POOLS are a grid; add other sizes to TRAPS or WORKLOADS"


def test_common_cases_are_included():
    steps = {(case.B, case.N) for case in cases.chosen(cases.STEPS, quick=False, device="cpu")}
    assert steps == {(B, N) for B in (1, 32, 256, 1024) for N in (128, 256, 512)}, ELSEWHERE
    on_gpus = {(case.B, case.N, case.dtype) for case in cases.chosen(cases.STEPS, quick=False, device="cuda")}
    both = ("float32", "bfloat16")
    sizes = [(B, N) for B in (1, 32, 256, 1024, 4096, 16384) for N in (128, 256, 512, 1024)]
    assert on_gpus == {(*size, dtype) for size in sizes for dtype in both}, ELSEWHERE
    assert {case.precision for case in cases.STEPS} == {"highest", "high"}
    for device, dtypes in (("cpu", both[:1]), ("cuda", both)):
        pools = {(case.B, case.N, case.dtype) for case in cases.chosen(cases.POOLS, quick=False, device=device)}
        assert pools == {(B, N, dtype) for B in (32, 256, 1024, 4096) for N in (128, 512) for dtype in dtypes}, (
            ELSEWHERE
        )
    assert {case.capacity for case in cases.POOLS} == {65_536}
    assert {case.B for case in cases.TRAPS} >= {31, 136}
    assert {case.N for case in cases.TRAPS} >= {192, 200, 640}


def test_data_are_random_and_reproducible():
    case = step("s", 50, 7, 12, resets=0.3)
    data = case.data
    cases._data.cache_clear()
    for array, again in zip(data, case.data, strict=True):
        np.testing.assert_array_equal(array, again)
    assert all(array.std() > 0.5 for array in data[:3])
    assert 0.1 < data.is_first.mean() < 0.6
    few = sequence("s", 100, 1, 7, 12, resets=0.03).data.is_first
    assert few[50, 0], "there is one at least"
    assert few.mean() < 0.2


def test_slots_are_random_and_reproducible():
    case = pool(256, 128)
    slots = case.slots
    cases._slots.cache_clear()
    for array, again in zip(slots, case.slots, strict=True):
        np.testing.assert_array_equal(array, again)
    assert len(set(slots.all)) == 256
    assert 0 <= slots.all.min() < 1000
    assert 64_000 < slots.all.max() < case.capacity
    assert slots.padding.sum() == case.padding == 25
    np.testing.assert_array_equal(slots.given[~slots.padding], slots.all[~slots.padding])
    assert (slots.given[slots.padding] == -1).all()
    assert slots.padding[:128].any()
    assert slots.padding[128:].any()


@pytest.mark.parametrize("name", PEERS)
def test_interface_of_peers(name):
    peer = PEERS[name]
    assert isinstance(peer, Peer)
    assert peer.package
    assert peer.module
    assert set(peer.kinds) <= {"step", "sequence", "pool"}
    assert set(peer.devices) <= {"cpu", "cuda"}
    assert set(peer.dtypes) <= set(cases.TOLERANCES)
    assert peer.ours == name.startswith("fusedlstm")
    for device in {"cpu", "cuda"} - set(peer.devices):
        assert peer.why_not(device)
    for case in ALL:
        reason = peer.cannot(case)
        assert reason is None or len(reason) > 5


def test_kernels_run_every_predicted_shape():
    """Each kernel runs on a GPU, in its dtypes, without several layers, resets or cold caches."""
    for kernel in kernel_choice.NAMES:
        peer = PEERS[f"fusedlstm Stepper, kernel={kernel}"]
        done = [case for case in ALL if peer.cannot(case) is None]
        for case in done:
            assert kernel_choice.reason_against(kernel, case.dtype, case.precision) is None
            assert (case.kind, case.layers, case.resets, case.cold) == ("step", 1, 0, False)
        found = {(case.B, case.I, case.N, case.P) for case in done}
        assert found >= {shape for shape in predictions.SHAPES if shape[3] is None}
        assert (32, 640, 2048, 640) in found or kernel not in ("matmul", "simt")
        assert peer.devices == ("cuda",)
    bfloat16 = step("s", 32, 128, 128, dtype="bfloat16")
    assert PEERS["fusedlstm Stepper, kernel=simt"].cannot(bfloat16) == "simt multiplies float32 and float64 only"


def test_precision_applies_to_some_peers():
    """Only peers with a precision compute as TF32, and their results may differ more from the exact ones."""
    plain, high = step("s", 5, 7, 12), step("s", 5, 7, 12, precision="high")
    assert (high.id, plain.id) == (f"{plain.id}-high", "s-B5-I7-N12")
    assert "float32 as TF32" in high.title
    told = {name for name, peer in PEERS.items() if peer.cannot(high) is None}
    assert (
        {"fusedlstm", "fusedlstm Stepper", "torch.nn.LSTM"}
        <= told
        <= {name for name in PEERS if name.startswith(("fusedlstm", "torch"))}
    )
    assert PEERS["NumPy"].cannot(high) == "it has no precision 'high'"
    cell = fusedlstm_in_place.cell_of(high, "cpu", "simt")
    assert (cell._options["precision"], cell._options["kernel"]) == ("high", "simt")
    assert side_by_side.about(side_by_side.Entry(high, PEERS["fusedlstm"], "cpu"), 1)["precision"] == "high"
    exact = high.exact
    near, far = (cases.Result(exact.h + error, exact.c) for error in (3e-3, 5e-3))
    high.assert_right(near)
    for case, result in ((plain, near), (high, far)):
        with pytest.raises(cases.WrongResultError):
            case.assert_right(result)


def test_fusedlstm_runs_every_case():
    for case in ALL:
        names = ("fusedlstm pool",) if case.kind == "pool" else ("fusedlstm", "fusedlstm Stepper")[: 3 - case.T]
        for name in names:
            reason = PEERS[name].cannot(case)
            assert reason is None, f"benchmarks/peers/: {name} can't do {case.id} of benchmarks/cases.py: {reason}"
        others = [peer for peer in PEERS.values() if not peer.ours and peer.cannot(case) is None]
        assert others, f"benchmarks/peers/: no other library does {case.id} of benchmarks/cases.py"


@pytest.mark.filterwarnings("ignore")  # from other libraries
@pytest.mark.parametrize(
    ("name", "device"), [(name, device) for name, peer in PEERS.items() if peer.quick for device in peer.devices]
)
def test_peers_are_right(name, device):
    """Check each peer's gate order and layout, with all kinds, layers, projections and resets that it supports."""
    peer = PEERS[name]
    reason = peer.why_not(device)
    if reason:
        pytest.skip(reason)
    done = 0
    for case in SMALL:
        if peer.cannot(case) is None:
            run = peer.prepare(case, device, 1)
            for _ in range(2):
                case.assert_right(side_by_side.begun(peer, run))
            if side_by_side.changes_states(run):
                raw = [run() for _ in range(50 if device == "cpu" else 3)][-1]
                case.assert_ordinary(peer.results(raw))
                with pytest.raises(WrongResultError):
                    case.assert_right(peer.results(raw))
            done += 1
    assert done
    assert peer.version()


def test_gate_orders():
    rows = np.repeat(["i", "f", "g", "o"], 2)
    assert "".join(in_onnx_order(rows)) == "iiooffgg"
    assert "".join(in_block_order(rows)) == "iiggffoo"


def test_missing_library_is_not_a_failure(monkeypatch):
    monkeypatch.setattr(peer_module.importlib.util, "find_spec", lambda name: None)
    assert PEERS["onnxruntime"].why_not("cpu") == "onnxruntime is not installed"
    assert dict(peers.missing(("cpu",), quick=False))["JAX jit"] == "jax is not installed"

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(peer_module.importlib.metadata, "version", absent)
    assert PEERS["onnxruntime"].version() is None


@needs_cuda
def test_in_place_peers_skip_without_nvmath(monkeypatch):
    """Peers of Steppers and pools give the reason. Those of cells and LSTMs run."""
    from fusedlstm.backends.cuda.runtime import cublaslt as matmul

    in_place = [name for name in PEERS if name.startswith(("fusedlstm Stepper", "fusedlstm pool"))]
    assert len(in_place) == 4 + len(kernel_choice.NAMES)
    assert not any(PEERS[name].why_not("cuda") for name in in_place)
    monkeypatch.setattr(matmul, "why_not", lambda: "nvmath-python is not installed")
    for name, peer in PEERS.items():
        if peer.ours:
            assert peer.why_not("cuda") == ("nvmath-python is not installed" if name in in_place else None)
    assert PEERS["fusedlstm pool"].why_not("cpu") is None


def test_bench_extra_has_no_peers():
    """The extra has what runs the benchmarks. Peers are used if they are installed."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extra = tomllib.load(file)["project"]["optional-dependencies"]["bench"]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in extra}
    assert names >= {"pytest", "pytest-benchmark"}
    assert not names & {peer.package for peer in PEERS.values()}


@pytest.mark.parametrize(
    ("times", "at_once", "wanted"),
    [
        (({"1": 10, "2": 10}, {"1": 110, "2": 10}), 1.0, 1.0),
        (({"1": 0}, {"1": 100, "2": 100}), 1.9, 1.9),
        (({"1": 0}, {"1": 100, "2": 100}), 1.1, 1.1),  # one thread hands its work to the other
        (({"1": 0}, {"1": 100, "2": 30}), 1.9, 1.3),
    ],
)
def test_threads_are_counted(monkeypatch, times, at_once, wanted):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 64)
    both = iter(times)
    monkeypatch.setattr(threads, "_times", lambda: next(both))
    monkeypatch.setattr(threads, "_time_over_clock", lambda run: at_once)
    assert threads.threads_used(None) == wanted


def test_no_more_threads_than_cores_are_counted(monkeypatch):
    both = iter([{"a": 0, "b": 0, "c": 0}, {"a": 5, "b": 5, "c": 5}])
    monkeypatch.setattr(threads, "_times", lambda: next(both))
    monkeypatch.setattr(threads, "_time_over_clock", lambda run: 2.5)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 2)
    assert threads.threads_used(None) == 2


def test_more_threads_than_allowed_fail(monkeypatch):
    monkeypatch.setattr(side_by_side, "threads_used", lambda run: 1.9)
    with pytest.raises(AssertionError, match=r"1\.9 threads share the work, not 1"):
        side_by_side.assert_threads(None, 1)
    assert side_by_side.assert_threads(None, 2) == 1.9


def test_single_thread_is_counted(monkeypatch):
    used = threads.threads_used(lambda: sum(range(1000)))
    assert used is None or used < 1.5


def test_fresh_processes_report_their_seconds():
    clock = Clock()
    clock.run("import os; print(os.environ['EIGHTHS'], 0.25)", EIGHTHS="2")
    clock.run("print(0.5)")
    assert clock() == 0.75
    for code in ("print(0.0)", "1 / 0"):
        with pytest.raises(AssertionError):
            clock.run(code)


def benchmarks_run(*arguments, **variables):
    """Run pytest on the benchmarks' quick cases in another process, on the CPU."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        pytest.skip("pytest-benchmark is not installed")
    ours = re.compile(r".*_NUM_THREADS|PYTEST_.*")  # set for this process, which may be an xdist worker
    environment = {name: value for name, value in os.environ.items() if not ours.fullmatch(name)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "--quick", "--device", "cpu"],
        cwd=ROOT,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


ONE_CASE = ("benchmarks/test_step.py", "-k", "step-B1-I128-N128-cpu-fusedlstm")
several_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is only one core")


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=several_cores)])
def test_run_records_threads_and_facts(tmp_path, count):
    """A run uses the requested threads, and its file says what ran where."""
    path = tmp_path / "results.json"
    result = benchmarks_run(*ONE_CASE, f"--benchmark-json={path}", "--threads", str(count), OPENBLAS_NUM_THREADS="7")
    assert result.returncode == 0, result.stdout + result.stderr
    results = json.loads(path.read_text())
    about = results["machine_info"]["facts"]
    assert about["threads"] == count
    assert about["blas"]["threads"] in (count, None)
    assert about["blas"] | {"threads": None, "advice": None} == {**blas.facts(), "threads": None, "advice": None}
    assert about["versions"]["NumPy"] == np.__version__
    ran, missing = set(about["versions"]) - {"Python"}, set(about["missing"])
    assert not ran & missing
    assert ran | missing == set(PEERS)
    assert about["missing"]["torch.nn.LSTMCell CUDA graph"]
    assert about["cpu"]
    assert about["limits"]["cpu"]["matmul"]["float32"] > 0
    assert about["cores"] >= 1
    assert about["quick"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", about["date"])
    assert about["commit"]
    rows = [row["extra_info"] for row in results["benchmarks"]]
    assert [row["peer"] for row in rows] == ["fusedlstm", "fusedlstm out=", "fusedlstm Stepper"]
    assert {row["threads"] for row in rows} == {count}
    assert len({row["group"] for row in results["benchmarks"]}) == 1


@several_cores
def test_numpy_imported_before_is_refused():
    if blas.facts()["threads"] is None:
        pytest.skip("NumPy's BLAS doesn't report its number of threads")
    result = benchmarks_run("-p", "numpy", *ONE_CASE)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "was imported before the benchmarks' options were read" in result.stderr


def test_planted_slowdown_is_reported(tmp_path):
    """The saved run is edited to be faster or slower, and a later run is compared with it."""
    common = (*ONE_CASE, f"--benchmark-storage=file://{tmp_path}", "--benchmark-max-time=0.02")
    assert benchmarks_run(*common, "--benchmark-save=before").returncode == 0
    (saved,) = tmp_path.rglob("*_before.json")
    run = json.loads(saved.read_text())
    for factor, wanted in ((0.1, 1), (10, 0)):
        planted = json.loads(json.dumps(run))
        planted["machine_info"]["facts"].update(commit="another", date="2001-01-01", load=[99])
        for row in planted["benchmarks"]:
            for name in ("min", "max", "median", "mean"):
                row["stats"][name] *= factor
        saved.write_text(json.dumps(planted))
        result = benchmarks_run(*common, "--benchmark-compare=0001", "--benchmark-compare-fail=min:10%")
        assert result.returncode == wanted, result.stdout + result.stderr
        assert ("Performance has regressed" in result.stdout + result.stderr) == bool(wanted)
        assert "machine_info is different" not in result.stdout + result.stderr
