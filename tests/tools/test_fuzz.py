"""The fuzzer of file readers: a few inputs for each reader, and planted faults that it must find."""

import re
import subprocess
import sys

import pytest

from support.fuzz_readers import READERS
from support.places import ROOT, TESTS, importing

pytestmark = pytest.mark.nightly


def fuzz(name, *options):
    """Fuzz in another process, because this one may not be forked. Return status, outcomes and output."""
    command = [sys.executable, "fuzz.py", name, *map(str, options)]
    environment = importing(ROOT)
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=300, check=False)
    outcomes = re.search(rf"^{re.escape(name)}: \d+ inputs: {{(.*?)}}", done.stdout, re.MULTILINE)
    assert outcomes, done.stderr
    return done.returncode, {k: int(n) for k, n in re.findall(r"'(\w+)': (\d+)", outcomes[1])}, done.stdout


@pytest.mark.parametrize("name", READERS)
def test_readers_survive_a_few_inputs(name):
    """python tests/fuzz.py tries many more."""
    missing = READERS[name].missing()
    if missing:
        pytest.skip(f"{missing} is not installed")
    status, outcomes, said = fuzz(name, "--inputs", 150)
    assert status == 0, said
    assert outcomes["refused"] > 10, "inputs are hardly damaged"
    assert outcomes["read"], "all inputs are refused, so little code is reached"


def test_careful_reader_has_no_findings():
    status, outcomes, said = fuzz("careful", "--inputs", 200)
    assert status == 0, said
    assert outcomes["read"] > 10
    assert outcomes["refused"] > 10
    assert sum(outcomes.values()) == 200


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("an exception", r"KeyError at fuzz_faults\.py:\d+"),
        ("memory", "MemoryError at .*"),
        ("a crash", "the process died of SIGKILL"),
        ("a hang", "it hung"),
    ],
)
def test_faults_are_found(name, kind, tmp_path):
    status, outcomes, said = fuzz(name, "--inputs", 10, "--seconds", 1, "--keep", tmp_path)
    assert status == 1
    found = re.search(rf"(\d+) x {kind}, the first is input (\d+)", said)
    assert int(found[1]) == outcomes["found"]
    assert sum(outcomes.values()) == 10, "the fuzzer stopped after a finding"
    kept = tmp_path / f"{name}-0-{found[2]}.bin"
    assert kept.read_bytes()[:100] != b"a" * 100, "the reported input is not the faulty one"
    status, outcomes, _ = fuzz(name, "--inputs", 1, "--first", found[2], "--seconds", 1)
    assert (status, outcomes) == (1, {"found": 1}), "the input's number doesn't reproduce it"
