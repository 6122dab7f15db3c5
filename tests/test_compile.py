"""Every instance of every kernel, compiled for every architecture by NVRTC, as on a machine with a GPU."""

import itertools
import os
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fusedlstm.weights import ACTIVATIONS

import stand_in

try:
    from fusedlstm.backends.cuda import compile as compiler
    from fusedlstm.backends.cuda import launch
except ImportError as error:  # neither CuPy nor NVRTC
    if os.environ.get("FUSEDLSTM_REQUIRE_NVRTC") == "1":
        raise
    pytest.skip(f"kernels are not compiled here: {error}", allow_module_level=True)

real_nvrtc = stand_in.real.get("nvrtc", compiler.nvrtc)
if real_nvrtc is stand_in.nvrtc:
    assert os.environ.get("FUSEDLSTM_REQUIRE_NVRTC") != "1", "NVRTC is not installed"
    pytest.skip("kernels are not compiled here: NVRTC is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def _with_real_nvrtc(monkeypatch):
    """Also where the stand-in for CuPy has its place."""
    monkeypatch.setattr(compiler, "nvrtc", real_nvrtc)


ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
DTYPES = [np.dtype(t) for t in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)]


def gate_dtypes(dtype):
    """Of the cell's own matmul, and of a caller's."""
    return {np.dtype(np.float32) if dtype.itemsize == 2 else dtype, dtype}


def assert_compiles(kernel, architecture):
    mangled, code, log = compiler.compile_kernel(
        kernel.file, kernel.name, f"-arch=sm_{architecture}", ["--ptxas-options=-v"]
    )
    assert code[:4] == b"\x7fELF", kernel.name
    assert mangled.encode() in code, kernel.name
    assert not re.search(r"[1-9]\d* bytes spill", log), f"{kernel.name} spills:\n{log}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pointwise(architecture, dtype):
    """All dtypes, widths and activations, each with all options and with none."""
    for gates, width, activation in itertools.product(gate_dtypes(dtype), (1, 4), ACTIVATIONS):
        for option in (False, True) if activation == "tanh" else (True,):
            kernel = launch.pointwise_kernel(gates, dtype, width, activation, option, option, option)
            assert_compiles(kernel, architecture)


@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=3)))
def test_pointwise_options(flags):
    """Every set of options."""
    for dtype in DTYPES:
        assert_compiles(launch.pointwise_kernel(min(gate_dtypes(dtype), key=str), dtype, 4, "tanh", *flags), 90)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_clip(architecture):
    for dtype in DTYPES:
        assert_compiles(launch.clip_kernel(dtype), architecture)


@pytest.mark.parametrize("name", ["lstm_clip<float>", "lstm_pointwise<float, float, 4, 0, true, true, true>"])
def test_portable_code_for_gpus_newer_than_nvrtc(name):
    file = "clip.cu" if "clip" in name else "pointwise.cu"
    mangled, code, _ = compiler.compile_kernel(file, name, compiler.architecture("999"))
    assert b".target sm_" in code
    assert mangled.encode() in code


def test_architectures():
    assert compiler.architecture("90") == "-arch=sm_90"
    assert compiler.architecture("999").startswith("-arch=compute_")
    with pytest.raises(RuntimeError, match="no GPU as old as this, of compute capability 35"):
        compiler.architecture("35")


def test_errors_show_the_compilers_log():
    with pytest.raises(RuntimeError, match=r"clip\.cu: lstm_clip<nonsense> does not compile .*\n.*nonsense"):
        compiler.compile_kernel("clip.cu", "lstm_clip<nonsense>", "-arch=sm_90")
    with pytest.raises(RuntimeError, match="unknown activation"):
        compiler.compile_kernel(
            "pointwise.cu", "lstm_pointwise<float, float, 1, 6, false, false, false>", "-arch=sm_90"
        )


def test_compiled_once_and_kept(tmp_path, monkeypatch):
    """The second time comes from the disk; a damaged file, or another digest, is compiled again."""
    monkeypatch.setenv("FUSEDLSTM_CACHE_DIR", str(tmp_path / "cache"))
    compiled = []
    real = compiler.compile_kernel
    monkeypatch.setattr(compiler, "compile_kernel", lambda *a: compiled.append(a) or real(*a))
    first = compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_90")
    assert compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_90") == first
    assert len(compiled) == 1
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_90") == first
    assert len(compiled) == 2
    compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_80")
    monkeypatch.setattr(compiler.sources, "digest", lambda: "another")
    compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_90")
    assert len(compiled) == 4


def test_compile_seconds_are_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FUSEDLSTM_CACHE_DIR", str(tmp_path / "cache"))
    with caplog.at_level("INFO", logger="fusedlstm"):
        compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_90")
    assert re.search(r"compiled lstm_clip<float> for -arch=sm_90 in \d+\.\d\d s", caplog.text)


@pytest.mark.parametrize("architecture", [75, 90, 120])
def test_kernels_of_the_primitives_tests(architecture):
    """Those that a GPU runs first."""
    file = str(Path(__file__).parent / "primitives.cu")
    for name in (
        *(f"{kernel}<{name}>" for kernel in ("widened", "narrowed") for name in launch._C_NAMES.values()),
        *(f"moved<{name}, 4>" for name in launch._C_NAMES.values()),
        *(f"activated<{name}, {k}>" for name in ("float", "double") for k in range(len(ACTIVATIONS))),
        *(
            f"{kernel}<float>"
            for kernel in ("sigmoids", "exponentials", "exponentials_minus_1", "magnitudes", "clipped")
        ),
    ):
        assert compiler.compile_kernel(file, name, f"-arch=sm_{architecture}")[1][:4] == b"\x7fELF"
