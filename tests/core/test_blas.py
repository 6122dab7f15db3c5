"""Facts and advice about NumPy's BLAS. Looking them up never fails."""

import ctypes
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from fusedlstm.backends.numpy import blas
from fusedlstm.cli import main as command_line

from support.places import ROOT

OLD = {"X86_V2"}
AVX2 = OLD | {"AVX2", "X86_V3"}
AVX512 = AVX2 | {"AVX512_SKX", "X86_V4"}


@pytest.mark.parametrize(
    ("kernel", "simd", "wanted"),
    [
        ("Haswell", AVX512, "set OPENBLAS_CORETYPE=SkylakeX before Python starts"),
        ("HASWELL", AVX512, "it uses AVX2 where this one has AVX-512"),
        ("Zen", {"AVX512_SKX"}, "SkylakeX"),
        ("generic", AVX2, "it uses SSE where this one has AVX2; set OPENBLAS_CORETYPE=Haswell"),
        ("Sandybridge", AVX2, "Haswell"),
        ("Katmai", {"AVX"}, "Sandybridge"),
        ("SkylakeX", AVX512, None),
        ("Cooperlake", AVX512, None),
        ("Haswell", AVX2, None),
        ("Prescott", OLD, None),
        ("NEOVERSEN1", {"NEON", "ASIMD"}, None),
        ("a kernel of tomorrow", AVX512, None),
        (None, AVX512, None),
    ],
)
def test_advice(kernel, simd, wanted):
    said = blas.advise(kernel, simd, {})
    if wanted is None:
        assert said is None
    else:
        assert wanted in said


def test_advice_to_unset_the_variable():
    said = blas.advise("Haswell", AVX512, {"OPENBLAS_CORETYPE": "Haswell"})
    assert said.endswith("OPENBLAS_CORETYPE=Haswell is set: unset it")


def test_facts_describe_the_running_blas():
    """A fresh process reports the thread count and the kernel that it was given."""
    if blas.facts()["kernel"] is None:
        pytest.skip("needs a NumPy with OpenBLAS")
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    # An older OpenBLAS falls back to Prescott's kernel on a processor that it doesn't know.
    other = "Nehalem" if blas.facts()["kernel"] == "Prescott" else "Prescott"
    if platform.machine().lower() in {"x86_64", "amd64"}:
        environment["OPENBLAS_CORETYPE"] = other
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from fusedlstm.backends.numpy import blas; print(*blas.facts().values(), blas.advice(), sep='\\n')",
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    name, version, kernel, threads, advice = result.stdout.splitlines()
    assert "openblas" in name
    assert version[0].isdigit()
    assert threads == "1"
    if "OPENBLAS_CORETYPE" in environment and blas._simd() & (AVX2 - OLD):
        assert kernel != blas.facts()["kernel"]
        assert f"OPENBLAS_CORETYPE={other} is set: unset it" in advice


@pytest.fixture
def search(monkeypatch):
    """Search for the library at each call, bypassing the cache."""
    monkeypatch.setattr(blas, "_openblas", blas._openblas.__wrapped__)


def test_facts_of_another_blas(monkeypatch, search):
    monkeypatch.setattr(blas, "_candidates", list)
    assert blas.facts()["kernel"] is None
    assert blas.facts()["threads"] is None
    assert blas.advice() is None
    assert blas.describe()


def test_files_that_are_not_openblas(monkeypatch, tmp_path, search):
    (tmp_path / "openblas.so").write_text("not a library")
    monkeypatch.setattr(blas, "_candidates", lambda: [tmp_path / "openblas.so", tmp_path / "missing.so"])
    assert blas.facts()["kernel"] is None
    if sys.platform == "linux":
        monkeypatch.setattr(blas, "_openblas", lambda: ctypes.CDLL(None))  # a library without OpenBLAS's functions
        assert blas.facts()["kernel"] is None


@pytest.mark.parametrize("config", [lambda **_: {}, lambda **_: None, lambda: None])
def test_facts_without_numpys_config(monkeypatch, config):
    monkeypatch.setattr(np, "show_config", config)
    assert blas.facts()["name"] is None
    assert blas.describe()
    assert blas.advice() is None


def test_info_prints_facts_and_advice(monkeypatch, capsys):
    monkeypatch.setattr(
        blas, "facts", lambda: {"name": "an-openblas", "version": "1.2", "kernel": "Haswell", "threads": 2}
    )
    monkeypatch.setattr(blas, "_simd", lambda: AVX512)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert command_line.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (index,) = (number for number, line in enumerate(lines) if line.startswith("NumPy's BLAS"))
    assert lines[index].endswith("  an-openblas 1.2, kernel Haswell, 2 threads")
    assert lines[index + 1].endswith("; set OPENBLAS_CORETYPE=SkylakeX before Python starts")
    monkeypatch.setattr(blas, "_simd", lambda: AVX2)
    assert command_line.main(["info"]) == 0
    assert "older processors" not in capsys.readouterr().out
