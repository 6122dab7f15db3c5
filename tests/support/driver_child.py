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
    """Run a program, to which `cupy`, `runtime` and `np` are known, with variables such as DRIVER_ORDER.

    A variable that is None is unset.
    """
    command = [sys.executable, "-c", HEAD + textwrap.dedent(program)]
    environment = {name: value for name, value in (ENVIRONMENT | variables).items() if value is not None}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
