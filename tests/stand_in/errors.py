"""The run time's error, which all of it raises."""


class CUDARuntimeError(RuntimeError):
    """A status that is not cudaSuccess."""

    status = 0
