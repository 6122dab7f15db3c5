"""Run a command with a time limit, in a process group of its own.

A group that must end gets SIGINT, after which pytest still reports failures and writes the times of its benchmarks.
After `GRACE` seconds it gets SIGKILL.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import orphans

ROOT = Path(__file__).parents[2]
GRACE = 10  # seconds
MOST_OUTPUT = 6 << 20  # bytes
_POLL = 0.1
_DEATH = 3  # seconds from SIGKILL until a process is gone
_NOT_FOUND = 127  # a shell's status


class Ended(NamedTuple):
    """How a process ended: "exited", "timed out", "interrupted" or "wrote too much"; its status, or minus a signal."""

    how: str
    status: int


def run(command, log, *, limit, environment, stop, tick=lambda: None, grace=GRACE):
    """Run a command, and return how it ended.

    Args:
        command: its words.
        log: a file, to which its output is appended as it comes.
        limit: its time in seconds.
        environment: its environment.
        stop: a `Stop`, which ends it.
        tick: called several times a second meanwhile.
        grace: seconds from SIGINT to SIGKILL.
    """
    with open(log, "ab") as output:
        most = output.tell() + MOST_OUTPUT
        options = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        try:
            process = subprocess.Popen(orphans.ending(command), cwd=ROOT, env=environment, process_group=0, **options)
        except OSError as error:
            output.write(f"{error}\n".encode())
            return Ended("exited", _NOT_FOUND)
    try:
        how = _watch(process, log, time.monotonic() + limit, most, stop, tick)
        if how != "exited":
            _interrupt(process, grace, stop)
    finally:
        _signal(process, signal.SIGKILL)  # and whatever it left running
        # One that a driver holds back can't be killed. The run goes on without it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_DEATH)
    return Ended(how, -signal.SIGKILL if process.returncode is None else process.returncode)


def _watch(process, log, deadline, most, stop, tick):
    """Wait until the process exits, or return why it must end."""
    while not _exited(process):
        if stop.signal:
            return "interrupted"
        if time.monotonic() >= deadline:
            return "timed out"
        if os.path.getsize(log) > most:
            return "wrote too much"
        tick()
        time.sleep(_POLL)
    return "exited"


def _interrupt(process, grace, stop):
    _signal(process, signal.SIGINT)
    deadline, times = time.monotonic() + grace, stop.times
    while not _exited(process) and time.monotonic() < deadline and stop.times == times:
        time.sleep(_POLL)


def _exited(process):
    """Return whether a process has exited. It stays a zombie for now, so that no other group gets its number."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal(process, number):
    # A zombie alone raises one of the two, depending on the system.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
