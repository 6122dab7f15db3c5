"""Fixtures for backends, settings of all tests, and a report of which backends are tested."""

import gc
import os
import signal
import tempfile

import pytest
from hypothesis import settings

from fusedlstm.backends.numpy import cores

from driver import observe
from emulation.compiler import cache_folder
from support.backends import BACKENDS, NO_EMULATOR, NO_GPU, backend_name

pytest_plugins = ["support.once", "support.skips", "support.slow"]

# Keep kernels that tests compile, including those of the fake driver, apart from the user's. Processes that share a
# GPU may share this folder, too.
KEPT_KERNELS = tempfile.TemporaryDirectory(prefix="fusedlstm-tests-")
os.environ["FUSEDLSTM_CACHE_DIR"] = os.environ.get("FUSEDLSTM_TEST_CACHE_DIR") or KEPT_KERNELS.name

# What the package logs must not depend on how busy this machine is.
cores._complaint_once = lambda count: None

# A shell's background jobs ignore interrupts, and the processes that tests start would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Under nohup, the same holds for hang-ups. Child processes don't inherit this handler: they get the default.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

# Tests have no deadline. In CI, Hypothesis always draws the same examples.
settings.register_profile("untimed", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("untimed")


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Return the name of each tested backend."""
    return backend_name(request)


@pytest.fixture(params=BACKENDS, scope="session")
def backend_of_properties(request):
    """Return the name of each tested backend. Hypothesis forbids function-scoped fixtures."""
    return backend_name(request)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Use all cores, unless -n gives a number or the tests share a GPU."""
    if hasattr(config, "workerinput") or "cuda" in BACKENDS or not config.pluginmanager.hasplugin("xdist"):
        return
    if config.option.numprocesses is None:
        config.option.numprocesses = config.option.maxprocesses or os.cpu_count()
        config.option.dist = "worksteal" if config.option.dist == "no" else config.option.dist


def pytest_report_header():
    lines = [f"fusedlstm backends tested: {', '.join(BACKENDS)}"]
    if "cuda" not in BACKENDS:
        lines.append(f"fusedlstm cuda not tested on a GPU: {NO_GPU}")
    if "emulated" not in BACKENDS:
        lines.append(f"fusedlstm cuda not tested in the emulator: {NO_EMULATOR or 'not asked for'}")
    else:
        kept = "up to 2 GB, plus anything used in the last 15 minutes"
        lines.append(f"emulated kernels are kept in {cache_folder()}: {kept}")
    return lines


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    gc.unfreeze()  # frozen by `moments`
    assert observe.end_captures() == 0, "the test left streams capturing, and the next tests would fail"


def pytest_unconfigure():
    KEPT_KERNELS.cleanup()
