"""No process of Ray is left when a program ends."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this needs /proc")

from support.places import ENVIRONMENT, TESTS
from support.ray_ends import MARK, marked


def left_by(*arguments):
    """Run a program. Return how many processes it had, and those that are still there."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "support.ray_ends", *arguments]
    env = ENVIRONMENT | {MARK: mark}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    done = subprocess.run(command, cwd=TESTS, env=env, timeout=120, check=True, **pipes)
    for _ in range(50):  # processes that were killed may take a moment to end
        found = marked(mark)
        if not found:
            break
        time.sleep(0.1)
    return int(done.stdout.split()[-1]), found  # after what Ray says of the killed shard


def test_no_process_is_left():
    had, left = left_by()
    assert had > 5, "processes of Ray should have the mark"
    assert not left


def test_planted_process_is_found():
    had, left = left_by("badly")
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert (had, len(left)) == (2, 1)
