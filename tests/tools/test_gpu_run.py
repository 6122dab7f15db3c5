"""A run on a GPU contains whatever happens to one of its parts, and records it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from benchmarks.gpu import archive, kernel_cache, log, parts, process, run, table, times
from benchmarks.gpu.stopping import Stop

from support import gpu_runs
from support.gpu_runs import archived, begin, program, recorded, statuses
from support.places import ROOT


def test_failed_parts_do_not_stop_others(tmp_path, capsys):
    """Each part's status, and why it isn't "passed", are recorded. The last lines are a table of them."""
    kinds = [
        program("good", "print('fine')"),
        program("bad", "raise ValueError('no luck\\nwith g++')"),
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


def test_run_goes_on_if_nobody_listens(tmp_path, monkeypatch):
    """The program that reads its lines may end: gpu.sh RESULTS | head."""
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(run, "SAY", 0)
    with open(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert begin([program("one", "import time; time.sleep(0.5)"), program("two")], tmp_path) == 0
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # for what is left in the buffer
    assert statuses(tmp_path) == {"one": "passed", "two": "passed"}


def test_unexpected_error_is_recorded(tmp_path):
    """A part's own code may raise anything. The record doesn't say that all parts ran."""

    def fails():
        raise LookupError("of nothing")

    with pytest.raises(LookupError):
        begin([program("one"), program("two", why_not=fails)], tmp_path)
    assert recorded(tmp_path)["ended"] == "by an error: LookupError: of nothing"
    assert statuses(tmp_path) == {"one": "passed", "two": "not run"}


def test_later_parts_get_what_is_left(tmp_path):
    wait = "import time; time.sleep(60)"
    kinds = [program("long", wait), program("short", least=2), program("longer", least=9)]
    assert begin(kinds, tmp_path, limit=run.RESERVE + 2 + 6, grace=2, started=None) == 1
    found = recorded(tmp_path)["parts"]
    assert (found["long"]["status"], found["long"]["limit"]) == ("timed out", 6)
    assert found["short"]["status"] == "not run"
    assert found["longer"]["why"].endswith("s were left, and it needs 9 or more")


def test_failed_needed_part_skips_the_rest(tmp_path):
    kinds = [program("facts", "raise SystemExit('no GPU')", needed=True), program("next")]
    assert begin(kinds, tmp_path) == 1
    assert recorded(tmp_path)["parts"]["next"] == {"name": "next", "status": "not run", "why": "facts: failed"}


def test_slow_facts_leave_no_part_out(tmp_path):
    """Whether CUDA runs is known before slow imports."""
    slow = gpu_runs.facts("import time; time.sleep(60)", cuda_runs="yes")
    assert begin([replace(slow, limit=1), program("next")], tmp_path) == 1
    assert statuses(tmp_path) == {"facts": "timed out", "next": "passed"}


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
    for _ in range(100):
        state = subprocess.run(["ps", "-o", "stat=", "-p", number], capture_output=True, text=True, check=False).stdout
        if state[:1] in ("", "\n", "Z"):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {number} still runs: {state}")


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
    """A folder or an archive may be given. A part that reads a kernel has a hit, and one that writes one has a miss."""
    given = tmp_path / "given"
    (given / "deeper").mkdir(parents=True)
    for name in ("a.json", "a.cubin", "deeper/b.json", "deeper/b.ptx", "notes.txt"):
        (given / name).write_text(name)
    packed = tmp_path / kernel_cache.NAME
    subprocess.run(["tar", "-czf", packed, "-C", given, "."], check=True)
    for source in (given, packed):
        cache = tmp_path / f"cache of {source.name}"
        assert kernel_cache.fill(cache, source) == 2
        count = kernel_cache.Count(cache)
        assert {path.name for path in cache.iterdir()} == {"a.json", "a.cubin", "b.json", "b.ptx"}
        (cache / "a.json").read_bytes()
        (cache / "c.json").write_text("new")
        assert count.facts() == {"hits": 1 if count.tells else None, "misses": 1}
        assert kernel_cache.Count(cache).facts() == {"hits": 0 if count.tells else None, "misses": 0}
    packed.write_text("no archive")
    assert "kernels.tar.gz" in kernel_cache.fill(tmp_path / "other", packed)


def test_times_of_all_parts_are_merged(tmp_path):
    """The file of a benchmark that was killed is empty."""
    for name, benchmarks in (("a", [1, 2]), ("b", [3])):
        content = {"machine_info": name, "benchmarks": benchmarks}
        (tmp_path / f"times-{name}-1.json").write_text(json.dumps(content))
    (tmp_path / "times-c-1.json").write_text("")
    times.merge(tmp_path, tmp_path / "merged.json")
    merged = json.loads((tmp_path / "merged.json").read_text())
    assert merged == {"machine_info": "a", "benchmarks": [1, 2, 3]}


def test_table_is_complete():
    """Every file of tests exists, every file of benchmarks is timed, and a dry run has the same parts."""
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


@pytest.mark.parametrize(("dry", "times"), [(False, 1), (True, table._SLOWER)])
def test_brief_runs_end_before_their_limits(dry, times):
    of_table = {part.name: part for part in table.parts(dry=dry)}
    for name, seconds in (("probes", 20), ("kernel_table", 80), ("sequence_table", 40)):
        part = of_table[name]
        assert float(part.command[part.command.index("--seconds") + 1]) == times * seconds < part.limit
        assert ("--dry-run" in part.command) == dry
        folder = "KEPT" if name == "sequence_table" else "RESULTS"
        assert f"{{{folder}}}/{name}.json" in part.command


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
