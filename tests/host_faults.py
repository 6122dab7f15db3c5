"""Plant mistakes in copies of the CUDA backend's Python, one at a time. Tests on the emulated GPU must find each.

python tests/host_faults.py [words]   plant all, or those whose description has these words; print how each was found,
                                      and exit with 1 if one was not
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.faults_of_calls import ARGUMENTS, MEMORY, STATE
from support.faults_of_sequencers import SEQUENCERS
from support.faults_of_sequences import SEQUENCES
from support.faults_of_waits import WAITS
from support.outcomes import Outcome, missed

ROOT = Path(__file__).parents[1]
BACKEND = Path("fusedlstm/backends/cuda")
SECONDS = 300  # the timeout of a test run, as a mistake may make the host wait forever

# Environment variables for the tests of a mistake.
OPTIONS = {
    "now": {},
    "late": {"DRIVER_ORDER": "late"},
    "random": {"DRIVER_ORDER": "random"},
    "check": {"FUSEDLSTM_EMULATION": "check"},
}
FILES = {
    "order": "tests/cuda/test_gpu_order.py",
    "stepper": "tests/cuda/test_stepper_gpu.py",
    "host_stepper": "tests/cuda/test_host_stepper_gpu.py",
    "pool": "tests/cuda/test_pool_gpu.py",
    "captures": "tests/cuda/test_captures_gpu.py",
    "fused_stepper": "tests/cuda/test_fused_stepper.py",
    "fused_pool": "tests/cuda/test_fused_pool.py",
    "layouts": "tests/cuda/test_fused_layouts.py",
    "interop": "tests/cuda/test_interop_gpu.py",
    "host": "tests/cuda/test_cuda_host.py",
    "any_cell": "tests/core/test_cell.py",
    "any_lstm": "tests/core/test_lstm.py",
    "any_stepper": "tests/core/test_stepper.py",
    "sequencer": "tests/cuda/test_sequencer_gpu.py",
    "any_sequencer": "tests/core/test_sequencer.py",
    "repeated": "tests/cuda/test_repeated_step.py",
    "tune": "tests/tools/test_tune.py",
    "zoneout": "tests/core/test_zoneout.py",
    "cells": "tests/core/test_cells.py",
    "sequences": "tests/cuda/test_sequence_graphs.py",
}


@dataclass(frozen=True)
class Fault:
    """A mistake: a text that occurs once in a file of the backend, and its replacement.

    Attributes:
        file: relative to the backend's folder.
        what: a description.
        old: the text.
        new: its replacement.
        tests: a key of OPTIONS, a key of FILES, and words for pytest's -k.
    """

    file: str
    what: str
    old: str
    new: str
    tests: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"

    def applied(self) -> str:
        """Return the file's text with the mistake in it."""
        text = (ROOT / BACKEND / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self}: {self.old!r} must occur once in {self.file}, not {text.count(self.old)} times")
        return text.replace(self.old, self.new)


FAULTS = [
    Fault(file, *row)
    for table in (WAITS, MEMORY, ARGUMENTS, STATE, SEQUENCES, SEQUENCERS)
    for file, rows in table.items()
    for row in rows
]


@contextmanager
def planted(fault: Fault | None) -> Iterator[Path]:
    """Yield a folder with the kernels and a copy of the package, with the mistake in it if there is one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "fusedlstm", folder / "fusedlstm", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "kernels").symlink_to(ROOT / "kernels")
        if fault is not None:
            (folder / BACKEND / fault.file).write_text(fault.applied(), encoding="utf-8")
        yield folder


def first_failure(folder: Path, tests: str) -> str | None:
    """Return how the first failing test fails, or None if all pass."""
    order, file, words = tests.split(" ", 2)
    options = ("-x", "-q", "-n", "0", "-m", "", "-p", "no:cacheprovider", "--tb=no")
    command = [sys.executable, "-X", "faulthandler", "-m", "pytest", *options, "-o", f"pythonpath={folder} . tests"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DRIVER_"))}
    environment = {**kept, "FUSEDLSTM_TEST_BACKENDS": "emulated", "COLUMNS": "300", **OPTIONS[order]}
    try:
        done = subprocess.run(
            [*command, "-k", words, FILES[file]],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "the tests hang"
    failed = re.search(r"^(?:FAILED|ERROR) \S+?::(.*)", done.stdout, re.MULTILINE)
    if done.returncode < 0:
        where = re.search(r'tests/\S+", line \d+ in (test_\w+)', done.stderr)
        return f"{where[1] if where else 'a test'} - crashed by signal {-done.returncode}"
    if done.returncode == 1 and failed:
        return failed[1]
    if done.returncode == 0 and re.search(r"\d+ passed", done.stdout):
        return None
    raise RuntimeError(f"pytest itself failed:\n{done.stdout}{done.stderr}")


def outcome(fault: Fault) -> Outcome:
    """Plant a mistake, and return whether and how it was found."""
    with planted(fault) as folder:
        try:
            failure = first_failure(folder, fault.tests)
        except RuntimeError as error:
            return Outcome(fault, good=False, how=str(error))
    return Outcome(fault, failure is not None, failure or "not found")


def main(words: str) -> int:
    return 1 if missed(outcome, (fault for fault in FAULTS if words in str(fault))) else 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
