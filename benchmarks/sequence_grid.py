"""A grid of sequences: lengths, batches, units and resets. By default only a few are timed. --grid times all."""

import itertools

from benchmarks.cases import Case, sequence

_LENGTHS, _BATCHES, _SIZES = (16, 128, 512, 1600), (1, 16, 32, 128, 1024), (128, 256, 384, 512, 768, 1024)
_RESETS = (0.0, 0.03, 0.3)
_MOST_FLOP = 4e10  # of a case on a CPU, where it takes about a second

# T, B, N and resets. From a size in the middle, one axis at a time. Then N = 128, which a GPU steps in one launch: a
# single row, all rows, and resets.
_DEFAULT = {
    *((T, 32, 256, 0.0) for T in _LENGTHS),
    *((128, B, 256, 0.0) for B in _BATCHES),
    *((128, 32, N, 0.0) for N in _SIZES),
    *((128, 32, 256, resets) for resets in _RESETS),
    *((128, 32, 128, resets) for resets in _RESETS),
    *((T, 1, 128, 0.0) for T in (16, 1600)),
    *((128, 1024, 128, resets) for resets in (0.0, 0.03)),
}
_QUICK = {(16, 1, 128, 0.0), (128, 32, 128, 0.03)}


def _case(T: int, B: int, N: int, resets: float, dtype: str) -> Case:
    size = T, B, N, resets
    on_gpu = dtype != "float32" or 16 * T * B * N * N > _MOST_FLOP
    options = {"quick": size in _QUICK, "gpu_only": on_gpu, "grid_only": size not in _DEFAULT}
    return sequence("grid", T, B, N, N, resets=resets, dtype=dtype, **options)


GRID = [
    _case(*size, dtype)
    for dtype in ("float32", "bfloat16")
    for size in itertools.product(_LENGTHS, _BATCHES, _SIZES, _RESETS)
]
