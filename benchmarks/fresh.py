"""Time what happens once in a process, in fresh processes that print the seconds themselves."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks import orphans

ROOT = Path(__file__).parents[1]


class Clock:
    """A timer for pytest-benchmark that advances only by the seconds that fresh processes print."""

    __name__ = "clock_of_fresh_processes"

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def run(self, code, **variables):
        """Run code in a fresh process, which prints its seconds last."""
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": paths, **variables}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # bytecode is cached after the first run, as for users
        result = subprocess.run(
            orphans.ending([sys.executable, "-c", code]),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        seconds = float(result.stdout.split()[-1])
        assert seconds > 0
        self.now += seconds
