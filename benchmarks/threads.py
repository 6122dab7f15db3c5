"""Give every library as many threads as --threads says, and measure how many it uses."""

import os
import time
from pathlib import Path

# Libraries read these when they are loaded: OpenBLAS, MKL, OpenMP, BLIS, Apple's Accelerate, XLA (JAX), TensorFlow.
_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NPROC",
    "TF_NUM_INTRAOP_THREADS",
)
_WINDOWS, _WINDOW = 5, 0.005  # how many times to look, and for how many seconds


def environment(threads):
    """Return the variables that give every library this many threads, and the same conditions on a GPU."""
    return {
        **dict.fromkeys(_VARIABLES, str(threads)),
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # all share one GPU's memory
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def threads_used(run):
    """Return how many threads work at once in `run`, 1.0 for one, or None if the system doesn't tell.

    This is the smaller of two ratios:

    - The CPU time of all threads over that of the busiest thread. Alone, it can't tell two threads that work at once
      from two that hand work to each other.
    - The CPU time of all threads over elapsed time, the largest of several measurements. It is lower on a busy machine.
    """
    first = _times()
    if first is None:
        return None
    at_once = max(_time_over_clock(run) for _ in range(_WINDOWS))
    used = [after - first.get(thread, 0) for thread, after in _times().items()]
    cores = os.cpu_count() or 1  # more is an error of the clocks, as in virtual machines
    return round(min(at_once, cores, sum(used) / max(used)), 2)


def _time_over_clock(run):
    """Return the CPU time of all threads over elapsed time, while `run` runs once or more."""
    clock = time.perf_counter()  # read around the other clock, so that an interruption between them adds nothing
    time_of_all = time.process_time()
    while time.perf_counter() - clock < _WINDOW:
        run()
    time_of_all = time.process_time() - time_of_all
    return time_of_all / (time.perf_counter() - clock)


def _times():
    """Return each thread's time on a processor, or None on systems other than Linux."""
    times = {}
    for thread in os.listdir("/proc/self/task") if Path("/proc/self/task").is_dir() else ():
        try:
            times[thread] = int(Path("/proc/self/task", thread, "schedstat").read_text().split()[0])
        except OSError:  # the thread has ended
            continue
    return times or None
