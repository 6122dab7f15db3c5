"""Benchmarks of steps. Their clocks are made up, and no test looks at a real time."""

import dataclasses
import io
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fusedlstm
from fusedlstm import LSTM, LSTMCell, LSTMWeights, StackedWeights
from fusedlstm.backends.numpy import blas, cores
from fusedlstm.bench import child, histogram, result, running, steppings, table, worker
from fusedlstm.bench.result import BenchmarkResult, Quantiles, Times
from fusedlstm.bench.schedule import Block, back_to_back, by_deadlines
from fusedlstm.bench.worker import WorkerEndedError
from fusedlstm.validation.weights import as_layers

from support import scripted_bench
from support.places import ENVIRONMENT

I, N = 3, 4
WEIGHTS = LSTMWeights.random(I, N, seed=0)
LAYERS = StackedWeights.random(I, N, 2, seed=0)
PEERS = [name for name in steppings.LIBRARIES if name != steppings.OURS]


def cell(**options):
    return LSTMCell(WEIGHTS, backend="numpy", **options)


class Clock:
    """A clock that only steps and sleep move.

    Args:
        times: the seconds of each step.
        oversleep: how much longer than asked each sleep takes.
    """

    def __init__(self, times, oversleep=0.0):
        self.now, self.slept = 100.0, []
        self._times, self._oversleep = iter(times), oversleep

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds + self._oversleep

    def step(self):
        self.now += next(self._times)


def paced(times, every=1.0, seconds=None, oversleep=0.0):
    """Return the Times of steps that take so long, and the clock."""
    clock = Clock(times, oversleep)
    block = by_deadlines(clock.step, every, len(times) * every if seconds is None else seconds, clock, clock.sleep)
    return found_in([block]), clock


def found_in(blocks, paced=True, **others):
    about = {"library": "made up 1.0", "first": 1e-3, "allocated": None, "threads": 1}
    return Times.of(blocks, paced=paced, **{**about, **others})


# The schedule.


def test_fast_steps_begin_at_their_deadlines():
    times, clock = paced([0.25] * 8)
    assert times.steps == times.due == 8
    assert times.late == 0
    assert times.step == times.from_deadline == Quantiles(0.25, 0.25, 0.25, None, 0.25)
    assert times.per_second == 1.0
    assert len(clock.slept) == 8


def test_a_slow_step_makes_the_next_ones_late():
    """One step of 3.5 periods delays the four after it, and their times from the deadlines say so."""
    times, _ = paced([0.25, 3.5, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25])
    assert times.steps == 8
    assert times.late == 4
    assert times.step == Quantiles(0.25, 3.5, 3.5, None, 3.5)
    assert times.from_deadline == Quantiles(0.5, 3.5, 3.5, None, 3.5)
    clock = Clock([0.25, 3.5, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25])
    block = by_deadlines(clock.step, 1.0, 8.0, clock, clock.sleep)
    waits = [end - due for due, end in zip(block.deadlines, block.ends, strict=True)]
    assert waits == [0.25, 3.5, 2.75, 2.0, 1.25, 0.5, 0.25, 0.25]


def test_a_late_wakeup_is_not_a_late_start():
    """Only a step that is still running makes a start late. The time from the deadline includes the wait, too."""
    times, _ = paced([0.25] * 8, oversleep=0.5)
    assert times.late == 0
    assert times.step.worst == 0.25
    assert times.from_deadline.p50 == 0.75


def test_steps_that_are_too_slow_end_in_time():
    """Steps of two periods: nearly half are left out, and from the deadlines they take longer and longer."""
    times, clock = paced([2.0] * 10)
    assert (times.steps, times.due) == (6, 10)
    assert times.late == 5
    assert times.from_deadline.worst == 7.0
    assert clock.now == 100.0 + 1.0 + 12.0
    assert times.per_second == 0.5


def test_a_late_last_step_is_taken():
    """The last wakeup comes after the time is over, but not long after."""
    times, _ = paced([0.25] * 20, oversleep=1.5)
    assert times.steps == times.due == 20


def test_at_least_one_step_is_taken():
    assert paced([5.0], every=1.0, seconds=0.01)[0].steps == 1
    clock = Clock([5.0])
    assert back_to_back(clock.step, 1e-9, clock).due == 1


def test_steps_back_to_back():
    clock = Clock([0.5] * 9)
    block = back_to_back(clock.step, 4.0, clock)
    times = found_in([block], paced=False)
    assert times.steps == times.due == 8
    assert times.from_deadline is None
    assert times.late == 0
    assert times.per_second == 2.0


def test_slightly_late_starts_do_not_count():
    barely, clearly = (1.0 + extra for extra in (0.9 * result.LATE, 1.1 * result.LATE))
    assert paced([barely, 0.5])[0].late == 0
    assert paced([clearly, 0.5])[0].late == 1


def test_blocks_are_added_up():
    clock = Clock([2.0, 0.25, 0.25, 2.0])
    blocks = [by_deadlines(clock.step, 1.0, 2.0, clock, clock.sleep) for _ in range(2)]
    times = found_in(blocks)
    assert (times.steps, times.due, times.late) == (4, 4, 1)
    assert times.step.worst == 2.0


# Quantiles and the histogram.


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=300))
def test_quantiles_are_samples(times):
    found = Quantiles.of(times)
    for value, part in ((found.p50, 0.5), (found.p90, 0.9), (found.p99, 0.99)):
        assert value in times
        assert sum(time <= value for time in times) >= part * len(times) - 1e-9
        assert sum(time < value for time in times) < part * len(times)
    assert found.worst == max(times)
    assert found.p50 <= found.p90 <= found.p99 <= found.worst


def test_p999_needs_ten_thousand_times():
    times = list(np.random.default_rng(0).permutation(10_000) + 1.0)
    assert Quantiles.of(times) == Quantiles(5000.0, 9000.0, 9900.0, 9990.0, 10_000.0)
    assert Quantiles.of(times[1:]).p999 is None


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=100))
def test_a_histogram_has_every_time(times):
    block = Block(len(times), 1.0, [0.0] * len(times), [0.0] * len(times), times)
    found = found_in([block]).histogram
    assert sum(found.values()) == len(times)
    edges = [*histogram.EDGES, math.inf]
    for edge, count in found.items():
        k = edges.index(edge)
        low = -math.inf if k == 0 else edge
        assert count == sum(low <= time < edges[k + 1] for time in times)
    assert all(found[edge] for edge in (min(found), max(found)))


# The text and the JSON.


def made_up(**changes):
    blocks = [Block(3, 3.0, [0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [36e-6, 1.0 + 4e-5, 2.198])]
    ours = found_in(blocks, library="fusedlstm 0.1.0", allocated=2288)
    peer = dataclasses.replace(found_in(blocks), due=4, first=2.5)
    fields = {
        "what": "LSTMCell(...)",
        "batch": 2,
        "step": "call",
        "every": 0.01,
        "seconds": 3.0,
        "facts": {"cores": "2"},
        "warning": "",
        "libraries": (ours, peer),
        "not_timed": {"other": "it is not installed"},
    }
    return BenchmarkResult(**{**fields, **changes})


TABLE = """\
LSTMCell(...)
B = 2, plain calls, one every 10 ms, for 3 s

cores         2

                          fusedlstm 0.1.0  made up 1.0
step, p50                         40.0 us      40.0 us
step, p90                          198 ms       198 ms
step, p99                          198 ms       198 ms
step, worst                        198 ms       198 ms
from its deadline, p50            40.0 us      40.0 us
from its deadline, p90             198 ms       198 ms
from its deadline, p99             198 ms       198 ms
from its deadline, worst           198 ms       198 ms
late starts                             0            0
first step                           1 ms      2.50 s
steps                                   3       3 of 4
steps a second                        1.0          1.0
bytes allocated                     2,288
threads                                 1            1
"""


def test_the_table_has_units():
    text = str(made_up())
    head, _, histogram = text.partition("\n\nsteps that took")
    assert [line.split() for line in head.splitlines()] == [line.split() for line in TABLE.splitlines()]
    assert "20 us or more    ####################       2  ####################       2\n" in histogram
    assert "100 ms or more             ##########       1            ##########       1\n" in histogram
    assert text.endswith("\n\np99.9 needs 10,000 steps\n\nnot timed: other: it is not installed")
    assert "\nwarning: busy\n" in str(made_up(warning="busy"))
    assert "calls with out=, back to back, for 3 s" in str(made_up(step="out", every=None))


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (0.0123e-6, "0.01 us"),
        (9.94e-6, "9.94 us"),
        (35.64e-6, "35.6 us"),
        (1.0, "1 s"),
        (0.01, "10 ms"),
        (12.5, "12.5 s"),
    ],
)
def test_times_have_units(time, text):
    assert table.seconds(time) == text


def test_json_has_everything():
    found = json.loads(made_up().to_json())
    assert sorted(found) == sorted(["format", *(field.name for field in dataclasses.fields(BenchmarkResult))])
    assert found["format"] == 1
    ours, peer = found["libraries"]
    assert sorted(ours) == sorted(field.name for field in dataclasses.fields(Times))
    assert sorted(ours["step"]) == ["p50", "p90", "p99", "p999", "worst"]
    assert ours["step"]["p999"] is None
    assert [count for _, count in ours["histogram"] if count] == [2, 1]
    assert (peer["steps"], peer["due"], peer["first"]) == (3, 4, 2.5)
    assert found["not_timed"] == {"other": "it is not installed"}


# What is stepped.


def task(library=steppings.OURS, owner=None, weights=WEIGHTS, how="call", batch=2, **options):
    if library == steppings.OURS and owner is None:
        owner = (LSTMCell if isinstance(weights, LSTMWeights) else LSTM)(weights, backend="numpy", **options)
    return steppings.Task(library, owner, weights, batch, how, 1, "cpu")


@pytest.mark.parametrize(
    ("weights", "how"),
    [(WEIGHTS, "call"), (WEIGHTS, "out"), (WEIGHTS, "stepper"), (LAYERS, "call"), (LAYERS, "stepper")],
    ids=["cell", "cell with out", "stepper of a cell", "layers", "stepper of layers"],
)
def test_our_steps_are_right(weights, how, backend):
    kind = LSTMCell if isinstance(weights, LSTMWeights) else LSTM
    owner = kind(weights, backend=backend)
    prepared = child.Prepared(steppings.Task(steppings.OURS, owner, weights, 2, how, 1, owner.device))
    assert running._difference(prepared.ready.states, running._reference(weights, 2)) < 1e-6
    assert prepared.ready.allocated > 0
    block = prepared.block(None, 1e-9)
    assert block.due == 1


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("library", PEERS)
@pytest.mark.parametrize(
    "weights",
    [
        WEIGHTS,
        LAYERS,
        LSTMWeights.random(I, N, bias=False, seed=0),
        LSTMWeights.random(I, N, seed=0, dtype="float16"),
        LSTMWeights.random(I, N, seed=0, proj_size=2),
    ],
    ids=["cell", "layers", "no bias", "float16", "projection"],
)
def test_peers_steps_are_right(library, weights):
    pytest.importorskip(library)
    if library == "onnxruntime" and as_layers(weights).layers[0].proj_size:
        with pytest.raises(steppings.CannotStepError, match="weight_hr"):
            child.Prepared(task(library, weights=weights))
        return
    prepared = child.Prepared(task(library, weights=weights))
    allowed = 1e-2 if weights.dtype == np.float16 else 1e-5
    assert running._difference(prepared.ready.states, running._reference(weights, 2)) < allowed
    assert library.partition(".")[0] in prepared.ready.library
    assert prepared.ready.allocated is None


@pytest.mark.parametrize("library", PEERS)
def test_peers_refuse_what_they_lack(library):
    pytest.importorskip(library)
    with pytest.raises(steppings.CannotStepError, match="cell_clip"):
        child.Prepared(task(library, weights=LSTMWeights.random(I, N, cell_clip=1.0, seed=0)))


@pytest.mark.parametrize("library", PEERS)
def test_absent_libraries_are_named(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(steppings.CannotStepError, match="not installed"):
        child.Prepared(task(library))


def test_residual_layers_are_checked():
    weights = StackedWeights([LSTMWeights.random(N, N, seed=k) for k in range(2)], residual=True)
    prepared = child.Prepared(task(weights=weights))
    assert running._difference(prepared.ready.states, running._reference(weights, 2)) < 1e-6


def test_differences_are_found():
    wanted = [(np.zeros((2, 3)), np.full((2, 3), 4.0))]
    assert running._difference(wanted, wanted) == 0
    assert running._difference([(np.full((2, 3), 0.5), np.full((2, 3), 4.0))], wanted) == 0.5
    assert running._difference([(np.zeros((2, 3)), np.full((2, 3), 5.0))], wanted) == 0.25
    assert running._difference([(np.full((2, 3), np.nan), np.full((2, 3), 4.0))], wanted) == np.inf


# The processes.


def test_a_process_serves_blocks():
    requests = map(pickle.dumps, (task(), (None, 1e-9), (1e-9, 1e-9)))
    answers = io.BytesIO()
    child.serve(requests, answers)
    answers.seek(0)
    ready, *blocks = (pickle.load(answers) for _ in range(3))
    assert ready.library == f"fusedlstm {fusedlstm.__version__}"
    assert [block.due for block in blocks] == [1, 1]
    assert not answers.read()


@pytest.fixture
def scripted(monkeypatch):
    """Replace the processes."""
    return scripted_bench.install(monkeypatch)


def test_libraries_take_turns(scripted):
    found = fusedlstm.benchmark(cell(threads=1), 2, every=0.01, seconds=6)
    tasks = [each for each in scripted.begun if isinstance(each, steppings.Task)]
    assert [each.library for each in tasks] == list(steppings.LIBRARIES)
    assert [each.owner is None for each in tasks] == [False, True, True]
    assert {each.threads for each in tasks} == {1}
    assert scripted.begun[3:] == [
        part for _ in range(3) for name in steppings.LIBRARIES for part in ("pause", (name, 0.01, 2.0))
    ]
    assert [times.library for times in found.libraries] == [f"{name} 1.0" for name in steppings.LIBRARIES]
    assert [times.steps for times in found.libraries] == [6, 6, 6]
    assert sorted(scripted.closed) == sorted(steppings.LIBRARIES)
    assert found.facts["NumPy"].startswith(np.__version__)


@pytest.mark.parametrize(("seconds", "turns"), [(0.1, 1), (3.0, 2), (20.0, 10), (100.0, 10)])
def test_turns_share_the_time(scripted, seconds, turns):
    fusedlstm.benchmark(cell(), seconds=seconds, peers=False)
    blocks = [each for each in scripted.begun if isinstance(each, tuple)]
    assert blocks == [("fusedlstm", 0.01, seconds / turns)] * turns


@pytest.mark.parametrize(("every", "turns"), [(1.0, 5), (4.0, 2), (10.0, 1)])
def test_each_turn_has_time_for_a_step(scripted, every, turns):
    fusedlstm.benchmark(cell(), every=every, seconds=10, peers=False)
    assert [each for each in scripted.begun if isinstance(each, tuple)] == [("fusedlstm", every, 10 / turns)] * turns


@pytest.mark.parametrize("when", ["at the start", "while it steps"])
def test_a_peer_that_dies_is_not_timed(scripted, monkeypatch, when):
    """As a crash or the lack of memory may end it. The other libraries' times stay."""
    method = {"at the start": "__init__", "while it steps": "block"}[when]
    whole = getattr(scripted, method)

    def die(worker, *arguments):
        found = whole(worker, *arguments)
        if worker.library == "torch":
            raise WorkerEndedError("planted")
        return found

    monkeypatch.setattr(scripted, method, die)
    found = fusedlstm.benchmark(cell())
    assert [times.library for times in found.libraries] == ["fusedlstm 1.0", "onnxruntime 1.0"]
    assert found.not_timed == {"torch": "planted"}
    blocks = [each[0] for each in scripted.begun if isinstance(each, tuple)]
    assert blocks.count("torch") == (when == "while it steps")


def test_our_own_death_raises(scripted, monkeypatch):
    def die(*_):
        raise WorkerEndedError("planted")

    monkeypatch.setattr(scripted, "block", die)
    with pytest.raises(RuntimeError, match=r"^LSTMCell\(.*\) can't be timed: planted$"):
        fusedlstm.benchmark(cell())


def test_wrong_results_are_not_timed(scripted):
    states = running._reference(WEIGHTS, 1)
    states[0][0][0, 0] += 0.01
    scripted.spoilt["torch"] = child.Ready("torch 2", 1e-3, None, states)
    scripted.spoilt["onnxruntime"] = "it is not installed"
    found = fusedlstm.benchmark(cell())
    assert len(found.libraries) == 1
    assert found.wrong == ("torch",)
    assert found.not_timed["torch"].startswith(
        "its results are WRONG: 1.0e-02 from the formula in float64 (allowed: 3.0e-05"
    )
    assert found.not_timed["onnxruntime"] == "it is not installed"
    assert all(each[0] == "fusedlstm" for each in scripted.begun if isinstance(each, tuple))


def test_our_own_failure_raises(scripted):
    scripted.spoilt["fusedlstm"] = "planted"
    with pytest.raises(RuntimeError, match=r"^LSTMCell\(.*\) can't be timed: planted$"):
        fusedlstm.benchmark(cell())
    assert scripted.closed


def test_a_crowded_machine_is_named(scripted, monkeypatch):
    monkeypatch.setattr(cores, "idle", lambda: 1.0)
    monkeypatch.setattr(blas, "threads", lambda: 7)
    found = fusedlstm.benchmark(cell(threads=3))
    assert found.warning == cores.complaint(3) != ""
    assert fusedlstm.benchmark(cell(threads=1)).warning == ""
    for threads in (None, 9):
        assert {times.threads for times in fusedlstm.benchmark(cell(threads=threads)).libraries} == {7}


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"owner": WEIGHTS}, TypeError, "owner: wanted an LSTMCell or an LSTM; got"),
        (
            {"owner": LSTM(StackedWeights.random(I, N, 1, bidirectional=True, seed=0), backend="numpy")},
            ValueError,
            "owner: wanted a cell, or an LSTM whose layers are all forward",
        ),
        ({"batch": 0}, ValueError, "batch: wanted at least 1; got 0"),
        ({"batch": 1.0}, TypeError, "batch: wanted an int"),
        ({"every": 0}, ValueError, "every: wanted a number of seconds above 0; got 0"),
        ({"every": float("nan")}, ValueError, "every: wanted a finite number; got nan"),
        ({"every": "10ms"}, TypeError, "every: wanted a number; got str"),
        ({"every": 1e-300}, ValueError, "every: wanted from 1e-06 to 10, which is `seconds`; got 1e-300"),
        ({"every": 3, "seconds": 2}, ValueError, "every: wanted from 1e-06 to 2, which is `seconds`; got 3"),
        ({"seconds": -1}, ValueError, "seconds: wanted a number of seconds above 0; got -1"),
        ({"seconds": float("inf")}, ValueError, "seconds: wanted a finite number"),
        ({"step": "fast"}, ValueError, "step: wanted one of 'call', 'out', 'stepper'; got 'fast'"),
        (
            {"owner": LSTM(LAYERS, backend="numpy"), "step": "out"},
            ValueError,
            "step: wanted 'call' or 'stepper' with an LSTM; got 'out'. LSTM.step has no out=",
        ),
        ({"peers": 1}, TypeError, "peers: wanted a bool"),
    ],
)
def test_bad_arguments_raise_before_work(change, kind, words, scripted):
    arguments = {"owner": cell(), **change}
    with pytest.raises(kind, match=words.replace("(", r"\(")):
        fusedlstm.benchmark(**arguments)
    assert not scripted.begun


def test_importing_the_package_imports_no_bench():
    code = "import sys, fusedlstm; assert not any('bench' in name for name in sys.modules); fusedlstm.benchmark"
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True, timeout=60)
    assert "benchmark" in dir(fusedlstm)


def test_a_process_has_its_parents_threads():
    if blas.why_threads_are_fixed():
        pytest.skip(blas.why_threads_are_fixed())
    serve = "lambda *_: print(child.blas.threads(), 'threads', file=sys.stderr)"
    code = f"from fusedlstm.bench import child\nchild.serve = {serve}{worker._CODE}"
    command = [sys.executable, "-c", code]
    for threads in (1, 3):
        run = [*command, json.dumps([sys.path, threads])]
        said = subprocess.run(run, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=60).stderr
        assert said == f"{threads} threads\n"


def test_a_process_that_dies_is_named(monkeypatch):
    monkeypatch.setattr(worker, "_CODE", "import sys; sys.exit(7)")
    with pytest.raises(WorkerEndedError, match="the process that steps ended with status 7"):
        worker.Worker(task())


@pytest.mark.parametrize("words", ["Hello", "I am here"])
def test_a_process_that_prints_is_ended(monkeypatch, words):
    """Python's startup files may print, before the process protects its output."""
    monkeypatch.setattr(worker, "_ENDING", 0.1)
    monkeypatch.setattr(worker, "_CODE", f"import sys; print({words!r}, flush=True); sys.stdin.buffer.read()")
    with pytest.raises(WorkerEndedError, match="wrote something else to its standard output"):
        worker.Worker(task())


def test_a_process_gets_only_text_paths(monkeypatch):
    code = "import json, sys; path, _ = json.loads(sys.argv[1]); sys.exit(len(path))"
    monkeypatch.setattr(worker, "_CODE", code)
    monkeypatch.setattr(sys, "path", ["a", Path("b"), "c"])
    with pytest.raises(WorkerEndedError, match="status 2"):
        worker.Worker(task())
