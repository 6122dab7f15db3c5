"""Serve sessions over HTTP and WebSockets.

    build           the application of Ray Serve, over a ShardedPool
    Limits          how rows are gathered into ticks, and what is refused
    app_of          the ASGI app of a service over any pool
    LocalPool       a pool in one process, without Ray's actors
    Pool            what a service needs of a pool

This package needs Ray Serve, the extra `ray`. The binary messages are those of `fusedlstm.frames`.
"""

from fusedlstm.ray.serve.app import app_of
from fusedlstm.ray.serve.deployment import build
from fusedlstm.ray.serve.limits import Limits
from fusedlstm.ray.serve.pools import LocalPool, Pool

__all__ = ["Limits", "LocalPool", "Pool", "app_of", "build"]
