"""Step 1,000 audio streams that start and stop. At each tick only some of them have a frame.

Shows: allocate and release slots of a StatePool, step those with a frame, pad the batch, save, restart.
Needs: fusedlstm. The weights are random and the audio is noise, so there is nothing to download.
Run:   python examples/audio_pool.py
"""

# %%
import tempfile
import time
from pathlib import Path

import numpy as np

from fusedlstm import LSTMCell, LSTMWeights, StatePool

STREAMS, CHANGES = 1000, 5  # live streams; how many stop, and how many start, at each tick
T, B = 300, 256  # ticks, and rows of a step: at most STREAMS
I, N = 160, 128  # samples of a frame (10 ms at 16 kHz), units
rng = np.random.default_rng(0)

# %% The states of all streams stay in the pool: on a GPU if CUDA can run, else in NumPy.
cell = LSTMCell(LSTMWeights.random(input_size=I, hidden_size=N, seed=0))  # or load or convert your own
pool = StatePool(cell, capacity=STREAMS)
pool.prepare(B)  # steps of up to B rows then allocate nothing large
slots = pool.allocate(STREAMS)  # each stream has a slot, which is a number
watched = slots[0]  # a stream that doesn't stop, to compare with the same audio run alone
heard, outputs = [], []  # the frames and outputs of that stream

# %% Buffers of a fixed batch
x = np.zeros((B, I), np.float32)
rows = np.full(B, -1)  # the slot of each row
out = cell.asarray(np.zeros((B, N)))

# %%
seconds, steps = 0.0, 0
for t in range(T):
    # Some streams stop, and others start with states of zeros. These may get the slots that were just released.
    pool.release(rng.choice(slots[slots != watched], CHANGES, replace=False))
    pool.allocate(CHANGES)
    slots = pool.slots

    # Some streams have a frame, in any order. The rest of the batch is padding, which is skipped. Its output is zeros.
    ready = rng.choice(slots, rng.integers(B // 2, B + 1), replace=False)
    x[: len(ready)] = rng.normal(size=(len(ready), I))  # yours come from the network
    rows[:] = -1
    rows[: len(ready)] = ready

    start = time.perf_counter()
    pool.step(cell.asarray(x), rows, out=out)  # out[k] is the output of the stream in rows[k]
    h = pool.read(watched).to_numpy().h  # on a GPU this also waits for the step
    seconds += time.perf_counter() - start
    steps += len(ready)
    if watched in ready:
        heard.append(x[rows == watched])  # a copy
        outputs.append(h)

    # Restart halfway, with room for more streams. Slots keep their numbers.
    if t == T // 2:
        with tempfile.TemporaryDirectory() as folder:  # use a permanent folder instead
            pool.save(Path(folder, "streams.safetensors"))
            pool = StatePool(cell, capacity=2 * STREAMS)
            pool.load(Path(folder, "streams.safetensors"))
        pool.prepare(B)

print(f"{T / seconds:,.0f} ticks and {steps / seconds:,.0f} frames a second on {cell.device}:")
print(f"enough for {steps / seconds / 100:,.0f} streams of 100 frames a second")

# %% Run the audio of the watched stream alone, and compare.
state = cell.zero_state(1)
difference = 0.0
for frame, output in zip(heard, outputs, strict=True):
    state = cell(cell.asarray(frame), state)
    difference = max(difference, np.abs(state.to_numpy().h - output).max())
print(f"{pool.live} streams are live. One of them had {len(heard)} frames: run alone, it differs by {difference:.0e}")
assert heard, "the watched stream had no frame: run more ticks"
assert difference < 1e-5
