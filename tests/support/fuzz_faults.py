"""Readers that go wrong as readers may, for the fuzzer to find; and one that doesn't."""

import os
import signal
import time

import numpy as np

from fusedlstm import WeightsFileError

from support.fuzz_readers import Reader


def careful(path):
    content = path.read_bytes()
    if len(content) < 100:
        raise WeightsFileError("short")
    return content


def make(folder):
    (folder / "good").write_bytes(b"a" * 100 + bytes(range(100)))


def faulty(what):
    """A reader that goes wrong where the first hundred bytes are not those of the good file."""

    def read(path):
        if careful(path)[:100] != b"a" * 100:
            what()

    return Reader(read, make, ".bin")


FAULTS = {
    "careful": Reader(careful, make, ".bin"),
    "an exception": faulty(lambda: {}["no such key"]),
    "memory": faulty(lambda: np.ones(1 << 30)),
    "a crash": faulty(lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "a hang": faulty(lambda: time.sleep(60)),
}
