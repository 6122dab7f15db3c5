"""What the tests of emulated kernels share: where kernels are, and whether this machine can emulate them."""

import os
from pathlib import Path

import pytest

from emulation import missing

# mutations.py runs the tests on copies with a mistake in them.
KERNELS = Path(os.environ.get("FUSEDLSTM_TEST_KERNELS") or Path(__file__).parent.parent / "kernels")
FAULTY = Path(__file__).parent / "emulation" / "faulty"

# A machine that says so must not skip them.
_REQUIRED = os.environ.get("FUSEDLSTM_REQUIRE_EMULATION") == "1"

needs_emulation = pytest.mark.skipif(
    missing() is not None and not _REQUIRED, reason=f"kernels can't be emulated here: {missing()}"
)
