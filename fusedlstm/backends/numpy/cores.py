"""How many cores this process may use, how many of them are idle, and whether the BLAS has more threads than that.

A product that is split among threads ends when the last thread does. If a thread has to wait for a core, so do all.
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fusedlstm import log
from fusedlstm.backends.numpy.thread_limit import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator

_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def warn_if_crowded(threads: int | None = None) -> None:
    """Log a warning if the BLAS has more threads than there are idle cores. Each number of threads is looked at once.

    Args:
        threads: the most threads it may use; None for its own number.
    """
    count = at_most(threads) or 1
    if count > 1:
        text = _complaint_once(count)
        if text is not None:
            log.warn_once(text)


@functools.cache
def _complaint_once(count: int) -> str | None:
    return complaint(count)


def complaint(count: int) -> str | None:
    """Return what is wrong with this many threads and what to do, or None."""
    cores, free = available(), idle()
    if count <= max(1, round(free)):
        return None
    busy = "" if round(free) >= round(cores) else f", and about {max(0, round(free))} of them idle"
    return (
        f"NumPy's BLAS uses {count} threads, but this process has {cores:.3g} core{'s' if cores != 1 else ''}{busy}. "
        "Threads that wait for a core can make a step many times slower: use threads=1, or --threads 1"
    )


def idle() -> float:
    """Return how many of the available cores are idle, by the load of the last minute. It may be below 0."""
    return min(available(), (os.cpu_count() or 1) - load())


def load() -> float:
    """Return how many threads of all processes ran or waited for a core in the last minute. 0 if unknown."""
    with contextlib.suppress(AttributeError, OSError):  # Windows has no load average
        return os.getloadavg()[0]
    return 0.0


def available() -> float:
    """Return how many cores this process may use, by its affinity and the quota of its container."""
    cores = float(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        with contextlib.suppress(OSError):
            cores = float(len(os.sched_getaffinity(0)))
    return min([cores, *_quotas(_CGROUPS, _OWN_CGROUP)])


def _quotas(root: Path, own: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of the control groups that this process is in. Most have none.

    Args:
        root: where the control groups are mounted.
        own: the file that names this process's groups, such as 0::/user.slice, or 4:cpu,cpuacct:/docker/1 in version 1.
    """
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        mounted = root if number == "0" else root / "cpu"
        # In a container, the path may be that of the host, and the container's group is mounted at the root.
        for group in (mounted / path.strip("/"), *(mounted / path.strip("/")).parents):
            yield from _quota(group)
            if group == mounted:
                break


def _quota(group: Path) -> Iterator[float]:
    """Yield a control group's quota in cores, if it has one."""
    with contextlib.suppress(OSError, ValueError):  # absent, or "max"
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        yield int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)
