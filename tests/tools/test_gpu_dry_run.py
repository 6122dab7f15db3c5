"""benchmarks/gpu.sh itself, with a little of each part, on the fake driver."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import facts, run, table

from support.emulated import needs_emulation
from support.places import ROOT

# Parts that a machine without a GPU can't run.
ABSENT = {"memcheck": "not run", "racecheck": "not run", "profiler": "not run"}


def gpu_sh(*arguments, cwd=None):
    """Run the script, and return what it said and its status."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment |= {"PYTHON": sys.executable, "COMMIT": "c" * 40}
    words = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@needs_emulation
def test_short_dry_run(tmp_path):
    """Relative folders of results and of wheels are in the user's current folder."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "broken-1.0-py3-none-any.whl").write_text("no wheel")
    asked = ("--only", "primitives,profiler")
    ended = gpu_sh("results", "wheels", "--dry-run", *asked, cwd=tmp_path)
    content = json.loads((tmp_path / "results" / "gpu.json").read_text())
    parts = {part["name"]: part for part in content["parts"]}
    assert ended.returncode == 1, ended.stderr
    assert parts["wheels"]["status"] == "failed", "a wheel that can't be installed stops no other part"
    assert parts["wheels"]["why"].endswith("broken-1.0-py3-none-any.whl is invalid."), (
        "chosen parts should use the wheels, too"
    )
    assert {name: parts[name]["status"] for name in ("facts", "primitives", "profiler")} == {
        "facts": "passed",
        "primitives": "passed",
        "profiler": "not run",
    }
    assert parts["primitives"]["tests"]["passed"] >= 4
    assert parts["primitives"]["kernels"]["misses"] >= 4
    assert content["dry_run"] is True
    assert content["gpu"] == "fake GPU"
    assert {"date", "commit", "kernels", "driver", "cuda", "nvrtc", "cupy", "numpy", "python"} <= set(content)
    assert set(facts.OPTIONAL) <= set(content)
    assert "a dry run" in ended.stdout


@pytest.mark.nightly
@needs_emulation
def test_dry_run(tmp_path):
    """Every part runs, and eight files are left."""
    ended = gpu_sh(tmp_path, "--dry-run", "--limit", "3000")
    content = json.loads((tmp_path / "gpu.json").read_text())
    parts = {part["name"]: part for part in content["parts"]}
    others = {name: part["status"] for name, part in parts.items() if part["status"] != "passed"}
    assert others == ABSENT, ended.stdout
    assert ended.returncode == 0
    assert all(part["tests"]["passed"] for part in parts.values() if "tests" in part)
    assert {path.name for path in tmp_path.iterdir()} == set(run.FILES)
    timed = json.loads((tmp_path / "benchmarks.json").read_text())["benchmarks"]
    assert {entry["name"].partition("[")[0] for entry in timed} >= {"test_step", "test_pool", "test_sequence"}


def test_unknown_part_is_named(capsys, tmp_path):
    with pytest.raises(SystemExit) as raised:
        command.main(["--only", "facts,nothing", str(tmp_path)])
    assert raised.value.code == 2
    assert "--only: wanted some of facts, selftest, " in capsys.readouterr().err


def test_threads_are_set_before_python_starts(tmp_path, monkeypatch):
    """Plugins of pytest may import NumPy before our conftest. TF32 is left to each library."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--passed-to=somewhere")
    found = command.environment(tmp_path / "site", tmp_path / "kernels", dry=False)
    assert found["OPENBLAS_NUM_THREADS"] == found["OMP_NUM_THREADS"] == "1"
    assert found["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] == "1"
    assert not {"NVIDIA_TF32_OVERRIDE", "PYTEST_ADDOPTS"} & found.keys()
    assert str(tmp_path / "site") in found["PYTHONPATH"].split(os.pathsep)
    assert found["FUSEDLSTM_CACHE_DIR"] == found["FUSEDLSTM_TEST_CACHE_DIR"]


def test_packages_among_wheels_count(tmp_path):
    (tmp_path / "no_such_package-1.0-py3-none-any.whl").write_text("")
    assert command.has("no-such-package", tmp_path)
    assert not command.has("no-such-package", None)
    assert command.has("pytest", None)


def test_machine_without_cuda_ends_at_once(tmp_path, monkeypatch, capsys):
    """The facts say why."""
    monkeypatch.setattr(facts, "unavailable_reason", lambda backend: "there is no NVIDIA driver")
    assert facts.main(tmp_path / "facts.json") == 1
    assert json.loads((tmp_path / "facts.json").read_text())["cuda_runs"] == "there is no NVIDIA driver"
    assert capsys.readouterr().out.endswith("cuda can't run here: there is no NVIDIA driver\n")


def test_facts_are_whole_at_any_time(tmp_path, monkeypatch):
    """A part may be killed while it writes."""
    path = tmp_path / "facts.json"
    monkeypatch.setattr(facts, "unavailable_reason", lambda backend: "there is no NVIDIA driver")
    monkeypatch.setattr(facts, "optional", lambda: {"opened": opened.append(path.open())})
    opened = []
    facts.main(path)
    with opened[0] as before:
        assert "opened" not in json.load(before), "the second file replaces the first"
    assert "opened" in json.loads(path.read_text())


def test_absent_packages_are_facts(monkeypatch):
    more = {"no_such": ("no-such", "no_such.part"), "broken": ("broken", "json.tool.nothing")}
    monkeypatch.setattr(facts, "OPTIONAL", facts.OPTIONAL | more)
    found = facts.optional()
    assert found["no_such"] == "absent"
    assert found["broken"].startswith("can't be imported: ")
    assert found["hypothesis"][0].isdigit()


def test_dry_rows_exist():
    assert set(table._FEW) == set(table.BENCHMARKS)
