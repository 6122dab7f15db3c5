"""For tests of emulated kernels: the folder of faulty kernels, and whether this machine can emulate kernels."""

import os

import pytest

from emulation import missing
from support.places import TESTS

FAULTY = TESTS / "emulation" / "faulty"

# A machine that sets this must not skip the tests.
_REQUIRED = os.environ.get("FUSEDLSTM_REQUIRE_EMULATION") == "1"

needs_emulation = pytest.mark.skipif(
    missing() is not None and not _REQUIRED, reason=f"kernels can't be emulated here: {missing()}"
)
