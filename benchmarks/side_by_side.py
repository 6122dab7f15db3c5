"""Run each case with every peer that can: choose the tests, and check and time each of them."""

import gc
from typing import NamedTuple

import pytest

from benchmarks import caches, machine
from benchmarks.brief.event_time import Timer
from benchmarks.cases import Case, chosen
from benchmarks.peers import all_peers
from benchmarks.peers.peer import CannotRunError, Peer
from benchmarks.threads import threads_used

COLD_ROUNDS = 20


class Entry(NamedTuple):
    """A row of a table: a case, the peer that runs it, and the device."""

    case: Case
    peer: Peer
    device: str

    @property
    def id(self):
        """The id in the test's name, by which runs are compared."""
        return f"{self.case.id}-{self.device}-{self.peer.name.replace(' ', '_')}"


def entries(config, cases):
    """Return the rows of these cases' tables. The peers of a case come one after the other."""
    quick, grid = config.getoption("quick"), config.getoption("grid")
    able = [
        (peer, device)
        for device in machine.devices(config.getoption("device"))
        for peer in all_peers()
        if (peer.quick or not quick) and peer.why_not(device) is None
    ]
    runs_on = {device: chosen(cases, quick=quick, device=device, grid=grid) for _, device in able}
    return [
        Entry(case, peer, device)
        for case in cases
        for peer, device in able
        if case in runs_on[device] and peer.cannot(case) is None
    ]


def parametrize(metafunc, cases):
    """Make a test of each row of these cases' tables, for a module's `pytest_generate_tests`."""
    if "entry" in metafunc.fixturenames:
        rows = entries(metafunc.config, cases)
        metafunc.parametrize("entry", [pytest.param(row, id=row.id) for row in rows])


def measure(benchmark, entry, threads):
    """Check the result of a row, time it, and check its last result."""
    case, peer, device = entry
    benchmark.group = case.title
    benchmark.extra_info.update(about(entry, threads))
    try:
        run = peer.prepare(case, device, threads)
    except CannotRunError as error:
        benchmark.skipped = True
        pytest.skip(str(error))
    case.assert_right(begun(peer, run))
    if benchmark.enabled:
        benchmark.extra_info.update(peer.remarks(run, device))
        benchmark.extra_info["threads_used"] = assert_threads(run, threads) if device == "cpu" else None
        if device == "cuda" and hasattr(run, "queue") and not case.cold:
            benchmark.extra_info.update(gpu_and_host_seconds(run.queue))
    gc.collect()  # of the previous peer
    last = peer.results(timed(benchmark, run, case, device))
    if changes_states(run):
        case.assert_ordinary(last)
        last = begun(peer, run)
    case.assert_right(last)


def gpu_and_host_seconds(queue):
    """Return "gpu_seconds", the time of the work on the GPU, and "host_seconds", the time until the call returns.

    A call's total time includes both, except where they overlap. If the GPU's queue is too short for the call, the host
    waits for the GPU, so both are None. The events are on the stream that CuPy and PyTorch use by default.
    """
    times = Timer(dry=False).times(queue)
    return {"gpu_seconds": times.gpu, "host_seconds": times.host if times.gpu else None}


def changes_states(run):
    """Whether each run continues from the states that the last one left."""
    return getattr(run, "begin", None) is not None


def begun(peer, run):
    """Return the result of a run from the case's states."""
    if changes_states(run):
        run.begin()
    return peer.results(run())


def timed(benchmark, run, case, device):
    """Time a run, and return its last result."""
    if case.cold:
        return benchmark.pedantic(run, setup=caches.flusher(device), rounds=COLD_ROUNDS)
    return benchmark(run)


def assert_threads(run, threads):
    """Return how many threads share the work. Raise if there are more than `threads`."""
    used = threads_used(run)
    assert used is None or used < threads + 0.5, f"{used:.1f} threads share the work, not {threads}"
    return used


def about(entry, threads):
    """Return the facts of a row, for tables and pictures."""
    case, peer, device = entry
    return {
        "kind": case.kind,
        "case": case.name,
        "title": case.title,
        **{name: getattr(case, name) for name in ("T", "B", "I", "N", "P", "layers", "dtype", "precision", "resets")},
        "cold": case.cold,
        "capacity": case.capacity,
        "padding": case.padding,
        "workload": case.name if case.cold or case.resets else "",
        "threads": threads,
        "device": device,
        "peer": peer.name,
        "peer_version": peer.version(),
        "ours": peer.ours,
    }
