"""Compile the kernels of the table beforehand, each in a process of its own, so that all cores do it at once.

They are kept on the disk. In the process that measures, one would be compiled after the other.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks import orphans
from benchmarks.kernel_table.sizes import sizes
from fusedlstm.backends.sequence_choice import MOST_UNITS, SCAN

# Batches, and units N = I, for which a kernel has different tiles.
_TILES = ((8, 128), (64, 128), (1024, 128), (4096, 128), (4096, 512))
_STEPS = 4  # of a sequence


def compile_all(*, until: float, sequences: bool) -> None:
    """Compile all kernels of steps or sequences, and wait for that, but not longer than `until`."""
    rows = sizes(dry=False, sequences=sequences)
    wanted = dict.fromkeys((size.dtype, size.precision, kernel) for size in rows for kernel in size.kernels)
    command = [sys.executable, "-m", "benchmarks.kernel_table", "unused", *(["--sequences"] if sequences else [])]
    command.append("--warm")
    children = [subprocess.Popen(orphans.ending([*command, *words])) for words in wanted]
    try:
        for child in children:
            child.wait(max(0.0, until - time.time()))
    except subprocess.TimeoutExpired:
        print("not all kernels were compiled beforehand", file=sys.stderr)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()


def compile_kernels(dtype: str, precision: str, kernel: str, *, sequences: bool) -> int:
    """Compile the instances of a kernel, by making Steppers or Sequencers. Return the exit status."""
    from fusedlstm import LSTM, LSTMWeights

    for B, N in _TILES:
        if kernel == SCAN and N > MOST_UNITS:
            continue
        lstm = LSTM(LSTMWeights.random(N, N, seed=0, dtype=dtype), backend="cuda", precision=precision, kernel=kernel)
        if sequences:
            lstm.sequencer(_STEPS, B)
        else:
            lstm.stepper(B)
    return 0
