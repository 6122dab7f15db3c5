"""The choice of a backend, and the reason why CUDA can't run."""

import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from fusedlstm import BackendUnavailableError, LSTMCell, LSTMWeights, available_backends
from fusedlstm.arrays import dtypes
from fusedlstm.backends import select
from fusedlstm.backends.cuda.runtime import probe
from fusedlstm.backends.numpy import memory
from fusedlstm.backends.select import unavailable_reason

from support.places import ROOT

WEIGHTS = LSTMWeights.random(3, 4, seed=0)


class CUDARuntimeError(RuntimeError):
    def __init__(self, status, text=""):
        super().__init__(text)
        self.status = status


def fake_cupy(*, devices=1, driver=13000, runtime=13020, version="14.2.0"):
    """Return the part of CuPy that the probe needs. `devices` may be an error to raise."""

    def count():
        if isinstance(devices, Exception):
            raise devices
        return devices

    functions = types.SimpleNamespace(
        getDeviceCount=count,
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: runtime,
        CUDARuntimeError=CUDARuntimeError,
    )
    return types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=functions), __version__=version)


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Pretend that this CuPy, or none, is installed, and forget what the process found before."""
    probe._probe.cache_clear()
    select._said.clear()
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("FUSEDLSTM_BACKEND", raising=False)

    def missing():
        raise RuntimeError("libnvrtc.so.13 was not found")

    def use(cupy, libraries=("nvrtc", "cublas")):
        found = None if cupy is None else object()
        monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: found)
        if cupy is not None:
            monkeypatch.setitem(sys.modules, "cupy", cupy)
        for library in ("nvrtc", "cublas"):
            module = types.ModuleType(library) if library in libraries or library == "nvrtc" else None
            monkeypatch.setitem(sys.modules, f"cupy_backends.cuda.libs.{library}", module)
            if library == "nvrtc":  # CuPy looks for the library at the first call, not on import
                module.getVersion = lambda: (13, 0) if "nvrtc" in libraries else missing()
        for name in ("cupy_backends", "cupy_backends.cuda", "cupy_backends.cuda.libs"):
            package = types.ModuleType(name)
            package.__path__ = []
            monkeypatch.setitem(sys.modules, name, package)
        monkeypatch.setattr(probe, "_cannot_compile_for", lambda index: None)

    yield use
    probe._probe.cache_clear()
    select._said.clear()


REASONS = {
    "no CuPy": (None, "CuPy is not installed (fusedlstm's extra cuda13, or cuda12, brings it)"),
    "no driver": (fake_cupy(devices=CUDARuntimeError(35), driver=0), "there is no NVIDIA driver"),
    "old driver": (
        fake_cupy(devices=CUDARuntimeError(35), driver=11040),
        "the NVIDIA driver is too old: it supports CUDA 11.4, and this CuPy is made for CUDA 13.2",
    ),
    "no device": (
        fake_cupy(devices=CUDARuntimeError(100)),
        "there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it",
    ),
    "none visible": (fake_cupy(devices=0), "there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it"),
    "old CuPy": (fake_cupy(version="13.6.0"), "CuPy 13.6.0 is too old: 14 or later is needed"),
    "something else": (
        fake_cupy(devices=CUDARuntimeError(999, "cudaErrorUnknown: unknown error")),
        "the NVIDIA driver reports: cudaErrorUnknown: unknown error",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_unavailable_cuda_raises_the_reason(case, pretend):
    cupy, reason = REASONS[case]
    pretend(cupy)
    with pytest.raises(BackendUnavailableError) as caught:
        LSTMCell(WEIGHTS, backend="cuda")
    assert str(caught.value) == f"backend='cuda' can't run here: {reason}"
    assert available_backends() == ("numpy",)
    assert LSTMCell(WEIGHTS).backend == "numpy"


@pytest.mark.parametrize("missing", ["NVRTC", "cuBLAS"])
def test_missing_libraries(missing, pretend):
    pretend(fake_cupy(), libraries={"nvrtc", "cublas"} - {missing.lower()})
    with pytest.raises(BackendUnavailableError, match=rf"{missing} is not installed \(fusedlstm's extra"):
        LSTMCell(WEIGHTS, backend="cuda")


def test_index_of_a_missing_gpu_raises(pretend):
    pretend(fake_cupy(devices=2))
    assert probe.why_not(1) is None
    with pytest.raises(BackendUnavailableError, match="there is no GPU 2: found 2, numbered from 0"):
        LSTMCell(WEIGHTS, backend="cuda:2")


def test_broken_cupy(pretend, monkeypatch):
    pretend(fake_cupy())
    monkeypatch.setitem(sys.modules, "cupy", None)  # import raises ImportError
    with pytest.raises(BackendUnavailableError, match="CuPy is installed but can't be imported"):
        LSTMCell(WEIGHTS, backend="cuda")


def test_environment_variable_chooses_backend(pretend, monkeypatch):
    pretend(None)
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "numpy")
    assert LSTMCell(WEIGHTS).backend == "numpy"
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "cuda")
    with pytest.raises(BackendUnavailableError, match="FUSEDLSTM_BACKEND='cuda' can't run here: CuPy is not"):
        LSTMCell(WEIGHTS)
    assert LSTMCell(WEIGHTS, backend="numpy").backend == "numpy", "the argument should override the variable"
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "gpu")
    with pytest.raises(ValueError, match="FUSEDLSTM_BACKEND: wanted 'numpy', 'cuda' or"):
        LSTMCell(WEIGHTS)
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "")
    assert LSTMCell(WEIGHTS).backend == "numpy"


def test_log_lines(pretend, caplog):
    """Log each cell's backend, and once why CUDA isn't used: a warning if CuPy is installed."""
    caplog.set_level(logging.INFO, logger="fusedlstm")
    pretend(fake_cupy(devices=CUDARuntimeError(35), driver=0))
    LSTMCell(WEIGHTS)
    LSTMCell(WEIGHTS)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    chosen = ("INFO", "LSTMCell(LSTMWeights(I=3, N=4, float32, bias), backend='numpy') on cpu")
    why = ("WARNING", "running on numpy, because cuda can't run here: there is no NVIDIA driver")
    assert lines == [why, chosen, chosen]


def test_no_warning_without_cupy(pretend, caplog):
    pretend(None)
    LSTMCell(WEIGHTS)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.skipif(unavailable_reason("cuda") is not None, reason="needs cuda, on a GPU or emulated")
def test_requirements_of_compiling(monkeypatch):
    """CUDA needs headers that match NVRTC, and a GPU that NVRTC supports."""
    from fusedlstm.backends.cuda.runtime import compile as compiler

    assert probe._cannot_compile_for.__wrapped__(0) is None
    with monkeypatch.context() as patch:
        patch.setattr(compiler.nvrtc, "getVersion", lambda: (12, 2))
        compiler.cuda_headers.cache_clear()
        assert "NVRTC is for CUDA 12, but the headers in" in probe._cannot_compile_for.__wrapped__(0)
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "cuda_headers", lambda: "")
        patch.setattr(compiler.nvrtc, "getSupportedArchs", lambda: [999])
        assert "can't compile for a GPU as old as this one" in probe._cannot_compile_for.__wrapped__(0)
    with monkeypatch.context() as patch:
        from cuda import pathfinder

        patch.setattr(pathfinder, "find_nvidia_header_directory", lambda name: None)
        compiler.cuda_headers.cache_clear()
        assert "CUDA's headers are not installed" in probe._cannot_compile_for.__wrapped__(0)
    compiler.cuda_headers.cache_clear()


@pytest.mark.parametrize("kind", ["none can be made", "can't be written", "no home"])
def test_an_unusable_home_is_tolerated(kind, pretend, monkeypatch, tmp_path):
    """CuPy creates its cache folder on import, and writes to it when it compiles."""
    monkeypatch.delenv("CUPY_CACHE_DIR")
    monkeypatch.setattr(probe.cache.tempfile, "gettempdir", lambda: str(tmp_path))
    home = tmp_path / "home"
    if kind == "none can be made":
        home.write_text("a file where a folder should be")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(tmp_path)
    if kind == "can't be written":
        (home / ".cupy" / "kernel_cache").mkdir(parents=True)
        real = os.access
        monkeypatch.setattr(probe.os, "access", lambda path, mode: ".cupy" not in str(path) and real(path, mode))
    if kind == "no home":
        monkeypatch.setattr(probe.os.path, "expanduser", lambda path: path)
    pretend(fake_cupy())
    assert probe.why_not() is None
    folder = Path(os.environ.pop("CUPY_CACHE_DIR"))
    assert folder.parent == tmp_path
    assert folder.is_dir()
    assert not (tmp_path / "~").exists()


def test_a_good_home_is_left_to_cupy(pretend, monkeypatch, tmp_path):
    monkeypatch.delenv("CUPY_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    pretend(fake_cupy())
    assert probe.why_not() is None
    assert "CUPY_CACHE_DIR" not in os.environ


def test_backend_of_refuses_other_arrays():
    with pytest.raises(
        TypeError, match=r"gates: wanted an array of NumPy or CuPy, or of a library with DLPack; got list"
    ):
        select.backend_of([1.0], "gates")
    assert select.backend_of(np.zeros(1)).name == "numpy"


def run(code, **environment):
    """Run code in a fresh Python that sees this checkout."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )


def test_import_is_light(tmp_path):
    """Importing fusedlstm imports NumPy alone, writes no file and prints nothing."""
    heavy = ["cupy", "torch", "safetensors", "ml_dtypes", "tqdm", "cuda", "hypothesis"]
    code = f"import sys, numpy; import fusedlstm; print([m for m in {heavy} if m in sys.modules])"
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = run(code, **home, PYTHONDONTWRITEBYTECODE="1")
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")
    assert list(tmp_path.iterdir()) == []


def test_numpy_cell_does_not_import_cupy():
    code = (
        "import sys, fusedlstm as f; c = f.LSTMCell(f.LSTMWeights.random(3, 4, seed=0), backend='numpy');"
        "c(c.asarray([[1, 2, 3]]), c.zero_state(1)); print('cupy' in sys.modules)"
    )
    result = run(code)
    assert (result.returncode, result.stdout) == (0, "False\n"), result.stderr


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_large_arrays_are_ordinary_arrays(dtype):
    """They don't share memory, are writable and aligned, and can be exported."""
    dtype = dtypes.resolve(dtype)
    shape = (3, memory._LARGE // dtype.itemsize)
    one, other = (select.choose("numpy").empty(shape, dtype) for _ in range(2))
    assert (one.shape, one.dtype, type(one)) == (shape, dtype, np.ndarray)
    assert one.flags.c_contiguous
    assert one.flags.writeable
    assert one.ctypes.data % 64 == 0
    assert not np.may_share_memory(one, other)
    one[...], other[...] = 1, 2
    assert one[2, -1] == 1
    assert not memoryview(one.view(np.uint8)).readonly
