"""What every test file shares: the backends to test, and the report of which ran.

cuda is tested on a GPU where there is one; elsewhere emulated, by the stand-in for CuPy.
"""

import os
import signal
import sys
import tempfile
import types

import pytest
from hypothesis import settings

from fusedlstm.backends.cuda import probe

import stand_in
from emulation import missing

# Kernels that tests compile, the stand-in's among them, are kept apart from the user's.
KEPT_KERNELS = tempfile.TemporaryDirectory(prefix="fusedlstm-tests-")
os.environ["FUSEDLSTM_CACHE_DIR"] = KEPT_KERNELS.name

# A shell's background jobs ignore interrupts, and so would the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test is timed; where CI is set, the examples of properties are the same each time.
settings.register_profile("untimed", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("untimed")

# Named backends must run: a missing one fails its tests instead of skipping them.
NAMED = os.environ.get("FUSEDLSTM_TEST_BACKENDS")
NO_GPU = probe.why_not()
NO_EMULATOR = missing()


def choose():
    """The backends to test: by name, else numpy and the better cuda that this machine has."""
    if NAMED:
        return NAMED.split(",")
    if NO_GPU is None:
        return ["numpy", "cuda"]
    required = os.environ.get("FUSEDLSTM_REQUIRE_EMULATION") == "1"
    return ["numpy"] if NO_EMULATOR and not required else ["numpy", "emulated"]


BACKENDS = choose()
assert not {"cuda", "emulated"} <= set(BACKENDS), "cuda and emulated exclude each other: one takes the other's place"
if "emulated" in BACKENDS:
    stand_in.install()
    probe._probe.cache_clear()
else:
    stand_in.find_real()


# For tests of cuda alone: skipped where it was not asked for and can't run, but failing where it was.
needs_cuda = pytest.mark.skipif(BACKENDS == ["numpy"], reason=f"cuda runs neither here ({NO_GPU}) nor emulated")


needs_cupy = pytest.mark.skipif("cupy" not in stand_in.real, reason="CuPy is not installed")
ON_GPU = sys.modules.get("cupy") is stand_in.real.get("cupy") is not None and NO_GPU is None


@pytest.fixture(params=["stand-in", "CuPy"])
def library(request):
    """The stand-in, and on a GPU what is real: what holds for one must hold for the other."""
    if request.param == "stand-in":
        modules = stand_in.modules()
        names = {"cublas": "cupy_backends.cuda.libs.cublas", "cublasLt": "nvmath.bindings.cublasLt"}
        return types.SimpleNamespace(cupy=modules["cupy"], **{key: modules[name] for key, name in names.items()})
    if not ON_GPU:
        pytest.skip("the real CuPy needs a GPU")
    return types.SimpleNamespace(**{name: stand_in.real.get(name) for name in ("cupy", "cublas", "cublasLt")})


def backend_name(request):
    """The name that a cell knows a tested backend by."""
    if request.param == "cuda" and NO_GPU:
        pytest.fail(f"cuda was asked for and can't run here: {NO_GPU}")
    return "cuda" if request.param == "emulated" else request.param


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend that is tested, by name."""
    return backend_name(request)


# Of Steppers and pools, on a GPU in both ways of stepping, whatever the table would choose.
ONE_KERNEL = ", one kernel"
WAYS = [*BACKENDS, *(f"{name}{ONE_KERNEL}" for name in BACKENDS if name != "numpy")]


def backend_in_a_way(request, monkeypatch):
    """The name that a cell knows a backend by, which then steps as one of WAYS says."""
    name = request.param.removesuffix(ONE_KERNEL)
    if name != "numpy":
        from fusedlstm.backends.cuda import choice

        def chosen(B, sizes, dtype, precision, capability, forced=None, **_):
            if name == request.param:
                return (forced or "matmul",) * len(sizes)
            return choice.one_kernel_layers(B, sizes, dtype, precision, forced)

        monkeypatch.setattr(choice, "choose_layers", chosen)
    return backend_name(types.SimpleNamespace(param=name))


@pytest.fixture(params=BACKENDS, scope="session")
def backend_of_properties(request):
    """The same for hypothesis, which forbids fixtures that are made anew for each test."""
    return backend_name(request)


def pytest_report_header():
    lines = [f"fusedlstm backends tested: {', '.join(BACKENDS)}"]
    if "cuda" not in BACKENDS:
        lines.append(f"fusedlstm cuda not tested on a GPU: {NO_GPU}")
    if "emulated" not in BACKENDS:
        lines.append(f"fusedlstm cuda not tested in the emulator: {NO_EMULATOR or 'not asked for'}")
    return lines


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    left = stand_in.graphs.end_all()
    assert not left, f"the test has left streams that capture, which would fail the next ones: {left}"


def pytest_unconfigure():
    KEPT_KERNELS.cleanup()
