"""The error of CUDA's runtime."""


class CUDARuntimeError(RuntimeError):
    """A status that is not cudaSuccess."""

    status = 0
