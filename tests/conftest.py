"""What every test file shares: the backends to test, and the report of which ran."""

import os

import pytest

from fusedlstm import available_backends
from fusedlstm.backends import unavailable_reason

import emulation

# Named backends must run: a missing one fails its tests instead of skipping them.
NAMED = os.environ.get("FUSEDLSTM_TEST_BACKENDS")
BACKENDS = NAMED.split(",") if NAMED else sorted(available_backends(), reverse=True)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend that is tested, by name."""
    return request.param


def pytest_report_header():
    lines = [f"fusedlstm backends tested: {', '.join(BACKENDS)}"]
    reason = unavailable_reason("cuda")
    if reason:
        lines.append(f"fusedlstm cuda not tested on a GPU here: {reason}")
    reason = emulation.missing()
    if reason:
        lines.append(f"fusedlstm kernels not emulated here: {reason}")
    return lines


@pytest.fixture(params=BACKENDS, scope="session")
def backend_of_properties(request):
    """The same for hypothesis, which forbids fixtures that are made anew for each test."""
    return request.param
