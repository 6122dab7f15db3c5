"""Kill processes that save a pool again and again, each at a random moment, and check the file.

    python -m support.pool_kills FOLDER carefully|naively KILLS

Prints how often the file was whole, old or new, how often it was broken, and how many kills came during a save.
"""

import random
import sys
from pathlib import Path

import numpy as np

from fusedlstm import LSTMCell, LSTMState, LSTMWeights, StatePool, files

from support.kills import kill_while_saving


def naively(path):
    """Open the file in place, which `files.replacing` must not do."""
    return open(path, "wb")


def filled(value):
    pool = StatePool(LSTMCell(LSTMWeights.random(1, 256, seed=0), backend="numpy"), 200)
    slots = pool.allocate(200)
    pool.write(slots, LSTMState(**{part: np.full((200, 256), value, np.float32) for part in "hc"}))
    return pool


def save_all(pools, path):
    for pool in pools:
        pool.save(path)


def main(folder, way, kills):
    pools, path, chance = [filled(1.0), filled(2.0)], folder / "pool", random.Random(0)
    contents = set()
    for pool in pools:
        pool.save(path)
        contents.add(path.read_bytes())
    if way == "naively":
        files.replacing = naively
    whole = broken = amid = 0
    for _ in range(kills):
        kill_while_saving(lambda: save_all(pools, path), chance.uniform(0, 0.02))
        if path.read_bytes() in contents:
            pools[0].load(path)
            whole += 1
        else:
            broken += 1
        left = [other for other in folder.iterdir() if other != path]
        amid += bool(left)
        for other in left:
            other.unlink()
    print(whole, broken, amid)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
