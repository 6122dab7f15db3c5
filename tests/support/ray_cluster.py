"""A Ray cluster of several nodes on this machine, and pools on it."""

import contextlib
import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # else Ray kills shards when other programs take memory

MEMORY = 80 * 2**20  # bytes of each node's object store


@contextlib.contextmanager
def cluster(nodes=2):
    """Start nodes with 4 CPUs each, connect to them, and end them all."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()  # the code on a page leaves Ray running
    node = {"num_cpus": 4, "object_store_memory": MEMORY, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(nodes - 1):
            made.add_node(**{name: node[name] for name in ("num_cpus", "object_store_memory")})
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
