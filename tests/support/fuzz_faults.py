"""Readers with faults that the fuzzer must find, and one without."""

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
    """Return a reader that fails if the first hundred bytes differ from the good file's."""

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
