"""The public exceptions and warnings."""


class BackendUnavailableError(RuntimeError):
    """A backend can't be used on this machine. The message says why."""


class PoolFullError(RuntimeError):
    """A pool has fewer free slots than were requested. No slot was allocated."""


class WeightsFileError(ValueError):
    """A file of weights or states can't be used: it is damaged, truncated, of another kind, or from a newer version."""


class OtherWeightsWarning(UserWarning):
    """The states in a pool's file were computed with other weights than those of the pool that loads it."""
