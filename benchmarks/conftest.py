"""Options, equal threads for all peers, and facts for results. NumPy isn't imported before `pytest_configure`."""

import os
import sys

import pytest

from benchmarks import threads as threads_of_libraries

# pytest-benchmark's options with other defaults here: the option, its default, ours, and ours with --quick.
_DEFAULTS = (
    ("benchmark_max_time", "1.0", "0.5", "0.1"),
    ("benchmark_min_rounds", 5, 5, 3),
    ("benchmark_columns", None, *[["median", "iqr", "min", "rounds"]] * 2),
)


def pytest_addoption(parser):
    group = parser.getgroup("fusedlstm benchmarks")
    group.addoption("--quick", action="store_true", help="few sizes, for a short time: under two minutes on two cores")
    group.addoption("--grid", action="store_true", help="all sequences of benchmarks/sequence_grid.py, for hours")
    group.addoption("--threads", type=int, default=1, help="threads of every library on a CPU (default: 1)")
    group.addoption("--library", metavar="PACKAGE", help="the only library to time, such as torch (default: all)")
    group.addoption("--device", choices=("cpu", "cuda"), help="the only device to time (default: all that run here)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Set options before pytest-benchmark reads them, and threads before NumPy and the peers are imported."""
    if not hasattr(config.option, "benchmark_disable"):
        raise pytest.UsageError("pytest-benchmark is not installed: fusedlstm's extra bench brings it")
    if config.option.benchmark_disable:
        config.option.quick = True  # results are checked, nothing is timed
    for name, default, ours, quick in _DEFAULTS:
        value = getattr(config.option, name)
        if str(value) == str(default):
            wanted = quick if config.option.quick else ours
            setattr(config.option, name, wanted if value is None else type(value)(wanted))
    if config.option.threads < 1:
        raise pytest.UsageError("--threads: wanted 1 or more")
    os.environ.update(threads_of_libraries.environment(config.option.threads))
    _assert_threads(config)
    # Warnings of peers are allowed. Ours are errors, as in all tests.
    config.addinivalue_line("filterwarnings", "default")
    config.addinivalue_line("filterwarnings", "error:::fusedlstm")


def _assert_threads(config):
    """Refuse to time if NumPy's BLAS has another number of threads."""
    early = "numpy" in sys.modules
    from fusedlstm.backends.numpy import blas

    known, wanted = blas.facts()["threads"], config.option.threads
    if known not in (None, wanted) and not config.option.benchmark_disable:
        how = "NumPy was imported before the benchmarks' options were read" if early else "there are fewer cores"
        raise pytest.UsageError(f"NumPy's BLAS has {known} threads, not {wanted}: {how}")


def pytest_collection_modifyitems(config, items):
    """With --library, leave out the rows of others. Tests without peers belong to fusedlstm."""
    library = config.getoption("library")
    if library:
        of = {item: _library(item) for item in items}
        config.hook.pytest_deselected(items=[item for item in items if of[item] != library])
        items[:] = [item for item in items if of[item] == library]


def _library(item):
    entry = item.callspec.params.get("entry") if hasattr(item, "callspec") else None
    return entry.peer.package if entry else "fusedlstm"


def pytest_report_header(config):
    from benchmarks import machine, peers
    from fusedlstm.backends.numpy import blas

    run_on = machine.devices(config.getoption("device"))
    lines = [
        f"fusedlstm benchmarks on: {', '.join(run_on)}; threads: {config.getoption('threads')}",
        f"fusedlstm benchmarks: NumPy's BLAS is {blas.describe()}",
        *(f"fusedlstm benchmarks: {advice}" for advice in [blas.advice()] if advice),
    ]
    absent = peers.missing(run_on, quick=config.getoption("quick"))
    return lines + [f"fusedlstm benchmarks: not run: {name}: {reason}" for name, reason in absent]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config, machine_info):
    from benchmarks import machine

    for changing in ("hz_actual", "hz_actual_friendly"):
        machine_info.get("cpu", {}).pop(changing, None)
    machine_info["facts"] = machine.facts(config)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json):
    from benchmarks.runs import keep_deciles

    keep_deciles(output_json)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_benchmark_compare_machine_info(machine_info, compared_benchmark):
    """Ignore commit, date, load and calibration: they differ between runs on the same machine."""
    for facts in (machine_info["facts"], compared_benchmark["machine_info"].get("facts", {})):
        for name in ("commit", "date", "load", "limits"):
            facts.pop(name, None)


@pytest.fixture
def threads(request):
    """How many threads every library has."""
    return request.config.getoption("threads")


@pytest.fixture
def rounds(request):
    """How many fresh processes to start."""
    return 3 if request.config.getoption("quick") or request.config.getoption("library") else 10
