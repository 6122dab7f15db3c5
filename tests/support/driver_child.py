"""For tests of the fake driver: run a program on it in a child process, with other options."""

import os
import subprocess
import sys
import textwrap

import pytest

from support.backends import BACKENDS
from support.places import ENVIRONMENT

# For tests of the driver itself. Those of other orders run in child processes.
of_the_driver = pytest.mark.skipif(
    "emulated" not in BACKENDS or os.environ.get("DRIVER_ORDER", "now") != "now",
    reason="needs the fake driver, with DRIVER_ORDER=now",
)
HEAD = """
import driver
driver.install()
import cupy
import numpy as np
runtime = cupy.cuda.runtime
"""


def run(program, **variables):
    """Run a program that uses `cupy`, `runtime` and `np`, with environment variables such as DRIVER_ORDER.

    A variable is unset if its value is None.
    """
    command = [sys.executable, "-c", HEAD + textwrap.dedent(program)]
    environment = {name: value for name, value in (ENVIRONMENT | variables).items() if value is not None}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
