"""The kernels of sequences on a GPU: where many steps are one launch, and the choice. This doesn't import CuPy.

"scan" computes x's part of the gates of many steps in one launch, and takes all of these steps in another. The other
kernels are those of single steps: see `kernel_choice`.

A row's steps sum in the order of "tensor_medium". Batch-invariant sequences still use that kernel, as only a GPU can
show that both give the same bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fusedlstm.backends import kernel_choice
from fusedlstm.backends.kernel_choice import SCAN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.measured import Measured
    from fusedlstm.weights import LSTMWeights

NAMES = (*kernel_choice.NAMES, SCAN)
MOST_UNITS = 128  # of a scan, whose block has all units
_MOST_OF_TF32 = 96  # of a scan on GPUs with little shared memory, where the weights take half of it

_MORE = math.inf
# For each arithmetic: up to this many units N, sequences of up to this many rows B are scans, in layers with I = N. A
# model of an H200 predicts it (benchmarks/scan_predictions.py).
_ROWS: dict[str, tuple[tuple[int, float], ...]] = {
    "bfloat16": ((MOST_UNITS, _MORE),),
    "tf32": ((MOST_UNITS, _MORE),),
}
_ROWS["float16"] = _ROWS["bfloat16"]


def choose(
    B: int,
    size: tuple[int, int, int],
    dtype: str,
    precision: str,
    capability: int,
    *,
    projects: bool,
    forced: str | None,
    can_plan: bool,
    measured: Measured | None = None,
) -> str:
    """Return the kernel of a layer's sequences. It depends on neither T nor other layers.

    Args:
        B: rows.
        size: I, N and P.
        dtype: the name of the dtype of x and h.
        precision: the precision of float32 matmuls.
        capability: the GPU's compute capability, 90 for 9.0.
        projects: whether the layer projects h.
        forced: a kernel that the user named or batch_invariant needs, unchecked.
        can_plan: whether nvmath-python is there, without which "matmul" can't be planned.
        measured: times of the layer's single steps on this GPU, or None. They don't count where the layer scans.
    """
    about = dtype, precision, capability
    if _scans(B, size[1], *about, projects=projects, forced=forced):
        return SCAN
    return kernel_choice.runnable_layers(
        B, (size,), *about, forced=of_steps(forced), can_plan=can_plan, measured=(measured,)
    )[0]


def _scans(B: int, N: int, dtype: str, precision: str, capability: int, *, projects: bool, forced: str | None) -> bool:
    if forced is not None:
        return forced == SCAN
    if _limit(N, dtype, precision, projects=projects) or reason_against_device(N, dtype, precision, capability):
        return False
    return next(rows for most, rows in _ROWS[kernel_choice.arithmetic(dtype, precision)] if most >= N) >= B


def of_steps(kernel: str | None) -> str | None:
    """Return the kernel that a user's choice forces on single steps, Steppers and pools. "scan" forces none."""
    return None if kernel == SCAN else kernel


def reason_against(layers: Sequence[LSTMWeights], precision: str) -> str | None:
    """Return why these layers can't all be scanned on any GPU, or None if they can."""
    for k, layer in enumerate(layers):
        projects = layer.weight_hr is not None
        limit = _limit(layer.hidden_size, layer.dtype.name, precision, projects=projects)
        if limit is not None:
            return limit if len(layers) == 1 else f"{limit} (layers[{k}])"
    return None


def _limit(N: int, dtype: str, precision: str, *, projects: bool) -> str | None:
    """Return why a layer can't be scanned on any GPU."""
    reason = kernel_choice.reason_against(SCAN, dtype, precision)
    if reason is None and projects:
        reason = "scan has no projection"
    if reason is None and N > MOST_UNITS:
        reason = f"scan has at most {MOST_UNITS} units, and a layer has {N}"
    return reason


def reason_against_device(N: int, dtype: str, precision: str, capability: int) -> str | None:
    """Return why a GPU of this compute capability can't scan N units, which others can, or None if it can."""
    reason = kernel_choice.reason_against_device(capability)
    is_tf32 = kernel_choice.arithmetic(dtype, precision) == "tf32"
    if reason is None and is_tf32 and N > _MOST_OF_TF32 and not kernel_choice.is_roomy(capability):
        reason = f"with TF32, scan has at most {_MOST_OF_TF32} units on this GPU, and a layer has {N}"
    return reason
