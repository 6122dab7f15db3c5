"""Use a ShardedPool on a cluster, and end. With "badly", leave a process behind instead.

    python -m support.ray_ends [badly]

Prints how many processes have this program's mark in their environment.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

MARK = "FUSEDLSTM_TEST_MARK"


def marked(mark):
    """Return the processes with this mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended, or is another user's
            pass
    return found


def use_a_cluster():
    from fusedlstm import LSTMWeights
    from fusedlstm.ray import SessionsLostError, ShardedPool

    from support.ray_cluster import cluster
    from support.sharded import kill

    with cluster(nodes=1), ShardedPool(LSTMWeights.random(2, 3, seed=0), shards=2, capacity=2) as pool:
        pool.open(["a", "b"])
        pool.step(np.ones((2, 2), np.float32), ["a", "b"])
        kill(pool, 0)
        try:
            while True:
                pool.step(np.ones((2, 2), np.float32), ["a", "b"])
        except SessionsLostError:
            assert pool.wait(60)
        print(len(marked(os.environ[MARK])))


if __name__ == "__main__":
    if sys.argv[1:] == ["badly"]:
        subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
        print(len(marked(os.environ[MARK])))
    else:
        use_a_cluster()
