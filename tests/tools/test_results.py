"""Committed results from GPUs belong to the kernels of their commit."""

import json
import re
import runpy
import subprocess

import numpy as np
import pytest

from benchmarks import keep, report, runs
from fusedlstm import StatePool, Stepper
from fusedlstm.backends.cuda.runtime import sources
from fusedlstm.backends.select import unavailable_reason

from support.places import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def git(*arguments, root=ROOT):
    """Return git's output as bytes, or None if git failed."""
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout


def digest_at(commit, root=ROOT):
    """Return the digest of kernels/ at a commit, or None if git does not know it."""
    listing = git("ls-tree", "--name-only", f"{commit}:kernels", root=root)
    if listing is None:
        return None
    names = [name for name in listing.decode().split() if name.endswith((".cu", ".cuh"))]
    return sources.digest_of({name: git("show", f"{commit}:kernels/{name}", root=root) for name in names})


def check(result, root=ROOT):
    """Raise if a result's digest is not its commit's. Return a notice if kernels have changed since."""
    facts = json.loads(result.read_text())
    then = digest_at(facts["commit"], root)
    if then is None:
        unknown = f"{result.name}: git does not know the commit {facts['commit']}"
        assert git("rev-parse", "--is-shallow-repository", root=root) != b"false\n", unknown
        return unknown
    assert facts["kernels"] == then, f"{result.name}: its kernels are not those of its commit"
    return None if then == sources.digest() else f"{result.name} is older than today's kernels"


def committed():
    return sorted(path for path in RESULTS.glob("*/gpu.json") if path.parent.name != "latest")


def test_committed_results():
    """There may be none. A notice is reported as a skip."""
    for result in committed():
        notice = check(result)
        if notice:
            pytest.skip(notice)


@pytest.fixture
def repository(tmp_path):
    """Make a repository with one kernel, in two versions."""
    git("init", "-q", root=tmp_path)
    (tmp_path / "kernels").mkdir()
    commits = []
    for text in ("one", "two"):
        (tmp_path / "kernels" / "a.cu").write_text(text)
        (tmp_path / "kernels" / "notes.txt").write_text("no kernel")
        git("add", "-A", root=tmp_path)
        author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        git(*author, "commit", "-qm", text, root=tmp_path)
        commits.append(git("rev-parse", "HEAD", root=tmp_path).decode().strip())
    return tmp_path, commits


def result_of(folder, commit, digest):
    path = folder / "gpu.json"
    path.write_text(json.dumps({"commit": commit, "kernels": digest}))
    return path


@pytest.mark.nightly
@pytest.mark.skipif(unavailable_reason("cuda") is not None, reason="cuda runs neither here nor emulated")
@pytest.mark.parametrize("work", ["steps", "sequences", "steppers", "pools"])
def test_sanitizer_programs_run(work):
    """A mistake in them would otherwise only show on a machine with a GPU."""
    module = runpy.run_path(str(ROOT / "benchmarks" / "sanitize.py"))
    module[work]("bfloat16", np.random.default_rng(0))


@pytest.mark.skipif(unavailable_reason("cuda") is not None, reason="cuda runs neither here nor emulated")
def test_sanitizer_programs_check_results(monkeypatch):
    """A pool that steps what it must not, and a Stepper that doesn't step, raise."""
    module = runpy.run_path(str(ROOT / "benchmarks" / "sanitize.py"))
    monkeypatch.setattr(StatePool, "check", lambda pool: None)
    with pytest.raises(AssertionError):
        module["pools"]("float32", np.random.default_rng(0))
    monkeypatch.setattr(Stepper, "output", property(lambda stepper: np.full(3, np.nan)))
    with pytest.raises(AssertionError):
        module["steppers"]("float32", np.random.default_rng(0))


@pytest.mark.skipif(git("--version") is None, reason="git is not installed")
def test_results_are_checked(repository, monkeypatch):
    root, (first, second) = repository
    old, new = sources.digest_of({"a.cu": b"one"}), sources.digest_of({"a.cu": b"two"})
    monkeypatch.setattr(sources, "digest", lambda: new)
    assert check(result_of(root, second, new), root) is None
    assert check(result_of(root, first, old), root) == "gpu.json is older than today's kernels"
    with pytest.raises(AssertionError, match="not those of its commit"):
        check(result_of(root, first, new), root)
    for commit in ("0" * 40, "unknown"):
        with pytest.raises(AssertionError, match="git does not know the commit"):
            check(result_of(root, commit, new), root)
    assert "does not know" in check(result_of(root, "unknown", new), root.parent), "without git, no result can be wrong"


def test_digest_at_head_is_the_packages():
    """A run writes the package's digest, and the check computes the commit's."""
    at_head = digest_at("HEAD")
    if at_head is None:
        pytest.skip("this is not a git checkout")
    if git("status", "--porcelain", "--", "kernels"):
        pytest.skip("kernels/ has uncommitted changes")
    assert at_head == sources.digest()


def with_results(folder, results):
    """Write a README.md into a folder, and results beside it."""
    readme = folder / "README.md"
    readme.write_text(f"before\n{keep.BEGIN}\nold\n{keep.END}\nafter\n")
    paths = [folder / f"{number}.json" for number in range(len(results))]
    for path, content in zip(paths, results, strict=True):
        path.write_text(json.dumps(content))
    return readme, paths


def result(threads=1, **facts):
    """Return a result of a few sizes, as pytest-benchmark writes it, with more than is kept."""
    entries = []
    for T, kind in ((1, "step"), (100, "sequence")):
        for N in (128, 256):
            for B in (1, 32, 256):
                for peer, factor in (("fusedlstm", 1), ("fusedlstm out=", 0.9), ("torch", 2), ("a part", 0.1)):
                    info = {"kind": kind, "case": kind, "T": T, "B": B, "I": N, "N": N, "dtype": "float32"}
                    info |= {"peer": peer, "ours": "fused" in peer, "part": "part" in peer}
                    info |= {"threads": threads, "device": "cpu", "P": None, "layers": 1}
                    stats = {"median": 1e-6 * T * B * N * factor, "p10": 1e-6, "p90": 1.0, "rounds": 5}
                    group = f"{kind}, float32: {'T = 100, ' if T > 1 else ''}B = {B}, N = I = {N}"
                    name = f"test_{kind}[{B}-{N}-{peer}]"
                    entries.append({"group": group, "name": name, "extra_info": info, "stats": stats, "params": "long"})
    facts = {"cpu": "A CPU", "cores": 8, "commit": "c" * 40, "versions": {"fusedlstm": "1.2"}, **facts}
    machine = {"node": "whose-machine", "cpu": {"flags": ["avx"]}, "facts": facts}
    return {
        "machine_info": machine,
        "commit_info": {"id": facts["commit"], "dirty": False, "branch": "whose-branch"},
        "datetime": "2030-01-02T03:04:05",
        "benchmarks": entries,
    }


def test_results_are_kept(tmp_path):
    """Results are kept by machine and threads, anonymously, with a report. README.md shows those for one thread."""
    readme, paths = with_results(tmp_path, [result(), result(threads=2)])
    results = tmp_path / "results"
    written = keep.keep(paths, results, readme)
    folder = results / "a-cpu-8-cores"
    assert written == [folder / f"benchmarks-cpu-{one}.json" for one in ("1-thread", "2-threads")] + [readme]
    for old, new in zip(paths, written, strict=False):
        assert "whose" not in new.read_text()
        assert "avx" not in new.read_text()
        assert runs.load(new).rows == runs.load(old).rows
        assert runs.load(new).facts == runs.load(old).facts
    assert "A CPU, 2 threads" in (folder / "report.md").read_text()
    text = readme.read_text()
    assert text.startswith(f"before\n{keep.BEGIN}\n\n**A CPU, 8 cores** (")
    assert text.endswith(f"{keep.END}\nafter\n")
    assert "(benchmarks/results/a-cpu-8-cores/report.md)" in text
    assert "| float32, 1 thread | how | B = 1 | B = 32 | B = 256 |" in text
    assert "| 1 step, N = I = 256 | fusedlstm | 256 µs, 2.00 (torch) | 8.19 ms, 2.00 (torch) |" in text
    assert "| 1 step, N = I = 256 | fusedlstm out= | 230 µs, 2.22 (torch) | 7.37 ms, 2.22 (torch) |" in text
    assert text.count("| 100 steps, N = I = 128 | fusedlstm |") == 1  # for one thread only
    assert "2 threads" not in text
    assert "2030-01-02, commit cccccccccc, fusedlstm 1.2, one process, so no verdicts:" in text
    assert keep.with_tables(text, results) == text


def test_kept_processes_have_verdicts(tmp_path, monkeypatch):
    """README.md says how many processes there were, and the verdict of each cell."""
    monkeypatch.setattr(report, "_draw", lambda runs: None)
    content = result(rounds=8)
    for entry in content["benchmarks"]:
        entry["stats"]["processes"] = [entry["stats"]["median"]] * 8
    readme, (path,) = with_results(tmp_path, [content])
    written, _ = keep.keep([path], tmp_path / "results", readme)
    assert len(runs.load(written).rows[0].processes) == 8
    assert "fusedlstm 1.2, 8 processes a library:" in readme.read_text()
    assert "| 1 step, N = I = 256 | fusedlstm | 256 µs, 2.00 (torch), faster |" in readme.read_text()


def test_tables_show_default_kernels(tmp_path, monkeypatch):
    """Kernels chosen by name, and TF32, don't count, however fast."""
    monkeypatch.setattr(report, "_draw", lambda runs: None)
    content = result()
    faster = []
    for more in ({"peer": "fusedlstm Stepper, kernel=simt"}, {"precision": "high"}):
        for entry in content["benchmarks"]:
            if entry["extra_info"]["peer"] == "fusedlstm":
                stats = entry["stats"] | {"median": entry["stats"]["median"] / 100}
                faster.append({**entry, "stats": stats, "extra_info": entry["extra_info"] | more})
    texts = []
    for number, entries in enumerate((content["benchmarks"], content["benchmarks"] + faster)):
        (tmp_path / str(number)).mkdir()
        readme, paths = with_results(tmp_path / str(number), [{**content, "benchmarks": entries}])
        keep.keep(paths, tmp_path / str(number) / "results", readme)
        texts.append(readme.read_text())
    assert texts[0] == texts[1]
    assert "2.22 (torch)" in texts[0]


def test_newer_result_replaces_older(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_draw", lambda runs: None)  # drawing takes seconds
    readme, (path,) = with_results(tmp_path, [result()])
    keep.keep([path], tmp_path / "results", readme)
    newer = result(commit="d" * 40)
    path.write_text(json.dumps(newer))
    keep.keep([path], tmp_path / "results", readme)
    assert "dddd" in readme.read_text()
    assert "cccc" not in readme.read_text()
    assert len(list(tmp_path.glob("results/*/*.json"))) == 1


@pytest.mark.parametrize("commit", ["c" * 40 + "+", "unknown", None])
def test_results_without_a_commit_are_not_kept(commit, tmp_path):
    readme, paths = with_results(tmp_path, [result(), result(commit=commit)])
    before = readme.read_text()
    with pytest.raises(runs.ResultsError, match=r"1\.json: its commit is .*: only times of a commit without"):
        keep.keep(paths, tmp_path / "results", readme)
    assert readme.read_text() == before
    assert not (tmp_path / "results").exists()


def test_readme_without_marks_raises(tmp_path):
    readme, paths = with_results(tmp_path, [result()])
    readme.write_text("no marks")
    with pytest.raises(runs.ResultsError, match=r"README\.md has no lines"):
        keep.keep(paths, tmp_path / "results", readme)
    assert not (tmp_path / "results").exists()


def test_quick_run_without_git_is_kept(tmp_path, monkeypatch):
    """gpu.sh runs a few sizes, and gets the commit from a variable."""
    monkeypatch.setattr(report, "_draw", lambda runs: None)
    content = result()
    content["commit_info"]["id"] = "unknown"
    content["benchmarks"] = [
        entry
        for entry in content["benchmarks"]
        if (entry["extra_info"]["B"], entry["extra_info"]["N"], entry["extra_info"]["T"]) in {(1, 128, 1), (32, 256, 1)}
    ]
    readme, (path,) = with_results(tmp_path, [content])
    keep.keep([path], tmp_path / "results", readme)
    assert "| 1 step, N = I = 256 | fusedlstm out= |  | 7.37 ms, 2.22 (torch) |" in readme.read_text()
    assert "commit cccccccccc, fusedlstm 1.2, one process" in readme.read_text()


def test_readme_has_the_kept_figures():
    text = keep.README.read_text(encoding="utf-8")
    assert keep.with_tables(text) == text
    figures = re.compile(r"\d (?:ns|µs|ms)\b")
    before, _, rest = text.partition(keep.BEGIN)
    assert not figures.search(before + rest.partition(keep.END)[2]), "a figure that is in no result"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/benchmarks-*.json")), ids=lambda path: path.name)
def test_kept_results_have_a_commit(path):
    run = runs.load(path)
    assert path.name == keep.name_of(run)
    assert path.parent.name == keep.folder_of(run)
    if git("cat-file", "-e", f"{run.facts['commit']}^{{commit}}") is None:
        assert git("rev-parse", "--is-shallow-repository") != b"false\n", f"git does not know {run.facts['commit']}"
