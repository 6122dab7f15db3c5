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


def importing(*folders):
    """Return the environment for a process that imports from these folders first, then from PYTHONPATH.

    PYTHONPATH may be where CuPy is.
    """
    paths = (*map(str, folders), os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


# The environment for a process that imports the package and `support`.
ENVIRONMENT = importing(ROOT, TESTS)
