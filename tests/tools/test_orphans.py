"""Processes that the package and its benchmarks start end when their parent is killed."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from support.places import ENVIRONMENT, PACKAGE, ROOT

BLOCK = 120  # seconds that a child would run
_STEPS = f"""
from fusedlstm import LSTMCell, LSTMWeights, benchmark
from fusedlstm.bench.worker import Worker
block = Worker.block
def said(self, *how):
    print("begun", flush=True)
    return block(self, *how)
Worker.block = said
benchmark(LSTMCell(LSTMWeights.random(3, 4, seed=0), backend="numpy"), every=EVERY, seconds={10 * BLOCK}, peers=False)
"""
# Programs that say when a child begins. The child inherits their standard error.
PROGRAMS = {
    "benchmark": _STEPS.replace("EVERY", "0.01"),
    "benchmark back to back": _STEPS.replace("EVERY", "None"),
    "benchmarks": f"""
import subprocess, sys
from benchmarks import orphans
code = "import time; print('begun', flush=True); time.sleep({BLOCK})"
subprocess.run(orphans.ending([sys.executable, "-c", code]))
""",
}
# Files that start other processes without `orphans`, and why.
OTHERS = {
    "benchmarks/brief/clocks.py": "nvidia-smi, with a time limit",
    "benchmarks/machine.py": "git, which ends at once",
    "fusedlstm/backends/cuda/runtime/fork.py": "a message that names multiprocessing",
    "fusedlstm/bench/worker.py": "a child that reads a pipe",
}


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_children_end_with_their_parent(name, number):
    if name == "benchmarks" and sys.platform != "linux":
        pytest.skip("needs Linux")
    command, pipe = [sys.executable, "-c", PROGRAMS[name]], subprocess.PIPE
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=pipe, stderr=pipe) as process:
        assert process.stdout.readline() == b"begun\n"
        time.sleep(0.2)  # until the child is within a block
        process.send_signal(getattr(signal, number))
        process.communicate(timeout=BLOCK / 2)  # ends when the child does


def test_all_processes_end_with_their_parent():
    start = re.compile(r"subprocess\.(run|Popen|call|check_\w+)\(|multiprocessing|os\.(spawn|posix_spawn|fork\()")
    paths = [path for folder in (PACKAGE, ROOT / "benchmarks") for path in folder.rglob("*.py")]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    found = {name for name, text in texts.items() if len(start.findall(text)) > text.count("orphans.ending(")}
    assert found == set(OTHERS)
