"""The backends to test, by name: numpy, and cuda on a GPU or emulated by the stand-in for CuPy."""

import os
import sys
import types

import pytest

from fusedlstm.backends.cuda.runtime import probe

import stand_in
from emulation import missing

# Named backends must run: a missing one fails its tests instead of skipping them.
NAMED = os.environ.get("FUSEDLSTM_TEST_BACKENDS")
NO_GPU = probe.why_not()
NO_EMULATOR = missing()


def choose():
    """Return the backends to test: those named or, by default, numpy and the better cuda that this machine has."""
    if NAMED:
        return NAMED.split(",")
    if NO_GPU is None:
        return ["numpy", "cuda"]
    required = os.environ.get("FUSEDLSTM_REQUIRE_EMULATION") == "1"
    return ["numpy"] if NO_EMULATOR and not required else ["numpy", "emulated"]


BACKENDS = choose()
assert not {"cuda", "emulated"} <= set(BACKENDS), "name cuda or emulated, not both: the stand-in replaces CuPy"
if "emulated" in BACKENDS:
    stand_in.install()
    probe._probe.cache_clear()
else:
    stand_in.find_real()


# For tests of cuda alone. If it can't run, they are skipped, or fail if it was named.
needs_cuda = pytest.mark.skipif(BACKENDS == ["numpy"], reason=f"cuda runs neither here ({NO_GPU}) nor emulated")


needs_cupy = pytest.mark.skipif("cupy" not in stand_in.real, reason="CuPy is not installed")
ON_GPU = sys.modules.get("cupy") is stand_in.real.get("cupy") is not None and NO_GPU is None


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
            return kernel_choice.one_kernel_layers(B, sizes, dtype, precision, forced)

        monkeypatch.setattr(kernel_choice, "choose_layers", chosen)
    return backend_name(types.SimpleNamespace(param=name))
