"""The backends to test, by name: numpy, and cuda on a GPU or emulated on the fake driver."""

import ctypes
import importlib.util
import os
import subprocess
import sys
import types

import pytest

import driver


def why_no_gpu():
    """Return why there is no GPU to test on, or None. CuPy is not imported here, as the fake driver must come first."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "the NVIDIA driver is not installed"
    program = "from fusedlstm.backends.cuda.runtime import probe; print(probe.why_not() or '')"
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or asked.stderr.strip() or None


# Named backends must run: a missing one fails its tests instead of skipping them.
NAMED = os.environ.get("FUSEDLSTM_TEST_BACKENDS")
NO_GPU = why_no_gpu()
NO_EMULATOR = driver.missing()


def choose():
    """Return the backends to test: those named or, by default, numpy and cuda, on a GPU if there is one."""
    if NAMED:
        return NAMED.split(",")
    if NO_GPU is None:
        return ["numpy", "cuda"]
    required = os.environ.get("FUSEDLSTM_REQUIRE_EMULATION") == "1"
    return ["numpy"] if NO_EMULATOR and not required else ["numpy", "emulated"]


BACKENDS = choose()
assert not {"cuda", "emulated"} <= set(BACKENDS), "name cuda or emulated, not both"
if "emulated" in BACKENDS:
    driver.install()


# For tests of cuda alone. If it can't run, they are skipped, or fail if it was named.
needs_cuda = pytest.mark.skipif(BACKENDS == ["numpy"], reason=f"cuda runs neither here ({NO_GPU}) nor emulated")


needs_cupy = pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")


def backend_name(request):
    """Return the name of a tested backend, as a cell takes it."""
    if request.param == "cuda" and NO_GPU:
        pytest.fail(f"cuda was asked for and can't run here: {NO_GPU}")
    return "cuda" if request.param == "emulated" else request.param


# For Steppers and pools: test both ways of stepping on a GPU, whatever the table would choose.
ONE_KERNEL = ", one kernel"
WAYS = [*BACKENDS, *(f"{name}{ONE_KERNEL}" for name in BACKENDS if name != "numpy")]


def backend_in_a_way(request, monkeypatch):
    """Return the name of a backend, as a cell takes it. The backend then steps in one of WAYS."""
    name = request.param.removesuffix(ONE_KERNEL)
    if name != "numpy":
        from fusedlstm.backends import kernel_choice

        def chosen(B, sizes, dtype, precision, capability, forced=None, **_):
            if name == request.param:
                return (forced or "matmul",) * len(sizes)
            return kernel_choice.one_kernel_layers(B, sizes, dtype, precision, capability, forced)

        monkeypatch.setattr(kernel_choice, "choose_layers", chosen)
    return backend_name(types.SimpleNamespace(param=name))
