"""The kernels that checks need on a GPU, so that they can be compiled ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedlstm.arrays import dtypes
from fusedlstm.backends import kernel_choice, sequence_choice
from fusedlstm.backends.uses import Use
from fusedlstm.selftest import arithmetics
from fusedlstm.selftest.arithmetics import ARITHMETICS
from fusedlstm.selftest.cells import weights_of
from fusedlstm.selftest.checks import NUMPY, checks_on

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusedlstm.selftest.checks import Check


def uses_of(checks: Iterable[Check]) -> list[Use]:
    """Return a Use for each check on a GPU."""
    found = []
    for check in checks:
        arithmetic = ARITHMETICS[check.arithmetic]
        if check.kernel != NUMPY:
            weights = weights_of(check.form, arithmetic.dtype)
            rows, kind = (check.B,), (check.kind,)
            use = Use(weights, arithmetic.precision, False, check.kernel, rows, kind, contiguous=True)
            found.append(use)
    return found


def uses_of_all(capability: int) -> list[Use]:
    """Return a Use for each check that GPUs of a compute capability can run, in the dtypes that this machine has."""
    old = kernel_choice.reason_against_device(capability) is not None
    checks = checks_on("cuda", arithmetics.NAMES, ("matmul",) if old else sequence_choice.NAMES)
    return uses_of(check for check in checks if _is_known(ARITHMETICS[check.arithmetic].dtype))


def _is_known(dtype: str) -> bool:
    try:
        dtypes.resolve(dtype)
    except ImportError:  # bfloat16 without ml_dtypes
        return False
    return True
