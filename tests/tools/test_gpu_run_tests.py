"""A run on a GPU records the outcome of each test, and goes on after tests that crash, hang or break CUDA."""

import importlib.util
import json
import sys
from dataclasses import replace

import pytest

from benchmarks.gpu import attempts, outcomes, plugin

from support import gpu_runs
from support.gpu_runs import archived, begin, program, recorded, statuses

BROKEN = """
from contextlib import nullcontext

def synchronize():
    if broken:
        raise RuntimeError("cudaErrorIllegalAddress")

broken = []
runtime = types.SimpleNamespace(deviceSynchronize=synchronize, memGetInfo=list)
sys.modules["cupy"] = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime, Device=nullcontext))
"""


# One process, or xdist's workers.
WAYS = {"alone": ()} | ({"xdist": ("-p", "xdist", "-n", "1")} if importlib.util.find_spec("xdist") else {})


def test_planted_failures_are_named(tmp_path):
    code = """
    def test_good(): pass
    def test_bad(): assert 1 == 2
    @pytest.mark.skip("no luck")
    def test_skipped(): pass
    @pytest.fixture
    def broken(): raise ValueError("in a fixture")
    def test_error(broken): pass
    @pytest.fixture
    def late():
        yield
        raise ValueError("afterwards")
    def test_late_error(late): pass
    """
    assert begin([gpu_runs.tests("mixed", tmp_path, code), program("next")], tmp_path) == 1
    part = recorded(tmp_path)["parts"]["mixed"]
    assert part["status"] == "failed"
    assert part["tests"] == {"passed": 1, "failed": 3, "skipped": 1}
    assert [test.partition("::")[2] for test in part["failed"]] == ["test_bad", "test_error", "test_late_error"]
    whys = [json.loads(line).get("why") for line in archived(tmp_path)["outcomes.jsonl"].splitlines()]
    assert {"assert 1 == 2", "Skipped: no luck", "ValueError: in a fixture"} <= set(whys)
    assert statuses(tmp_path)["next"] == "passed"


def test_passing_tests_pass(tmp_path):
    code = "def test_good(): pass"
    assert begin([gpu_runs.tests("good", tmp_path, code)], tmp_path) == 0
    assert recorded(tmp_path)["parts"]["good"]["tests"]["passed"] == 1
    assert "failed" not in recorded(tmp_path)["parts"]["good"]


def test_failed_tests_stay_failed(tmp_path):
    """A worker that breaks the GPU says so itself, perhaps before the main process says that the test passed."""
    file = tmp_path / "outcomes.jsonl"
    for outcome in ("began", "failed", "passed"):
        outcomes.append(file, part="a", test="test_one", outcome=outcome)
    outcomes.append(file, part="another", test="test_two", outcome="passed")
    with file.open("a") as cut_off:
        cut_off.write('{"part": "a", "te')
    assert outcomes.read(file, "a").counts() == {"passed": 0, "failed": 1, "skipped": 0}


def test_no_tests_are_a_failure(tmp_path):
    """A renamed file of tests would otherwise seem to pass."""
    assert begin([gpu_runs.tests("none", tmp_path, "")], tmp_path) == 1
    assert "exit status 5" in recorded(tmp_path)["parts"]["none"]["why"]


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_part_over_its_time_is_interrupted(tmp_path, options):
    """Pytest then still writes what failed, and its tests are recorded."""
    code = """
    def test_good(): pass
    def test_bad(): assert 1 == 2
    def test_long(): time.sleep(60)
    def test_never(): pass
    """
    parts = [gpu_runs.tests("slow", tmp_path, code, *options, limit=4), program("next")]
    assert begin(parts, tmp_path, grace=30) == 1  # a busy machine takes long to end a process
    part = recorded(tmp_path)["parts"]["slow"]
    assert part["status"] == "timed out"
    assert part["tests"] == {"passed": 1, "failed": 1, "skipped": 0}
    assert [test.partition("::")[2] for test in part["running"]] == ["test_long"]
    assert "1 failed, 1 passed" in (tmp_path / "results" / "log.txt").read_text()
    assert statuses(tmp_path)["next"] == "passed"


CRASH = """
def test_one(): pass
def test_two(): ctypes.string_at(0)
def test_three(): pass
def test_four(): assert 1 == 2
"""


def test_crash_of_a_worker_is_contained(tmp_path):
    """Xdist starts another worker, and tells which test it was."""
    pytest.importorskip("xdist")
    assert begin([gpu_runs.tests("crash", tmp_path, CRASH, *WAYS["xdist"])], tmp_path) == 1
    part = recorded(tmp_path)["parts"]["crash"]
    assert [test.partition("::")[2] for test in part["failed"]] == ["test_two", "test_four"]
    assert part["culprits"] == part["failed"][:1]
    assert part["tests"]["passed"] == 2
    assert "crashed while running" in (tmp_path / "results" / "outcomes.jsonl").read_text()


def test_crash_goes_on_from_the_next_test(tmp_path):
    assert begin([gpu_runs.tests("crash", tmp_path, CRASH)], tmp_path) == 1
    part = recorded(tmp_path)["parts"]["crash"]
    assert part["tests"] == {"passed": 2, "failed": 2, "skipped": 0}
    assert [test.partition("::")[2] for test in part["culprits"]] == ["test_two"]
    assert part["processes"] == 2
    assert "the process ended in it: SIGSEGV" in (tmp_path / "results" / "outcomes.jsonl").read_text()
    assert "Fatal Python error: Segmentation fault" in (tmp_path / "results" / "log.txt").read_text()


def test_crashes_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "MOST", 2)
    code = "@pytest.mark.parametrize('k', range(5))\ndef test_crash(k): os._exit(3)"
    assert begin([gpu_runs.tests("crashes", tmp_path, code)], tmp_path) == 1
    part = recorded(tmp_path)["parts"]["crashes"]
    assert part["tests"]["failed"] == 2
    assert part["given up"] == "after 2 processes"


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_broken_gpu_is_contained(tmp_path, options):
    """A test that leaves CUDA broken is named, even if it passed. The next tests run in another process."""
    code = f"""{BROKEN}
def test_good(): pass
def test_breaks(): broken.append(1)
def test_next(): assert not broken
def test_last(): assert not broken
"""
    assert begin([gpu_runs.tests("broken", tmp_path, code, *options)], tmp_path) == 1
    part = recorded(tmp_path)["parts"]["broken"]
    assert [test.partition("::")[2] for test in part["failed"]] == ["test_breaks"]
    assert part["culprits"] == part["failed"]
    assert part["tests"]["passed"] == 3
    assert part.get("processes", 1) == (1 if options else 2), "xdist only starts another worker"
    words = "CUDA is broken after it: cudaErrorIllegalAddress"
    assert words in (tmp_path / "results" / "outcomes.jsonl").read_text()


def test_cupy_is_not_imported_to_ask_cuda(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert plugin.broken_cuda() is None


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_stuck_tests_end(tmp_path, options):
    """A test that waits in Python fails. One that doesn't come back, as in a call of CUDA, ends its process."""
    code = """
    from benchmarks.gpu import plugin
    plugin._PATIENCE = 1
    def test_waits(): time.sleep(60)
    def test_stuck():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(60)
    def test_next(): pass
    """
    assert begin([replace(gpu_runs.tests("stuck", tmp_path, code, *options), test_seconds=1)], tmp_path) == 1
    part = recorded(tmp_path)["parts"]["stuck"]
    assert [test.partition("::")[2] for test in part["failed"]] == ["test_waits", "test_stuck"]
    assert [test.partition("::")[2] for test in part["culprits"]] == ["test_stuck"]
    assert part["tests"]["passed"] == 1
    assert "the test took over 1 seconds" in (tmp_path / "results" / "outcomes.jsonl").read_text()
    assert "in test_stuck" in (tmp_path / "results" / "log.txt").read_text()


@pytest.mark.parametrize("installed", [False, True])
def test_tests_without_nvmath_are_skipped(tmp_path, installed):
    """They fail if it is installed."""
    code = f"""
    import importlib.util
    from fusedlstm import BackendUnavailableError
    importlib.util.find_spec = lambda name: {installed} or None
    def test_needs_nvmath(): raise BackendUnavailableError("nvmath-python is not installed (...)")
    def test_other(): raise BackendUnavailableError("no GPU")
    """
    begin([gpu_runs.tests("nvmath", tmp_path, code, "-p", "support.skips")], tmp_path)
    part = recorded(tmp_path)["parts"]["nvmath"]
    assert part["tests"] == {"passed": 0, "failed": 1 + installed, "skipped": 1 - installed}
    assert part["failed"][-1].endswith("test_other")
