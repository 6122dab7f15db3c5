"""The kernels of a GPU's step: their names, what each can multiply, and the choice. This doesn't import CuPy.

"matmul" is one cuBLASLt product, or two cuBLAS products in a plain call, followed by one kernel. The others do a whole
step in one kernel, tile by tile: "tensor_large", "tensor_medium" and "tensor_small" on tensor cores, "simt" with fma.

Sequences may also use "scan", which does many steps at once: see `sequence_choice`.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, TypeAlias

from fusedlstm.validation.arguments import describe_type, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.measured import Measured

    Table: TypeAlias = tuple[tuple[float, tuple[tuple[float, str], ...]], ...]

TENSOR = ("tensor_large", "tensor_medium", "tensor_small")
NAMES = ("matmul", *TENSOR, "simt")
SCAN = "scan"  # for sequences alone
ROWS_OF_A_POOL = 1024  # a pool's kernels are chosen for steps of this many rows, or of all slots if it has fewer
OLDEST = 80  # the compute capability 8.0, as CuPy writes it: tiles need its cp.async and mma
# Compute capabilities of GPUs whose multiprocessors have at least 164 KiB of shared memory. The others have 100.
_ROOMY = frozenset({80, 87, 90, 100, 103, 110})

_MORE = math.inf
_LARGE, _MEDIUM, _SMALL = TENSOR
# For each arithmetic: the kernel for up to this many rows B and this many units N, in a cell with I = N. A model of
# an H200 predicts it (benchmarks/step_model.py). The model knows no other architecture, so all use this table. Where
# two kernels are within a tenth of each other, the neighbouring entries decide.
_TABLE: dict[str, Table] = {
    "bfloat16": (
        (32, ((1024, _SMALL), (_MORE, "matmul"))),
        (64, ((640, _SMALL), (_MORE, "matmul"))),
        (128, ((512, _SMALL), (_MORE, "matmul"))),
        (256, ((320, _SMALL), (512, _MEDIUM), (_MORE, "matmul"))),
        (512, ((160, _SMALL), (384, _MEDIUM), (_MORE, "matmul"))),
        (1024, ((64, _SMALL), (320, _MEDIUM), (_MORE, "matmul"))),
        (2048, ((192, _MEDIUM), (256, _LARGE), (_MORE, "matmul"))),
        (4096, ((64, _MEDIUM), (384, _LARGE), (_MORE, "matmul"))),
        (_MORE, ((384, _LARGE), (_MORE, "matmul"))),
    ),
    "tf32": (
        (32, ((768, _SMALL), (_MORE, "matmul"))),
        (64, ((512, _SMALL), (_MORE, "matmul"))),
        (128, ((384, _SMALL), (_MORE, "matmul"))),
        (256, ((256, _SMALL), (_MORE, "matmul"))),
        (512, ((160, _SMALL), (256, _MEDIUM), (_MORE, "matmul"))),
        (1024, ((64, _SMALL), (192, _MEDIUM), (_MORE, "matmul"))),
        (2048, ((160, _MEDIUM), (_MORE, "matmul"))),
        (4096, ((64, _MEDIUM), (128, _LARGE), (_MORE, "matmul"))),
        (_MORE, ((192, _LARGE), (_MORE, "matmul"))),
    ),
    "float32": ((_MORE, ((_MORE, "matmul"),)),),
    "float64": ((_MORE, ((_MORE, "matmul"),)),),
}
_TABLE["float16"] = _TABLE["bfloat16"]


def choose(
    B: int,
    I: int,
    N: int,
    P: int | None,
    dtype: str,
    precision: str,
    capability: int,
    *,
    forced: str | None = None,
    measured: Measured | None = None,
) -> str:
    """Return the kernel that steps a layer: the fastest one measured, else that of the table of predictions.

    Args:
        B: rows.
        I: input size.
        N: units.
        P: width of a projected h; None, or N, without a projection.
        dtype: the name of the dtype of x and h.
        precision: the precision of float32 matmuls.
        capability: the GPU's compute capability, 90 for 9.0.
        forced: a kernel that the user named or batch_invariant needs. It is returned unchecked: the caller checks
            whether it can run.
        measured: times of the layer's kernels on this GPU, or None. They count up to the most rows measured.
    """
    if forced is not None:
        return forced
    if reason_against_device(capability) is not None:
        return "matmul"
    if measured is not None and (times := measured.times(B)):
        return next(iter(times))
    size = math.isqrt(N * (I + (P or N)) // 2)  # the N of a cell with I = N and as many multiplications
    columns = next(columns for most, columns in _TABLE[arithmetic(dtype, precision)] if most >= B)
    return _for_room(next(kernel for most, kernel in columns if most >= size), capability)


def is_roomy(capability: int) -> bool:
    """Return whether a multiprocessor of these GPUs has much shared memory. Unknown GPUs are taken to have little."""
    return capability in _ROOMY


def _for_room(kernel: str, capability: int) -> str:
    """Return a kernel, or "tensor_medium" for "tensor_large" if a multiprocessor has room for one block only."""
    return _MEDIUM if kernel == _LARGE and not is_roomy(capability) else kernel


def choices(
    I: int,
    N: int,
    P: int | None,
    dtype: str,
    precision: str,
    capability: int,
    *,
    forced: str | None = None,
    measured: Measured | None = None,
) -> set[str]:
    """Return the kernels that `choose` returns for any number of rows."""
    rows = {int(min(most, 1 << 62)) for most, _ in _TABLE[arithmetic(dtype, precision)]}
    rows.update(() if measured is None else measured.rows)
    about = I, N, P, dtype, precision, capability
    return {choose(B, *about, forced=forced, measured=measured) for B in rows}


def choose_layers(
    B: int,
    sizes: Sequence[tuple[int, int, int | None]],
    dtype: str,
    precision: str,
    capability: int,
    *,
    forced: str | None = None,
    measured: Sequence[Measured | None] = (),
) -> tuple[str, ...]:
    """Return the kernel of each layer. If one layer gets matmul, all do, unless it was measured to be slower in total.

    `sizes` has I, N and P of each layer, and `measured` the times of each, or nothing. The other arguments are
    `choose`'s.
    """
    measured = measured or (None,) * len(sizes)
    about = dtype, precision, capability
    kernels = tuple(
        choose(B, *each, *about, forced=forced, measured=of) for each, of in zip(sizes, measured, strict=True)
    )
    if "matmul" not in kernels:
        return kernels
    if forced is None and None not in measured:
        others = [_fastest_other(B, of) for of in measured]
        if sum(seconds for _, seconds in others) < sum(_seconds(B, of, "matmul") for of in measured):
            return tuple(kernel for kernel, _ in others)
    return ("matmul",) * len(kernels)


def _fastest_other(B: int, measured: Measured | None) -> tuple[str, float]:
    """Return the fastest measured kernel other than matmul, and its seconds. Without one, these are infinite."""
    times = {} if measured is None else measured.times(B)
    return next(((kernel, seconds) for kernel, seconds in times.items() if kernel != "matmul"), ("matmul", math.inf))


def _seconds(B: int, measured: Measured | None, kernel: str) -> float:
    return math.inf if measured is None else measured.times(B).get(kernel, math.inf)


def runnable_layers(
    B: int,
    sizes: tuple[tuple[int, int, int | None], ...],
    dtype: str,
    precision: str,
    capability: int,
    *,
    forced: str | None,
    can_plan: bool,
    measured: tuple[Measured | None, ...] = (),
) -> tuple[str, ...]:
    """Return the kernels of layers as `choose_layers` does. If matmuls can't be planned, avoid matmul where possible.

    `can_plan` is whether nvmath-python is there.
    """
    kernels = choose_layers(B, sizes, dtype, precision, capability, forced=forced, measured=measured)
    if "matmul" in kernels and forced is None and not can_plan and reason_against_device(capability) is None:
        return one_kernel_layers(B, sizes, dtype, precision, capability, measured=measured)
    return kernels


@functools.lru_cache(maxsize=1024)
def one_kernel_layers(
    B: int,
    sizes: tuple[tuple[int, int, int | None], ...],
    dtype: str,
    precision: str,
    capability: int,
    forced: str | None = None,
    measured: tuple[Measured | None, ...] = (),
) -> tuple[str, ...]:
    """Return a kernel other than matmul for each layer: the fastest measured, the table's, or one that suits B rows.

    The GPU must be able to run these kernels.
    """
    tensor = reason_against("tensor_large", dtype, precision) is None
    filled = (_SMALL if B <= 64 else _MEDIUM if B <= 1024 else _for_room(_LARGE, capability)) if tensor else "simt"
    found = []
    for each, of in zip(sizes, measured or (None,) * len(sizes), strict=True):
        kernel = "matmul" if forced else _fastest_other(B, of)[0]
        if kernel == "matmul":
            kernel = choose(B, *each, dtype, precision, capability, forced=forced)
        found.append(filled if kernel == "matmul" else kernel)
    return tuple(found)


def arithmetic(dtype: str, precision: str) -> str:
    """Return the kind of a GPU's products: "float64", "float32", "tf32", "float16" or "bfloat16"."""
    return "tf32" if dtype == "float32" and precision == "high" else dtype


def reason_against(kernel: str, dtype: str, precision: str) -> str | None:
    """Return why a kernel can't step this dtype at this precision, or None if it can. "scan" has more limits."""
    if kernel in (*TENSOR, SCAN) and arithmetic(dtype, precision) not in ("tf32", "float16", "bfloat16"):
        return f'{kernel} multiplies float16, bfloat16, and float32 with precision="high" only'
    if kernel == "simt" and dtype not in ("float32", "float64"):
        return "simt multiplies float32 and float64 only"
    return None


def reason_against_device(capability: int) -> str | None:
    """Return why a GPU of this compute capability (75 for 7.5) can't step in one kernel, or None if it can."""
    if capability >= OLDEST:
        return None
    return f"steps in one kernel need compute capability {_dotted(OLDEST)}, and this GPU has {_dotted(capability)}"


def describe(capability: int, *, is_measured: bool = False) -> str:
    """Describe how Steppers and pools step on a GPU of this compute capability.

    `is_measured` says whether there are measured times of some layers.
    """
    if capability >= OLDEST and is_measured:
        return "steps: the kernel is chosen by measured times, and for other layers by a table of predictions"
    if capability >= OLDEST:
        return "steps: the kernel is chosen by a table of predictions"
    return f"steps: matmul and pointwise, as compute capability {_dotted(capability)} is older than {_dotted(OLDEST)}"


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


def invariant(dtype: str, precision: str) -> str:
    """Return the kernel of a batch-invariant cell, which sums every row in the same order."""
    return "tensor_medium" if reason_against("tensor_medium", dtype, precision) is None else "simt"


_NO_SEQUENCES = "scan runs whole sequences, so only an LSTM can use it"


def check(
    value: Any, dtype: str, precision: str, *, batch_invariant: bool, no_scan: str | None = _NO_SEQUENCES
) -> None:
    """Raise unless the argument `kernel` of a cell or an LSTM is None, or a name that the other options allow.

    `no_scan` is why it can't be "scan", or None if it can.

    Raises:
        TypeError: it is neither a str nor None.
        ValueError: the name is unknown, or the dtype, the precision or batch_invariant doesn't allow it.
    """
    if value is None:
        return
    if not isinstance(value, str):
        fail(TypeError, "kernel", "a str or None", describe_type(value))
    names = NAMES if no_scan else (*NAMES, SCAN)
    if value not in (*NAMES, SCAN):
        fail(ValueError, "kernel", f"None or one of {_listed(names)}", repr(value))
    of = f'{dtype}, precision="{precision}"' if dtype == "float32" else dtype
    reason = no_scan if value == SCAN else reason_against(value, dtype, precision)
    if reason is not None:
        fitting = tuple(name for name in names if reason_against(name, dtype, precision) is None)
        fail(ValueError, "kernel", f"None or one of {_listed(fitting)} for {of}", repr(value), reason)
    if batch_invariant and value != (only := invariant(dtype, precision)):
        hint = "Batch-invariant steps always use this kernel, which sums every row in the same order"
        fail(ValueError, "kernel", f"None or {only!r} with batch_invariant=True for {of}", repr(value), hint)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names))
