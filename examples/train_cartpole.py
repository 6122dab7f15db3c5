"""Train the policy of cartpole.py in PyTorch and write its files.

    pip install torch . && python examples/train_cartpole.py

A linear controller of position, angle and the speeds of the step before balances the pole. The LSTM sees position and
angle alone, from which the last speeds follow with one step's memory, and learns to say what the controller would: in
states that its own actions lead to, random ones among them, so that it knows the way back from its mistakes.
"""

import numpy as np
import torch
from cartpole import FOLDER, advance, has_fallen

from fusedlstm import convert

UNITS = 64
POLES = 256
STEPS = 40  # from one update to the next; states go on
UPDATES = 800
SEEN = np.array([True, False, True, False])
SCALES = torch.tensor([3.0, 30.0])  # of metres and radians; in the files they are part of the weights


class Pupil:
    """An LSTM, and the poles that it learns on."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.core, self.head = torch.nn.LSTMCell(2, UNITS), torch.nn.Linear(UNITS, 1, bias=False)
        self.states = self.starts()
        self.before = np.zeros_like(self.states)
        self.h = self.c = torch.zeros(POLES, UNITS)

    def starts(self):
        """Return states (POLES, 4) about the middle."""
        return self.rng.uniform(-0.1, 0.1, (POLES, 4)).astype(np.float32)

    def loss(self, trust):
        """Return the mean squared error of STEPS steps; of their actions a part `trust` is the LSTM's own."""
        self.h, self.c = self.h.detach(), self.c.detach()
        losses = []
        for _ in range(STEPS):
            wanted = controller(self.states, self.before).clip(-2, 2)
            self.h, self.c = self.core(torch.from_numpy(self.states[:, ::2]) * SCALES, (self.h, self.c))
            said = self.head(self.h)[:, 0]
            losses.append(torch.nn.functional.mse_loss(said, torch.from_numpy(wanted)))
            self.act(np.where(self.rng.random(POLES) < trust, said.detach().numpy(), wanted) > 0)
        return torch.stack(losses).mean()

    def act(self, right):
        """Take these actions, but one of 20 at random; begin anew where a pole has fallen, and now and then."""
        right = np.where(self.rng.random(POLES) < 0.05, self.rng.random(POLES) < 0.5, right)
        states = advance(np, self.states, right)
        done = has_fallen(states) | (self.rng.random(POLES) < 1 / 300)
        self.before = np.where(done[:, None], np.float32(0), self.states)
        self.states = np.where(done[:, None], self.starts(), states)
        keep = torch.from_numpy(~done[:, None])
        self.h, self.c = self.h * keep, self.c * keep


def controller(states, before):
    """Return what is above 0 for a push to the right (B,), from states (B, 4) and those of the step before."""
    return np.where(SEEN, states, before) @ np.array([1, 2, 16, 3], states.dtype)


def main():
    """Train, and write the two files."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pupil = Pupil()
    parameters = [*pupil.core.parameters(), *pupil.head.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, UPDATES)
    for update in range(UPDATES):
        loss = pupil.loss(trust=min(1.0, 2 * update / UPDATES))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if (update + 1) % 100 == 0:
            print(f"update {update + 1}: mean squared error {loss.item():.4f}")
    with torch.no_grad():
        pupil.core.weight_ih.mul_(SCALES)
    convert.from_torch(pupil.core).save(FOLDER / "cartpole_lstm.safetensors")
    np.save(FOLDER / "cartpole_head.npy", pupil.head.weight[0].detach().numpy())


if __name__ == "__main__":
    main()
