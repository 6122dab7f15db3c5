"""Notice that CUDA is broken for this process, as after an illegal access. Every call of CUDA then fails."""

from __future__ import annotations

from fusedlstm.backends import select


class BrokenError(Exception):
    """CUDA is broken for this process."""


def check() -> None:
    """Wait for the GPU. Raise BrokenError if no call can succeed any more."""
    words = select.lost("cuda")
    if words is not None:
        raise BrokenError(words)
