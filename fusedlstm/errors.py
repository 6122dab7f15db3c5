"""The public exceptions."""


class BackendUnavailableError(RuntimeError):
    """A backend that was asked for by name can't run on this machine; the message says why."""


class PoolFullError(RuntimeError):
    """A pool has fewer free slots than were wanted; none was allocated."""


class WeightsFileError(ValueError):
    """A file of weights or states that can't be used: damaged, truncated, of another kind, or from a newer version."""
