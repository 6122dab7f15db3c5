"""Step sessions on many GPUs and machines, with Ray.

    ShardedPool         a StatePool in parts, which are Ray actors
    Snapshots           when to copy the states, for shards that die
    SessionsLostError   a shard died: what each session lost
    LateShardsError     a shard has not answered yet: wait again
    ShardStats          what `ShardedPool.stats` says about a shard

This package needs Ray, the extra `ray`. Importing fusedlstm doesn't import it.
"""

try:
    import ray  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "ray":
        raise
    raise ModuleNotFoundError(
        "fusedlstm.ray needs Ray, which is not installed: pip install 'fusedlstm[ray]'", name="ray"
    ) from error

from fusedlstm.ray.errors import LateShardsError, SessionsLostError
from fusedlstm.ray.sharded_pool import ShardedPool
from fusedlstm.ray.shards import ShardStats
from fusedlstm.ray.snapshots import Snapshots

__all__ = ["LateShardsError", "SessionsLostError", "ShardStats", "ShardedPool", "Snapshots"]
