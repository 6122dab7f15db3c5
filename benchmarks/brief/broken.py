"""Find out whether CUDA is broken for this process, as after an illegal access: every call of it then fails."""

from __future__ import annotations

# Of cudaError_t: those after which a process must end.
_STICKY = (214, *range(700, 730), 999)


class BrokenError(Exception):
    """CUDA is broken for this process."""


def check() -> None:
    """Wait for the GPU. Raise BrokenError if no call can succeed any more."""
    import cupy

    try:
        cupy.cuda.runtime.deviceSynchronize()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if error.status in _STICKY:
            raise BrokenError(str(error)) from error
