"""Run on the fake driver of the tests, which drops all work: only the host's code runs, and nothing is measured."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

_TESTS = Path(__file__).parents[2] / "tests"


def begin() -> None:
    """Install the fake driver, unless this process has it.

    Raises:
        SystemExit: this machine can't run it.
    """
    if "cupy_backends" in sys.modules:
        return
    sys.path.append(str(_TESTS))
    os.environ["DRIVER_ORDER"] = "never"
    driver = importlib.import_module("driver")
    if driver.missing():
        raise SystemExit(f"no dry run: {driver.missing()}")
    driver.install()
