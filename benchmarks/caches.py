"""Flush caches before a call, by writing more than they hold.

On a CPU one thread writes, so the caches of other cores may keep their content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES = 1 << 28  # more than a CPU's last-level cache, or a GPU's L2


def flusher(device: str) -> Callable[[], None]:
    """Return a function that flushes a device's caches, and waits until that is done."""
    if device == "cpu":
        large = np.zeros(BYTES, np.uint8)
        return lambda: large.fill(1)
    import cupy

    large = cupy.zeros(BYTES, np.uint8)

    def flush() -> None:
        large.fill(1)
        cupy.cuda.Device().synchronize()

    return flush
