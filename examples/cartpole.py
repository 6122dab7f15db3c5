"""Balance thousands of poles whose simulators are not in step: a StatePool, beside gather, torch.nn.LSTMCell, scatter.

    pip install . && OPENBLAS_NUM_THREADS=1 python examples/cartpole.py

The policy sees where the cart is and how the pole leans, but no speeds: it needs its memory. At each tick a random
half of the environments is ready, as simulators are that run on their own; the states of the others stay as they are.
Both programs play the same environments. They differ by rounding only, so that they take the same actions, unless one
was a close call. Without PyTorch the second is left out. On a GPU everything is there, the simulators too.

The policy, an LSTM of 64 units and a linear head, is in two files beside this one; train_cartpole.py has made them.
"""

import argparse
import importlib.util
import math
import os
import time
from pathlib import Path

import numpy as np

from fusedlstm import LSTMCell, LSTMWeights, StatePool

FOLDER = Path(__file__).parent
LONGEST = 500  # steps, after which an episode ends
WARM_UP = 20  # ticks, in which kernels are compiled and memory is allocated


class CartPoles:
    """n poles on carts, by the equations of Barto, Sutton and Anderson (1983), as Gymnasium's CartPole-v1.

    At each tick `receive` says which environments are ready and what they show, and `send` takes their actions.
    Arrays are xp's, which is numpy or cupy. With the same seed the same ones are ready, and begin at the same places.
    """

    def __init__(self, xp, n, ticks, seed=0):
        rng = np.random.default_rng(seed)
        self.xp, self.tick = xp, 0
        self.ready = xp.asarray(np.stack([rng.permutation(n)[: (n + 1) // 2] for _ in range(ticks)]))
        self.starts = xp.asarray(rng.uniform(-0.05, 0.05, (n, 4)).astype(np.float32))
        self.states = self.starts.copy()
        self.is_first = xp.ones(n, bool)
        self.ages, self.episodes, self.finished_steps = (xp.zeros(n, int) for _ in range(3))
        self.actions = xp.full((ticks, n), -1, np.int8)  # 1 to the right, 0 to the left, -1 where it was not ready

    def receive(self):
        """Return which environments are ready (B,), the position and angle of each (B, 2), and is_first (B,)."""
        rows = self.ready[self.tick]
        return rows, self.states[rows][:, ::2], self.is_first[rows]

    def send(self, right):
        """Push the carts that are ready to the right, or else to the left (B,), and begin anew what ends by that."""
        rows = self.ready[self.tick]
        self.actions[self.tick, rows] = right
        states, ages = advance(self.xp, self.states[rows], right), self.ages[rows] + 1
        done = has_fallen(states) | (ages == LONGEST)
        self.episodes[rows] += done
        self.finished_steps[rows] += done * ages
        starts = self.starts[(rows + self.episodes[rows]) % len(self.starts)]  # where a neighbour has begun
        self.states[rows] = self.xp.where(done[:, None], starts, states)
        self.ages[rows] = ages * ~done
        self.is_first[rows] = done  # is_first[t + 1] = done[t]
        self.tick += 1


def advance(xp, states, right):
    """Return the states (B, 4) of position, speed, angle, spin (m, m/s, rad, rad/s) after 0.02 s of a push."""
    _, speed, angle, spin = states.T
    sine, cosine = xp.sin(angle), xp.cos(angle)
    force = 20 * right.astype(states.dtype) - 10  # N, on a cart of 1 kg with a pole of 0.1 kg, its centre 0.5 m up
    push = (force + 0.05 * spin**2 * sine) / 1.1
    turn = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    return states + 0.02 * xp.stack([speed, push - 0.05 * turn * cosine / 1.1, spin, turn], axis=1)


def has_fallen(states):
    """Return which carts (B,) are more than 2.4 m from the middle, or have poles that lean by more than 12 degrees."""
    return (abs(states[:, 0]) > 2.4) | (abs(states[:, 2]) > math.radians(12))


def with_pool(poles, cell, head):
    """Return what plays a tick; the states are in a StatePool."""
    n = len(poles.starts)
    pool = StatePool(cell, capacity=n)
    slots = poles.xp.asarray(pool.allocate(n))  # of a GPU they are checked there: pool.check() tells

    def play():
        rows, x, is_first = poles.receive()
        h = pool.step(x, slots[rows], is_first=is_first)
        poles.send(h @ head > 0)

    return play


def with_torch(poles, cell, head):
    """Return what plays a tick; the states are two tensors of PyTorch, from and to which rows are copied."""
    import torch

    xp, device = poles.xp, cell.device
    core = torch_cell(cell.weights).to(device)
    h, c = torch.zeros(2, len(poles.starts), core.hidden_size, device=device)

    @torch.inference_mode()
    def play():
        rows, x, is_first = (torch.as_tensor(array, device=device) for array in poles.receive())
        keep = ~is_first[:, None]
        new_h, new_c = core(x, (h[rows] * keep, c[rows] * keep))
        h[rows], c[rows] = new_h, new_c
        poles.send(xp.asarray(new_h) @ head > 0)

    return play


def torch_cell(weights):
    """Return a torch.nn.LSTMCell of these weights, whose bias becomes one of its two."""
    import torch

    core = torch.nn.LSTMCell(weights.input_size, weights.hidden_size)
    arrays = {**weights.arrays(), "bias_ih": weights.bias, "bias_hh": np.zeros_like(weights.bias)}
    core.load_state_dict({name: torch.tensor(arrays[name]) for name in core.state_dict()})
    return core


def load(backend=None):
    """Return the policy: a cell, and its head (N,) on the same device; where h @ head is above 0, push to the right."""
    cell = LSTMCell(LSTMWeights.load(FOLDER / "cartpole_lstm.safetensors"), backend=backend)
    return cell, cell.asarray(np.load(FOLDER / "cartpole_head.npy"))


def run(program, environments, steps, cell, head):
    """Play; return the environments as they are in the end, and how many steps of them were taken a second."""
    poles = CartPoles(cell.xp, environments, 2 * steps + WARM_UP)
    play = program(poles, cell, head)
    for tick in range(len(poles.ready)):
        if tick == WARM_UP:
            poles.states.sum().item()  # waits for a GPU, as below
            start = time.perf_counter()
        play()
    poles.states.sum().item()
    return poles, poles.ready[WARM_UP:].size / (time.perf_counter() - start)


def programs():
    """Return the programs by name; PyTorch's with as many threads as the other has, if PyTorch is there."""
    if importlib.util.find_spec("torch") is None:
        return {"StatePool": with_pool}
    import torch

    torch.set_num_threads(int(os.environ.get("OPENBLAS_NUM_THREADS") or os.cpu_count()))
    return {"StatePool": with_pool, "torch.nn.LSTMCell": with_torch}


def main(arguments=None):
    """Play with both programs; say how fast each was, how long the episodes were, and whether both acted alike."""
    parser = argparse.ArgumentParser(description="Balance poles with an LSTM, in a StatePool and with PyTorch.")
    parser.add_argument("--environments", type=int, default=4096, help="how many there are (4096)")
    parser.add_argument("--steps", type=int, default=600, help="of an environment, on average (600)")
    parser.add_argument("--backend", help="numpy or cuda; without it cuda where it can run, else numpy")
    options = parser.parse_args(arguments)
    if options.environments < 1 or options.steps < 1:
        parser.error("--environments and --steps: wanted 1 or more")
    cell, head = load(options.backend)
    print(f"{cell.weights} on {cell.device}; OPENBLAS_NUM_THREADS: {os.environ.get('OPENBLAS_NUM_THREADS', 'not set')}")
    played = []
    for name, program in programs().items():
        poles, speed = run(program, options.environments, options.steps, cell, head)
        episodes, steps = int(poles.episodes.sum()), int(poles.finished_steps.sum())
        lengths = f"of {steps / episodes:.1f} steps on average" if episodes else "have ended"
        print(f"{name:18}{speed:12,.0f} environment steps a second; {episodes} episodes {lengths}")
        played.append(poles)
    if len(played) == 1:
        print("PyTorch is not installed: there is nothing to compare with.")
    else:
        same = int((played[0].actions == played[1].actions).all(axis=0).sum())
        print(f"The same actions throughout in {same} of {options.environments} environments.")


if __name__ == "__main__":
    main()
