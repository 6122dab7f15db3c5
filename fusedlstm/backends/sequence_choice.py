"""The kernels of sequences on a GPU: where many steps are one launch, and the choice. This doesn't import CuPy.

"scan" computes x's part of the gates of many steps in one launch, and takes all of these steps in another. The other
kernels are those of single steps: see `kernel_choice`.

A scan sums in the order of "tensor_medium". That kernel replaces scans of few steps, so the bits don't depend on how a
sequence is cut into pieces. Batch-invariant sequences always use "tensor_medium", as only a GPU can show that both
kernels give the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedlstm.backends import kernel_choice
from fusedlstm.backends.kernel_choice import SCAN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.measured import Measured
    from fusedlstm.weights import LSTMWeights

NAMES = (*kernel_choice.NAMES, SCAN)
MOST_UNITS = 128  # of a scan, whose block has all units
FEWEST_STEPS = 3  # of a scan, by the same model as the tables. Its two launches take longer than one or two steps
OF_FEW_STEPS = "tensor_medium"
_MOST_OF_TF32 = 96  # of a scan on GPUs with little shared memory, where the weights take half of it

# Up to this many units N, sequences of up to this many rows B are scans. A model of an H200 predicts it
# (benchmarks/sequence_model.py). The model knows no other architecture, so all use these tables.
_ROWS = ((64, 4096), (MOST_UNITS, 2048))
# For each arithmetic: the most inputs B I of a step. With more, products of another kernel save more than the scan.
_INPUTS = {"bfloat16": 1 << 22, "float16": 1 << 22, "tf32": 1 << 20}


def choose(
    steps: int,
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
    scans: bool = True,
) -> str:
    """Return the kernel of a layer's sequences: the fastest one measured, or else the one predicted by tables.

    It doesn't depend on other layers. It depends on `steps` only where both kernels give the same bits.

    Args:
        steps: the most steps that one graph takes.
        B: rows.
        size: I, N and P.
        dtype: the name of the dtype of x and h.
        precision: the precision of float32 matmuls.
        capability: the GPU's compute capability, 90 for 9.0.
        projects: whether the layer projects h.
        forced: a kernel that the user named or batch_invariant needs, unchecked. Parts below FEWEST_STEPS never scan.
        can_plan: whether nvmath-python is there, without which "matmul" can't be planned.
        measured: times of the layer on this GPU, or None. Without times of sequences, those of single steps count
            where the layer doesn't scan.
        scans: whether it may scan. A scan writes only the last state.
    """
    about = dtype, precision, capability
    can_scan = scans and _can_scan(size, *about, projects=projects)

    def can_run(kernel: str) -> bool:
        if kernel in (SCAN, "matmul"):
            return can_scan if kernel == SCAN else can_plan
        return kernel_choice.reason_against_device(capability) is None

    kernel: str | None = None
    if scans and forced == SCAN:
        kernel = SCAN
    elif of_steps(forced) is None:
        times = {} if measured is None else measured.times_of_sequences(B)
        kernel = next((each for each in times if can_run(each)), None)
        if kernel is None and can_scan and _scans(B, size, dtype, precision):
            kernel = SCAN
    if kernel is None:
        (kernel,) = kernel_choice.runnable_layers(
            B, (size,), *about, forced=of_steps(forced), can_plan=can_plan, measured=(measured,)
        )
    return OF_FEW_STEPS if kernel == SCAN and steps < FEWEST_STEPS else kernel


def _can_scan(size: tuple[int, int, int], dtype: str, precision: str, capability: int, *, projects: bool) -> bool:
    """Return whether a layer can scan on this GPU."""
    _, N, P = size
    reason = limit(N, P, dtype, precision, projects=projects)
    return not (reason or reason_against_device(N, dtype, precision, capability))


def _scans(B: int, size: tuple[int, int, int], dtype: str, precision: str) -> bool:
    """Return whether a scan is predicted to be fastest for a layer that can scan."""
    I, N, _ = size
    rows, inputs = next(rows for most, rows in _ROWS if most >= N), _INPUTS[kernel_choice.arithmetic(dtype, precision)]
    return rows >= B and inputs >= B * I


def of_steps(kernel: str | None) -> str | None:
    """Return the kernel that a user's choice forces on single steps, Steppers and pools. "scan" forces none."""
    return None if kernel == SCAN else kernel


def reason_against(layers: Sequence[LSTMWeights], precision: str) -> str | None:
    """Return why these layers can't all be scanned on any GPU, or None if they can."""
    for k, layer in enumerate(layers):
        projects = layer.weight_hr is not None
        reason = limit(layer.hidden_size, layer.output_size, layer.dtype.name, precision, projects=projects)
        if reason is not None:
            return reason if len(layers) == 1 else f"{reason} (layers[{k}])"
    return None


def limit(N: int, P: int, dtype: str, precision: str, *, projects: bool) -> str | None:
    """Return why a layer of N units and P columns of h can't be scanned on any GPU, or None if it can."""
    reason = kernel_choice.reason_against(SCAN, dtype, precision)
    if reason is None and N > MOST_UNITS:
        reason = f"scan has at most {MOST_UNITS} units, and a layer has {N}"
    if reason is None and P > N:
        reason = f"scan projects N units to at most N columns, but a layer projects {N} to {P}"
    if reason is None and projects and kernel_choice.arithmetic(dtype, precision) == "tf32":
        reason = "with TF32, scan has no projection"  # registers don't suffice on all GPUs
    return reason


def reason_against_device(N: int, dtype: str, precision: str, capability: int) -> str | None:
    """Return why a GPU of this compute capability can't scan N units, which others can, or None if it can."""
    reason = kernel_choice.reason_against_device(capability)
    is_tf32 = kernel_choice.arithmetic(dtype, precision) == "tf32"
    if reason is None and is_tf32 and N > _MOST_OF_TF32 and not kernel_choice.is_roomy(capability):
        reason = f"with TF32, scan has at most {_MOST_OF_TF32} units on this GPU, and a layer has {N}"
    return reason


def reason_against_kernel(kernel: str, N: int, dtype: str, precision: str, capability: int) -> str | None:
    """Return why a GPU of this compute capability can't run a kernel on N units, or None if it can."""
    if kernel == SCAN:
        return reason_against_device(N, dtype, precision, capability)
    return None if kernel == "matmul" else kernel_choice.reason_against_device(capability)
