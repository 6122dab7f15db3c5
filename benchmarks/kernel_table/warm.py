"""Compile the kernels of the table beforehand, each in a process of its own, so that all cores do it at once.

They are kept on the disk. In the process that measures, one would be compiled after the other.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.kernel_table.sizes import SIZES

# Batches, and units N = I, for which a kernel has different tiles.
_TILES = ((8, 128), (64, 128), (1024, 128), (4096, 128), (4096, 512))


def compile_all(*, until: float) -> None:
    """Compile all kernels, and wait for that, but not longer than `until`."""
    wanted = dict.fromkeys((size.dtype, size.precision, kernel) for size in SIZES for kernel in size.kernels)
    command = [sys.executable, "-m", "benchmarks.kernel_table", "unused", "--warm"]
    children = [subprocess.Popen([*command, *words]) for words in wanted]
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


def compile_kernels(dtype: str, precision: str, kernel: str) -> int:
    """Compile the instances of a kernel, by making Steppers. Return the exit status."""
    from fusedlstm import LSTMCell, LSTMWeights

    for B, N in _TILES:
        weights = LSTMWeights.random(N, N, seed=0, dtype=dtype)
        LSTMCell(weights, backend="cuda", precision=precision, kernel=kernel).stepper(B)
    return 0
