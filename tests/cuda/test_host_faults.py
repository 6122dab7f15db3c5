"""host_faults.py finds planted mistakes in the CUDA backend's Python. This plants all of them at night."""

import host_faults
import pytest

from support.emulated import needs_emulation
from support.places import ROOT

pytestmark = pytest.mark.nightly


def test_every_fault_applies_to_the_backend():
    assert all(fault.applied() for fault in host_faults.FAULTS)
    assert len({str(fault) for fault in host_faults.FAULTS}) == len(host_faults.FAULTS) > 70
    assert all((ROOT / file).is_file() for file in host_faults.FILES.values())


def test_a_text_that_is_not_unique_is_refused():
    with pytest.raises(ValueError, match=r"'nowhere' must occur once in cell\.py, not 0 times"):
        host_faults.Fault("cell.py", "a change of nothing", "nowhere", "", "now host spans").applied()


@needs_emulation
@pytest.mark.parametrize("fault", host_faults.FAULTS, ids=str)
def test_a_fault_is_found(fault):
    outcome = host_faults.outcome(fault)
    assert outcome.good, outcome


@needs_emulation
def test_the_unchanged_backend_passes():
    unchanged = host_faults.Fault("cell.py", "nothing", "is_whole = True", "is_whole = True", "late host spans")
    assert host_faults.outcome(unchanged).how == "not found"


@needs_emulation
def test_a_broken_backend_does_not_count():
    broken = host_faults.Fault("runtime/structs.py", "no Python", "_BYTES = 8", "_BYTES = = 8", "now host spans")
    outcome = host_faults.outcome(broken)
    assert "pytest itself failed" in outcome.how
    assert not outcome.good
