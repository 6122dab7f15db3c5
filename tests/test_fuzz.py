"""The fuzzer of file readers: a few inputs of each, and that it finds what readers may do wrong."""

import os
import signal
import time

import numpy as np
import pytest

from fusedlstm import WeightsFileError

from fuzz import fuzz
from fuzz_readers import READERS, Reader


@pytest.mark.parametrize("name", READERS)
def test_readers(name):
    """python tests/fuzz.py takes many more."""
    missing = READERS[name].missing()
    if missing:
        pytest.skip(f"{missing} is not installed")
    outcomes, findings = fuzz(READERS[name], 150)
    known = {f"the process died of {signal}" for signal in READERS[name].dies}
    assert set(findings.counts) <= known, str(findings)
    assert outcomes["refused"] > 10, "inputs are hardly damaged"
    assert outcomes["read"], "inputs are all damaged at once, so that little is reached"


def picky(path):
    content = path.read_bytes()
    if len(content) < 100:
        raise WeightsFileError("short")
    return content


def faulty(what):
    """A reader that goes wrong where the first byte, or the length, is not that of the good file."""

    def read(path):
        if picky(path)[0] != ord("a"):
            what()

    def make(folder):
        (folder / "good").write_bytes(b"a" * 100 + bytes(range(100)))

    return Reader(read, make, ".bin")


def test_a_careful_reader():
    outcomes, findings = fuzz(Reader(picky, faulty(None).make, ".bin"), 200)
    assert not findings.counts
    assert outcomes["read"] > 10
    assert outcomes["refused"] > 10


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        (lambda: {}["no such key"], "KeyError at test_fuzz.py:"),
        (lambda: np.ones(1 << 30), "MemoryError at "),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "the process died of SIGKILL"),
        (lambda: time.sleep(60), "it hung"),
    ],
)
def test_faults_are_found(what, kind):
    outcomes, findings = fuzz(faulty(what), 100, seconds=1)
    found = [k for k in findings.counts if k.startswith(kind)]
    assert found, str(findings)
    assert sum(outcomes.values()) == 100, "it goes on behind a finding"
    again, same = fuzz(faulty(what), 1, first=findings.first[found[0]], seconds=1)
    assert found[0] in same.counts, "by its number an input is made again"
