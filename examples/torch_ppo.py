"""Train a recurrent policy by PPO on a cart pole whose speeds are hidden, with resets inside the sequences.

Shows: fusedlstm.torch.LSTM runs whole rollouts, in which episodes end and begin, forward and backward in one call.
Needs: PyTorch, on a CPU.
Run:   python examples/torch_ppo.py [--seed 0] [--minutes 10] [--unrolled]

With --unrolled the same network is a torch.nn.LSTMCell in a loop over the steps. The policy sees where the cart and the
pole are, but not how fast they move, so it needs memory. An episode ends when the pole falls, or after 500 steps.
"""

# %%
import argparse
import time

import torch
from torch import nn
from torch.distributions import Categorical

from fusedlstm import LSTMState
from fusedlstm.torch import LSTM

B, T, N = 16, 128, 64  # environments, steps of a rollout, units
EPOCHS, PARTS = 4, 4  # passes over a rollout, and minibatches of environments in each
GAMMA, LAMBDA, CLIP = 0.99, 0.95, 0.2
LONGEST, WANTED, LAST = 500, 450, 50  # most steps of an episode; stop at this mean over the last 50 episodes

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--minutes", type=float, default=10)
parser.add_argument("--unrolled", action="store_true")
args = parser.parse_args()
torch.manual_seed(args.seed)
torch.set_num_threads(1)  # more threads would slow down such small work


# %%
class CartPoles:
    """B poles on carts, as in Barto, Sutton and Anderson (1983)."""

    def __init__(self):
        self.states, self.ages = self.starts(), torch.zeros(B, dtype=torch.int64)

    @staticmethod
    def starts():
        return torch.empty(B, 4).uniform_(-0.05, 0.05)

    def observations(self):
        """Return the positions of cart and pole, without their speeds."""
        return self.states[:, ::2] / torch.tensor([2.4, 0.2095])

    def step(self, right):
        """Push each cart. Return which poles fell, which episodes were cut off, and their ages in steps."""
        _, speed, angle, spin = self.states.T  # m, m/s, rad, rad/s
        # A force in N on a cart of 1 kg. The pole has 0.1 kg, centred 0.5 m up.
        force = torch.where(right, 10.0, -10.0)
        push = (force + 0.05 * spin**2 * angle.sin()) / 1.1
        inertia = 0.5 * (4 / 3 - 0.1 * angle.cos() ** 2 / 1.1)
        turn = (9.8 * angle.sin() - angle.cos() * push) / inertia
        gain = push - 0.05 * turn * angle.cos() / 1.1
        self.states = self.states + 0.02 * torch.stack([speed, gain, spin, turn], dim=1)  # after 0.02 s
        self.ages = self.ages + 1
        fell = (self.states[:, 0].abs() > 2.4) | (self.states[:, 2].abs() > 0.2095)
        cut, ages = ~fell & (self.ages == LONGEST), self.ages
        self.states = torch.where((fell | cut)[:, None], self.starts(), self.states)
        self.ages = torch.where(fell | cut, 0, self.ages)
        return fell, cut, ages


class Policy(nn.Module):
    """Logits of both actions, and the value, from the positions seen so far in an episode."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, N), nn.Tanh())
        self.core = nn.LSTMCell(N, N) if args.unrolled else LSTM(N, N)
        self.actor, self.critic = nn.Linear(N, 2), nn.Linear(N, 1)
        with torch.no_grad():
            self.actor.weight.mul_(0.01)  # all actions are about equally likely at first

    def forward(self, xs, is_first, h, c):
        """Return logits (T, B, 2), values (T, B), and h and c (B, N) after the last step."""
        xs = self.encoder(xs)
        if args.unrolled:
            outputs = []
            for x, first in zip(xs, is_first, strict=True):
                keep = ~first[:, None]
                h, c = self.core(x, (h * keep, c * keep))
                outputs.append(h)
            ys = torch.stack(outputs)
        else:
            ys, (state,) = self.core(xs, (LSTMState(h=h, c=c),), is_first=is_first)
            h, c = state.h, state.c
        return self.actor(ys), self.critic(ys).squeeze(2), h, c


# %%
def advantages(values, fell, cut, last):
    """Return generalised advantage estimates (T, B). Each step is worth 1 - GAMMA, so values stay below 1."""
    found, ahead, coming = torch.empty_like(values), last, torch.zeros(B)
    for t in reversed(range(T)):
        ends = fell[t] | cut[t]
        # An episode that was cut off would have gone on with about the same value.
        ahead = torch.where(fell[t], 0.0, torch.where(cut[t], values[t], ahead))
        coming = 1 - GAMMA + GAMMA * ahead - values[t] + GAMMA * LAMBDA * ~ends * coming
        found[t], ahead = coming, values[t]
    return found


def update(rollout, begin, optimizer, policy):
    """Improve the policy by a rollout, whose tensors are (T, B, ...), from the h and c at its beginning."""
    for _ in range(EPOCHS):
        for rows in torch.randperm(B).chunk(PARTS):
            xs, is_first, actions, log_probs, targets, gains = (each[:, rows] for each in rollout)
            logits, values, _, _ = policy(xs, is_first, *(part[rows] for part in begin))
            distribution = Categorical(logits=logits)
            ratio = (distribution.log_prob(actions) - log_probs).exp()
            gains = (gains - gains.mean()) / (gains.std() + 1e-8)
            gain = torch.minimum(ratio * gains, ratio.clamp(1 - CLIP, 1 + CLIP) * gains).mean()
            loss = (values - targets).square().mean() - gain - 0.005 * distribution.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()


# %%
policy, poles = Policy(), CartPoles()
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3, eps=1e-5)
h, c, is_first = torch.zeros(B, N), torch.zeros(B, N), torch.ones(B, dtype=torch.bool)
ages, number, best, start = [], 0, 0.0, time.perf_counter()
while best < WANTED and time.perf_counter() - start < 60 * args.minutes:
    begin, steps, number = (h, c), [], number + 1
    with torch.no_grad():
        for _ in range(T):
            x = poles.observations()
            logits, values, h, c = policy(x[None], is_first[None], h, c)
            distribution = Categorical(logits=logits[0])
            action = distribution.sample()
            fell, cut, age = poles.step(action == 1)
            steps.append((x, is_first, action, distribution.log_prob(action), values[0], fell, cut))
            is_first = fell | cut  # the step after the last one of an episode is a first step
            ages += age[is_first].tolist()
        xs, firsts, actions, log_probs, values, fell, cut = map(torch.stack, zip(*steps, strict=True))
        last = policy(poles.observations()[None], is_first[None], h, c)[1][0]
        gains = advantages(values, fell, cut, last)
    update((xs, firsts, actions, log_probs, values + gains, gains), begin, optimizer, policy)
    if len(ages) >= LAST:
        best = max(best, sum(ages[-LAST:]) / LAST)
    if number % 10 == 0 or best >= WANTED:
        seconds = time.perf_counter() - start
        mean = sum(ages[-LAST:]) / max(1, len(ages[-LAST:]))
        print(f"{seconds:5.0f} s, {number * T * B:7,} steps: the last {LAST} episodes took {mean:.0f} steps on average")

assert best >= WANTED, f"the policy didn't learn to balance for {WANTED} steps: the best was {best:.0f}"
