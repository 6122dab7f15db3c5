"""For tests of the fake driver: run a program on the fake driver, in a process with options of its own."""

import os
import subprocess
import sys
import textwrap

import pytest

from support.backends import BACKENDS
from support.places import ENVIRONMENT

# For tests of the driver itself. Tests of other orders run in child processes.
of_the_driver = pytest.mark.skipif(
    "emulated" not in BACKENDS or os.environ.get("DRIVER_ORDER", "now") != "now",
    reason="needs the fake driver, and work that runs at once",
)
HEAD = """
import driver
driver.install()
import cupy
import numpy as np
runtime = cupy.cuda.runtime
"""


def run(program, **variables):
    """Run a program, to which `cupy`, `runtime` and `np` are known, with variables such as DRIVER_ORDER."""
    command = [sys.executable, "-c", HEAD + textwrap.dedent(program)]
    return subprocess.run(command, env=ENVIRONMENT | variables, capture_output=True, text=True, check=False)
