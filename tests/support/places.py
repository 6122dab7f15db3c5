"""Paths within a checkout."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fusedlstm"
TESTS = ROOT / "tests"
DATA = TESTS / "data"
ORACLES = TESTS / "oracles"
# `mutations` sets this to test modified copies of the kernels.
KERNELS = Path(os.environ.get("FUSEDLSTM_TEST_KERNELS") or ROOT / "kernels")
# The environment for a process that imports the package and `support`.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, TESTS)))}
