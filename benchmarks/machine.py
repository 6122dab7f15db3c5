"""Facts about the machine and what ran on it, for every file of results."""

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

import fusedlstm
from benchmarks import peers
from benchmarks.limits import machine_facts_limits
from benchmarks.peers.peer import version_of
from fusedlstm.backends.numpy import blas
from fusedlstm.backends.select import unavailable_reason

ROOT = Path(__file__).parents[1]


def devices(asked=None):
    """Return the devices that are timed: those asked for, else all that run here."""
    if asked:
        return (asked,)
    return ("cpu",) if unavailable_reason("cuda") else ("cpu", "cuda")


def facts(config):
    """Return all facts, for the JSON of a run with these options. `benchmarks.runs` lists those that a report reads."""
    run_on = devices(config.getoption("device"))
    missing = dict(peers.missing(run_on, quick=config.getoption("quick")))
    calibrated = config.getoption("library") in (None, "fusedlstm")  # once in each round of `compare` is enough
    able = {peer.name: peer.version() for peer in peers.all_peers() if peer.name not in missing}
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "os": " ".join(filter(None, [platform.system(), platform.machine(), *platform.libc_ver()])),
        "blas": {**blas.facts(), "advice": blas.advice()},
        "gpu": gpu(),
        "versions": {"fusedlstm": fusedlstm.__version__, "Python": platform.python_version(), **able},
        "missing": missing,
        "devices": list(run_on),
        "threads": config.getoption("threads"),
        "quick": config.getoption("quick"),
        **when(),
        "load": load(),
        "limits": machine_facts_limits(run_on, config.getoption("threads")) if calibrated else {},
    }


def when():
    """Return the facts that differ from run to run on one machine."""
    return {"commit": commit(), "date": datetime.datetime.now(datetime.UTC).date().isoformat()}


def load():
    """Return the load average of the last minute, in a list, or an empty list if the system has none."""
    return [round(os.getloadavg()[0], 2)] if hasattr(os, "getloadavg") else []


def cpu_model():
    """Return the processor's name."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def cores():
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def commit():
    """Return the commit, from git or the variable COMMIT, with a + if files have changed since."""
    try:
        git = ("git", "-C", str(ROOT))
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("COMMIT", "unknown")
    return head + ("+" if changed.stdout.strip() else "")


def gpu():
    """Return the first GPU's name, memory, driver and libraries, or None."""
    if unavailable_reason("cuda"):
        return None
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    return {
        "name": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "memory_bytes": properties["totalGlobalMem"],
        "multiprocessors": properties["multiProcessorCount"],
        "driver": runtime.driverGetVersion(),
        "cuda": runtime.runtimeGetVersion(),
        "nvrtc": list(cupy.cuda.nvrtc.getVersion()),
        "cupy": cupy.__version__,
        "nvmath": version_of("nvmath-python"),
    }
