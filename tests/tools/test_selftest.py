"""The command selftest passes on every backend, and finds planted faults."""

import itertools
import json
import re

import pytest

import fusedlstm
from fusedlstm.arrays import dtypes
from fusedlstm.backends import kernel_choice, select, sequence_choice
from fusedlstm.backends.uses import OBJECTS
from fusedlstm.cli import main as command_line
from fusedlstm.cli import selftest as command
from fusedlstm.selftest import arithmetics, objects, reference
from fusedlstm.selftest.checks import NUMPY, checks_on
from fusedlstm.stepper import Stepper

from support import driver_child
from support.backends import needs_cuda
from support.places import KERNELS

NAMES = arithmetics.NAMES


@pytest.fixture
def run(capsys, tmp_path):
    """Return a function that runs the command and returns its status, its lines, and its JSON."""

    def run_(*arguments):
        path = tmp_path / "result.json"
        status = command_line.main(["selftest", "--json", str(path), *arguments])
        said = capsys.readouterr()
        assert not said.err
        return status, said.out.splitlines(), json.loads(path.read_text())

    return run_


def lines_of_checks(lines):
    return [line for line in lines if re.search(r" ms  (passed|FAILED)", line)]


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(select, "unavailable_reason", lambda name, index=0: None if name == NUMPY else "it is away")


# Every check passes.


def test_numpy_passes(run):
    status, lines, found = run("--backend", NUMPY)
    assert status == found["status"] == 0
    assert len(lines_of_checks(lines)) == len(found["checks"]) > 100
    assert {check["kind"] for check in found["checks"]} == set(OBJECTS)
    assert {check["arithmetic"] for check in found["checks"]} == set(NAMES) - {"tf32"}
    assert lines[-1] == f"{len(found['checks'])} checks passed"
    assert found["running"] is None
    assert found["facts"]["fusedlstm"] == fusedlstm.__version__
    assert found["facts"]["kernels"] == select.digest_of_kernels()


@needs_cuda
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] * (name not in ("float32", "float64"))) for name in NAMES]
)
def test_gpu_passes(name, run):
    """Every object and every kernel that serves a dtype is tested."""
    status, lines, found = run("--backend", "cuda", "--dtype", name)
    assert status == 0, "\n".join(lines)
    about = arithmetics.ARITHMETICS[name]
    kernels = [k for k in kernel_choice.NAMES if kernel_choice.reason_against(k, about.dtype, about.precision) is None]
    wanted = {(kernel, kind) for kernel in kernels for kind in OBJECTS}
    if kernel_choice.reason_against("scan", about.dtype, about.precision) is None:
        wanted.add(("scan", "sequence"))
    assert {(check["kernel"], check["kind"]) for check in found["checks"]} == wanted
    assert {"GPU", "driver", "CUDA of CuPy", "NVRTC", "CuPy", "nvmath-python"} <= set(found["facts"])
    assert not found["not tested"]


@needs_cuda
def test_one_kernel_passes(run):
    status, lines, found = run("--dtype", "float64", "--kernel", "matmul")
    assert status == 0, "\n".join(lines)
    assert {(check["arithmetic"], check["kernel"]) for check in found["checks"]} == {("float64", "matmul")}
    assert lines[0].startswith("kernels: ")


def test_checks_have_their_own_names():
    checks = [*checks_on("cuda:0", NAMES, sequence_choice.NAMES), *checks_on(NUMPY, NAMES, ())]
    assert len(set(map(str, checks))) == len(checks)


# Faults.


def failed(found):
    return {check["name"] for check in found["checks"] if check["outcome"] != "passed"}


def test_wrong_formula_is_found(run, monkeypatch):
    """An output gate that sees a wrong c changes only cells with peepholes."""
    real, calls = reference.formula.gate, itertools.count(1)

    def gate(weights, z, p, c):
        is_output = next(calls) % 3 == 0
        return real(weights, z, p, c + 1e-3 if is_output else c)

    monkeypatch.setattr(reference.formula, "gate", gate)
    status, lines, found = run("--backend", NUMPY, "--dtype", "float64")
    assert status == found["status"] == 1
    peepholes = {check["name"] for check in found["checks"] if check["form"] in ("peepholes", "projection")}
    assert failed(found) == peepholes
    assert f"{len(peepholes)} of {len(found['checks'])} checks FAILED" in lines[-1]


MUTANT = """
    import shutil, sys
    from pathlib import Path
    from fusedlstm.backends.cuda.runtime import sources
    kernels, copy, file, old, new = Path({kernels!r}), Path({copy!r}), {file!r}, {old!r}, {new!r}
    shutil.copytree(kernels, copy)
    text = (copy / file).read_text()
    assert text.count(old) == 1
    (copy / file).write_text(text.replace(old, new))
    sources.folder = lambda: copy
    from fusedlstm.cli.main import main
    sys.exit(main(["selftest", "--backend", "cuda", "--dtype", "float32", "--kernel", "matmul", "--json", {json!r}]))
"""


@driver_child.of_the_driver
def test_mutated_kernel_is_found(tmp_path):
    """One kernel applies no zoneout to one row. Only the cells that have it fail."""
    plan = {"file": "finish.cu", "old": "if (ZONEOUT) {", "new": "if (ZONEOUT && row != 3) {"}
    plan |= {"kernels": str(KERNELS), "copy": str(tmp_path / "kernels")}
    path = tmp_path / "result.json"
    done = driver_child.run(MUTANT.format(**plan, json=str(path)))
    found = json.loads(path.read_text())
    assert done.returncode == found["status"] == 1, done.stderr
    assert failed(found) == {check["name"] for check in found["checks"] if check["form"] == "functions"}
    assert all(check["difference"] > check["tolerance"] for check in found["checks"] if check["outcome"] == "failed")


def test_raise_is_one_line_and_others_run(run, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("planted\nhere")

    monkeypatch.setattr(Stepper, "step", broken)
    status, lines, found = run("--backend", NUMPY, "--dtype", "float32")
    assert status == 1
    steppers = [check for check in found["checks"] if check["kind"] == "stepper"]
    assert failed(found) == {check["name"] for check in steppers}
    assert {check["outcome"] for check in steppers} == {"raised"}
    assert all("planted" in check["trace"] and "in broken" in check["trace"] for check in steppers)
    assert sum(line.endswith("FAILED ZeroDivisionError: planted here") for line in lines) == len(steppers)


def test_wrong_shape_raises(run, monkeypatch):
    monkeypatch.setattr(reference, "step", lambda *_: (reference.np.zeros((1, 1)), []))
    _, lines, _ = run("--backend", NUMPY, "--dtype", "float32")
    assert any("AssertionError: the result has shape (70, 32) instead of (1, 1)" in line for line in lines)


def test_not_a_number_fails(run, monkeypatch):
    real = Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda *a, **o: real(*a, **o) * float("nan"))
    status, lines, found = run("--backend", NUMPY, "--dtype", "float32")
    assert status == 1
    assert {check["difference"] for check in found["checks"] if check["outcome"] == "failed"} == {"not finite"}
    assert sum(" inf of 3.0e-06 " in line for line in lines) > 5


class LostError(Exception):
    pass


@pytest.fixture
def loses_the_gpu(monkeypatch):
    """Let the third check on a GPU raise, after which CUDA can't be called."""
    real, ran = objects.run, []

    def run_(check):
        ran.append(check)
        if len(ran) == 3:
            monkeypatch.setattr(select, "lost", lambda device: "cudaErrorIllegalAddress")
            raise LostError("cudaErrorIllegalAddress")
        return real(check)

    monkeypatch.setattr(objects, "run", run_)
    return ran


@needs_cuda
def test_lost_gpu_ends_its_checks(run, loses_the_gpu):
    status, lines, found = run("--dtype", "float32", "--dtype", "float64", "--backend", "cuda")
    assert status == 1
    assert len(found["checks"]) == len(loses_the_gpu) == 3
    assert found["checks"][2]["outcome"] == "raised"
    every = len(list(checks_on("cuda:0", ("float64", "float32"), sequence_choice.NAMES)))
    assert sum(len(group["checks"]) for group in found["left out"]) == every - 3
    why = f"after '{loses_the_gpu[2]}', CUDA can't be called in this process: cudaErrorIllegalAddress"
    assert sum(line.startswith("not run: ") and line.endswith(why) for line in lines) == len(found["left out"]) == 8


@needs_cuda
def test_numpy_is_tested_after_a_lost_gpu(run, loses_the_gpu):
    _, _, found = run("--dtype", "float32")
    assert [check["device"] for check in found["checks"][:4]] == ["cuda:0"] * 3 + [NUMPY]


@needs_cuda
def test_lost_asks_the_gpu(monkeypatch):
    """An error that was reported once doesn't count. A device that fails every call is lost."""
    import cupy

    assert select.lost("cuda:0") is None
    errors = [1]
    real = cupy.cuda.runtime.deviceSynchronize

    def synchronize():
        if errors:
            errors.pop()
            raise RuntimeError("an illegal memory access")
        return real()

    monkeypatch.setattr(cupy.cuda.runtime, "deviceSynchronize", synchronize)
    assert select.lost("cuda:0") is None
    errors[:] = [1] * 9
    assert select.lost("cuda:0") == "an illegal memory access"
    assert select.lost(NUMPY) is None


def test_interrupted_run_leaves_its_results(tmp_path, monkeypatch):
    """The file has the results so far, and names the check that was running."""
    path, real, seen = tmp_path / "result.json", objects.run, []

    def run_(check):
        content = json.loads(path.read_text())
        assert content["running"] == str(check)
        assert content["status"] is None
        seen.append(len(content["checks"]))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(check)

    monkeypatch.setattr(objects, "run", run_)
    assert command_line.main(["selftest", "--backend", NUMPY, "--json", str(path)]) == 130
    assert seen == [0, 1, 2, 3]
    assert len(json.loads(path.read_text())["checks"]) == 3


# What can't be tested.


@pytest.mark.usefixtures("no_gpu")
def test_missing_gpu_is_reported_line_by_line(run):
    status, lines, found = run("--dtype", "float32", "--dtype", "tf32")
    assert status == 0
    assert {check["device"] for check in found["checks"]} == {NUMPY}
    for kind in OBJECTS:
        for name in ("float32", "tf32"):
            pattern = rf"not tested: \d+ checks of cuda {kind} {name}, matmul, .*simt(, scan)?: it is away"
            assert sum(re.fullmatch(pattern, line) is not None for line in lines) == 1
    assert re.fullmatch(r"\d+ checks passed, and \d+ were not run", lines[-1])
    assert found["facts"]["cuda"] == "can't run: it is away"


@pytest.mark.usefixtures("no_gpu")
def test_named_gpu_that_is_missing(run):
    status, lines, found = run("--backend", "cuda:1")
    assert status == found["status"] == 3
    assert not found["checks"]
    assert lines[-1].startswith("nothing could be tested, and ")


@needs_cuda
def test_old_gpu_and_no_nvmath(run, monkeypatch):
    monkeypatch.setattr(select, "capability", lambda index: 75)
    monkeypatch.setattr(select, "reason_against_plans", lambda: "nvmath-python is away")
    monkeypatch.setattr(command, "_compile", lambda *_: None)
    status, _, found = run("--dtype", "float64", "--backend", "cuda")
    assert status == 0
    assert {(check["kernel"], check["kind"]) for check in found["checks"]} == {
        ("matmul", "cell"),
        ("matmul", "sequence"),
    }
    reasons = {group["reason"] for group in found["not tested"]}
    assert reasons == {"nvmath-python is away", kernel_choice.reason_against_device(75)}


def test_bfloat16_without_ml_dtypes(run, monkeypatch):
    def resolve(name):
        raise ImportError("bfloat16 needs the package ml_dtypes")

    monkeypatch.setattr(dtypes, "resolve", resolve)
    status, lines, _ = run("--backend", NUMPY, "--dtype", "bfloat16")
    assert status == 3
    assert sum(line.endswith("numpy: bfloat16 needs the package ml_dtypes") for line in lines) == len(OBJECTS)


def test_time_limit_names_what_is_left(run, monkeypatch):
    from fusedlstm.selftest import running

    now = iter(range(10**6))
    monkeypatch.setattr(running.time, "monotonic", lambda: next(now))
    status, lines, found = run("--backend", NUMPY, "--dtype", "float32", "--seconds", "3.5")
    assert status == 0
    assert len(found["checks"]) == 3
    every = len(list(checks_on(NUMPY, ("float32",), ())))
    assert sum(len(group["checks"]) for group in found["left out"]) == every - 3
    assert lines[-1] == f"3 checks passed, and {every - 3} were not run"
    assert any(re.fullmatch(r"not run: 4 checks of numpy cell float32, numpy: the 3\.5 seconds .*", x) for x in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "tpu"], "--backend: wanted 'numpy', 'cuda' or 'cuda:<index>'; got 'tpu'"),
        (["--backend", NUMPY, "--kernel", "simt"], "--kernel: wanted no kernel with --backend numpy; got simt"),
        (["--backend", NUMPY, "--dtype", "tf32"], "--dtype: wanted another dtype with --backend numpy; got tf32"),
        (
            ["--dtype", "float64", "--kernel", "tensor_small"],
            "--kernel: wanted a kernel for float64; got tensor_small. tensor_small multiplies float16, bfloat16, and",
        ),
        (["--json", "absent/file.json"], "--json: wanted a file in a folder that exists; got absent/file.json"),
    ],
)
def test_wrong_options_are_one_line(arguments, message, capsys):
    assert command_line.main(["selftest", *arguments]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"fusedlstm: {message}")
    assert said.err.count("\n") == 1
    assert not said.out


@pytest.mark.parametrize(
    "arguments", [["--seconds", "0"], ["--seconds", "soon"], ["--dtype", "int8"], ["--kernel", "x"]]
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(["selftest", *arguments])
    assert ended.value.code == 2
    assert "usage: fusedlstm selftest" in capsys.readouterr().err


@needs_cuda
def test_unusable_cache_is_reported(run, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUSEDLSTM_CACHE_DIR", str(tmp_path / "file" / "cache"))
    status, lines, _ = run("--dtype", "float64", "--kernel", "matmul", "--seconds", "0.001")
    assert lines[0].startswith("kernels are compiled when they are needed: ")
