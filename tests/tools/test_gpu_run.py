"""A run on a GPU contains whatever happens to one of its parts, and records it."""

import importlib.util
import json
import signal
import subprocess
import sys
import threading
import time
import types
from dataclasses import replace

import pytest

from benchmarks.gpu import archive, attempts, broken_gpu, kernel_cache, log, parts, process, run, table
from benchmarks.gpu.stopping import Stop

from support import gpu_runs
from support.gpu_runs import archived, begin, program, recorded, statuses
from support.places import ROOT

BROKEN = """
class Error(Exception):
    status = 700

def synchronize():
    if broken:
        raise Error("cudaErrorIllegalAddress")

broken = []
sys.modules["cupy"] = types.SimpleNamespace(
    cuda=types.SimpleNamespace(runtime=types.SimpleNamespace(deviceSynchronize=synchronize))
)
"""


# One process, or xdist's workers.
WAYS = {"alone": ()} | ({"xdist": ("-p", "xdist", "-n", "1")} if importlib.util.find_spec("xdist") else {})


def test_failed_parts_do_not_stop_others(tmp_path, capsys):
    """Each part's status, and why it isn't "passed", are recorded. The last lines are a table of them."""
    kinds = [
        program("good", "print('fine')"),
        program("bad", "raise ValueError('no luck')"),
        program("killed", "import os; os.kill(os.getpid(), 9)"),
        parts.Part("absent", 5, ("/no/such/program",)),
        program("skipped", f"print('no GPU of that kind'); raise SystemExit({parts.SKIPPED})"),
        program("refused", why_not=lambda: "it is not installed"),
        program("last"),
    ]
    assert begin(kinds, tmp_path) == 1
    found = recorded(tmp_path)["parts"]
    assert {name: (part["status"], part.get("why")) for name, part in found.items()} == {
        "good": ("passed", None),
        "bad": ("failed", "exit status 1: ValueError: no luck"),
        "killed": ("failed", "SIGKILL"),
        "absent": ("failed", "exit status 127: [Errno 2] No such file or directory: '/no/such/program'"),
        "skipped": ("not run", "no GPU of that kind"),
        "refused": ("not run", "it is not installed"),
        "last": ("passed", None),
    }
    assert {"seconds", "limit", "kernels"} <= set(found["good"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-7:]] == list(found)
    assert lines[-6].split(maxsplit=4)[1:] == ["failed", "0", "s", "exit status 1: ValueError: no luck"]
    assert "fine" in (tmp_path / "results" / "log.txt").read_text()


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
    assert begin([gpu_runs.tests("slow", tmp_path, code, *options, limit=4), program("next")], tmp_path) == 1
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
    words = "CUDA is broken after it: an illegal address (cudaErrorIllegalAddress)"
    assert words in (tmp_path / "results" / "outcomes.jsonl").read_text()


def test_other_errors_do_not_break_the_gpu(monkeypatch):
    """Out of memory, for example, says nothing of the next call."""
    error = Exception("cudaErrorMemoryAllocation")
    error.status = 2

    def synchronize():
        raise error

    cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(deviceSynchronize=synchronize))
    monkeypatch.setitem(broken_gpu.sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    assert broken_gpu.why() is None
    error.status = 719
    assert broken_gpu.why() == "a launch that failed (cudaErrorMemoryAllocation)"
    monkeypatch.setitem(broken_gpu.sys.modules, "cupy", None)
    assert broken_gpu.why() is None


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


def test_later_parts_get_what_is_left(tmp_path):
    wait = "import time; time.sleep(60)"
    kinds = [program("long", wait), program("short", least=2), program("longer", least=9)]
    assert begin(kinds, tmp_path, limit=run.RESERVE + 2 + 6, grace=2, started=None) == 1
    found = recorded(tmp_path)["parts"]
    assert (found["long"]["status"], found["long"]["limit"]) == ("timed out", 6)
    assert found["short"]["status"] == "not run"
    assert found["longer"]["why"].endswith("s were left, and it needs 9 or more")


def test_needed_part_that_fails_leaves_the_rest(tmp_path):
    kinds = [program("facts", "raise SystemExit('no GPU')", needed=True), program("next")]
    assert begin(kinds, tmp_path) == 1
    assert recorded(tmp_path)["parts"]["next"] == {"name": "next", "status": "not run", "why": "facts: failed"}


def test_chosen_parts_run_alone(tmp_path):
    kinds = [program("facts", needed=True), program("one"), program("two")]
    assert begin(kinds, tmp_path, only=["two"]) == 0
    assert statuses(tmp_path) == {"facts": "passed", "one": "not run", "two": "passed"}


def test_output_without_end_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "MOST_OUTPUT", 1 << 20)
    monkeypatch.setattr(log, "BEGIN", 1000)
    monkeypatch.setattr(log, "END", 2000)
    assert begin([program("wordy", "while True: print('x' * 999)"), program("next", "print('good')")], tmp_path) == 1
    assert recorded(tmp_path)["parts"]["wordy"]["why"] == "it wrote too much"
    text = (tmp_path / "results" / "log.txt").read_text()
    assert "bytes left out ..." in text
    assert text.endswith("== next\ngood\n")
    assert len(text) < 4000


def test_programs_left_running_are_ended(tmp_path):
    """A process that a part leaves behind would use the GPU during the next one."""
    code = """
    import subprocess, sys
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(left.pid)
    """
    assert begin([program("leaves", code)], tmp_path) == 0
    number = (tmp_path / "results" / "log.txt").read_text().split()[-1]
    state = subprocess.run(["ps", "-o", "stat=", "-p", number], capture_output=True, text=True, check=False).stdout
    assert state.strip() in ("", "Z")


def test_results_are_few_files(tmp_path):
    """Results of an earlier run in the folder are removed, and other files stay."""
    results = tmp_path / "results"
    results.mkdir()
    for name in ("probes.json", "benchmarks.json", "mine.txt"):
        (results / name).write_text("old")
    kept = program("keeps", "import sys; open(sys.argv[1], 'w').write('kept')")
    kept = parts.Part("keeps", 30, (*kept.command, "{KEPT}/table.txt"))
    assert begin([kept], tmp_path) == 0
    assert {path.name for path in results.iterdir()} == {"gpu.json", "log.txt", archive.NAME, "mine.txt"}
    assert archived(tmp_path)["table.txt"] == b"kept"
    assert json.loads(archived(tmp_path)["gpu.json"]) == json.loads((results / "gpu.json").read_text())
    assert len(run.FILES) <= 8


def test_kernels_are_given_and_counted(tmp_path):
    """From a folder or an archive. A part that reads one has a hit, and a part that writes one has a miss."""
    given = tmp_path / "given"
    (given / "deeper").mkdir(parents=True)
    for name in ("a.kernel", "deeper/b.kernel", "notes.txt"):
        (given / name).write_text(name)
    packed = tmp_path / kernel_cache.NAME
    subprocess.run(["tar", "-czf", packed, "-C", given, "."], check=True)
    for source in (given, packed):
        cache = tmp_path / f"cache of {source.name}"
        assert kernel_cache.fill(cache, source) == 2
        count = kernel_cache.Count(cache)
        (cache / "a.kernel").read_bytes()
        (cache / "c.kernel").write_text("new")
        assert count.facts() == {"hits": 1 if count.tells else None, "misses": 1}
        assert kernel_cache.Count(cache).facts() == {"hits": 0 if count.tells else None, "misses": 0}
    packed.write_text("no archive")
    assert "kernels.tar.gz" in kernel_cache.fill(tmp_path / "other", packed)


def test_table_is_complete():
    """Every file of tests exists, every file of benchmarks is timed, and the parts before the last ones fit."""
    of_table = {part.name: part for part in table.parts()}
    for file in (*table.FIRST, *table.ORDER, *table.TESTS, *table.DRY_TESTS):
        assert (ROOT / file).is_file(), file
    assert {f"test_{name}.py" for name in table.BENCHMARKS} == {path.name for path in ROOT.glob("benchmarks/test_*.py")}
    assert list(of_table)[:3] == ["facts", "selftest", "probes"]
    assert list(of_table)[-1] == "profiler"
    assert [name for name, part in of_table.items() if part.needed] == ["facts"]
    assert {part.name for part in table.parts(dry=True)} == set(of_table)
    backends = {part.variables["FUSEDLSTM_TEST_BACKENDS"] for part in of_table.values() if part.variables}
    assert backends == {"cuda"}


def test_absent_packages_leave_parts_out():
    of_table = {part.name: part for part in table.parts(kernels_given=True, have=lambda package: False)}
    assert "xdist" not in of_table["tests"].command
    assert of_table["time_step"].why_not() == "pytest-benchmark is not installed"
    assert of_table["sanitized"].why_not() == "the kernels were given"


def test_second_signal_does_not_wait(tmp_path):
    stop, said = Stop(), tmp_path / "log.txt"
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"

    def first():
        if said.read_text() and not stop.times:
            stop(signal.SIGINT)
            threading.Timer(0.5, stop, [signal.SIGINT]).start()

    start, words = time.monotonic(), [sys.executable, "-c", code]
    ended = process.run(words, said, limit=50, environment=None, stop=stop, tick=first, grace=40)
    assert (ended.how, ended.status) == ("interrupted", -signal.SIGKILL)
    assert time.monotonic() - start < 20


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
