"""Which elements of a matrix a lane has in its registers, for mma.sync of 16-bit types and of TF32."""

from __future__ import annotations

import numpy as np

_LANES = np.arange(32)
_GROUP, _IN_GROUP = _LANES // 4, _LANES % 4


def of_bf16(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the words (32, 6) of a (16, 16) and b (16, 8) for m16n8k16: four of a, then two of b.

    The matrices are float32, with numbers that bfloat16 represents exactly.
    """
    low, high = 2 * _IN_GROUP, 2 * _IN_GROUP + 8
    pairs = [
        (a[_GROUP, low], a[_GROUP, low + 1]),
        (a[_GROUP + 8, low], a[_GROUP + 8, low + 1]),
        (a[_GROUP, high], a[_GROUP, high + 1]),
        (a[_GROUP + 8, high], a[_GROUP + 8, high + 1]),
        (b[low, _GROUP], b[low + 1, _GROUP]),
        (b[high, _GROUP], b[high + 1, _GROUP]),
    ]
    return np.stack([_upper(first) | _upper(second) << 16 for first, second in pairs], axis=1)


def of_tf32(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the words (32, 6) of a (16, 8) and b (8, 8) for m16n8k8."""
    words = [
        a[_GROUP, _IN_GROUP],
        a[_GROUP + 8, _IN_GROUP],
        a[_GROUP, _IN_GROUP + 4],
        a[_GROUP + 8, _IN_GROUP + 4],
        b[_IN_GROUP, _GROUP],
        b[_IN_GROUP + 4, _GROUP],
    ]
    return np.stack(words, axis=1).astype(np.float32).view(np.uint32)


def sums(d: np.ndarray) -> np.ndarray:
    """Return each lane's four sums (32, 4) of d (16, 8)."""
    column = 2 * _IN_GROUP
    places = [(_GROUP, column), (_GROUP, column + 1), (_GROUP + 8, column), (_GROUP + 8, column + 1)]
    return np.stack([d[place] for place in places], axis=1)


def _upper(numbers: np.ndarray) -> np.ndarray:
    """Return the upper 16 bits of float32 numbers, which are bfloat16's."""
    return np.ascontiguousarray(numbers, np.float32).view(np.uint32) >> 16
