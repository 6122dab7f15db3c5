"""Kill processes that save a sharded pool's folder again and again, each at a random moment, and read the folder.

    python -m support.folder_kills FOLDER carefully|manifest_first KILLS

Prints how often the folder was whole, how often it was broken, and how many kills came during a save.
"""

import os
import random
import sys

import numpy as np

from fusedlstm import LSTMState, LSTMWeights, WeightsFileError, pool_files
from fusedlstm.ray import folder as folders

from support.kills import kill_while_saving

WEIGHTS = LSTMWeights.random(1, 64, seed=0)


def content(value, shards):
    """Return the parts of a folder whose states all have this value."""
    parts = np.array_split(np.arange(200), shards)
    full = [np.full((len(rows), 64), value, np.float32) for rows in parts]
    return [
        ([f"{value} {row}" for row in rows], (np.arange(len(rows)), [LSTMState(h=a, c=a)]))
        for rows, a in zip(parts, full, strict=True)
    ]


def manifest_first(folder, parts, weights):
    """Write the manifest before the files that it names, as `folder.write` must not do."""
    late, save = [], pool_files.save
    pool_files.save = lambda *arguments: late.append(arguments)
    folders.write(folder, parts, weights)
    pool_files.save = save
    for arguments in late:
        save(*arguments)


def save_both(folder, write):
    write(folder, content(1.0, 2), WEIGHTS)
    write(folder, content(2.0, 3), WEIGHTS)


def is_whole(folder):
    try:
        keys, (state,), _ = folders.read(folder, WEIGHTS)
    except WeightsFileError:
        return False
    value = state.h.flat[0]
    return keys == [f"{value} {row}" for row in range(200)] and (state.h == value).all() and (state.c == value).all()


def main(folder, way, kills):
    write = {"carefully": folders.write, "manifest_first": manifest_first}[way]
    folders.write(folder, content(1.0, 2), WEIGHTS)
    chance = random.Random(0)
    whole = broken = amid = 0
    for _ in range(kills):
        kill_while_saving(lambda: save_both(folder, write), chance.uniform(0, 0.03))
        if is_whole(folder):
            whole += 1
        else:
            broken += 1
        amid += len(os.listdir(folder)) not in (3, 4)
        folders.write(folder, content(1.0, 2), WEIGHTS)
        assert len(os.listdir(folder)) == 3, "this save should remove what killed ones left"
    print(whole, broken, amid)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
