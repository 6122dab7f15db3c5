"""Collect rollouts for a PyTorch policy in training, with resets, kept outputs and new weights every few updates.

Shows: an actor steps B environments with the weights of an nn.LSTM. The learner recomputes the actor's outputs.
Needs: PyTorch. If it can use CUDA, everything runs on the GPU, and fusedlstm needs the extra cuda12 or cuda13.
Run:   python examples/torch_rollout.py

The task needs memory. An episode shows a cue of +1 or -1, but only at its first step. At each step an action that
repeats the cue is worth +1, and the other action -1. A tenth of all steps are first steps, so a policy without memory
gets 0.1 on average.
"""

# %%
import torch
from torch import nn
from torch.distributions import Categorical

from fusedlstm import LSTM, convert

B, T, N = 64, 16, 32  # environments, steps of a rollout, units
I = 2  # inputs: the cue, and noise
UPDATES, EVERY = 40, 4  # updates; how often the actor gets new weights
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
torch.set_num_threads(1)  # more threads would slow down such small work

# %% The policy in training, and the actor that runs it
core, head = nn.LSTM(I, N).to(DEVICE), nn.Linear(N, 2).to(DEVICE)
optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], lr=1e-2)
actor = LSTM(convert.from_torch(core), backend="cuda" if DEVICE == "cuda" else "numpy")
stepper = actor.stepper(B, like=torch.zeros(0, device=DEVICE))  # its buffers are tensors


# %%
def cues():
    return torch.randint(0, 2, (B,), device=DEVICE) * 2.0 - 1


def recompute(xs, flags, begin):
    """Return the module's outputs (T, B, N), with gradients and with the same resets."""
    (h, c), outputs = begin, []
    for x, is_first in zip(xs, flags, strict=True):
        keep = ~is_first[:, None]
        output, (h, c) = core(x[None], (h * keep, c * keep))
        outputs.append(output[0])
    return torch.stack(outputs)


# %%
cue, is_first = cues(), torch.ones(B, dtype=torch.bool, device=DEVICE)
for update in range(UPDATES):
    if update % EVERY == 0:
        actor.set_weights(convert.from_torch(core))  # the stepper keeps its states
    begin = convert.state_to_torch(stepper.read())  # a copy of h and c, to train from
    steps = []
    with torch.no_grad():
        for _ in range(T):
            x = torch.stack([cue * is_first, torch.randn(B, device=DEVICE)], dim=1)  # the cue or 0, and noise
            output = stepper.step(x, is_first, copy=True)  # without copy=True the next step overwrites it
            policy = Categorical(logits=head(output))
            action = policy.sample()
            steps.append((x, is_first, output, action, policy.log_prob(action), cue * (2 * action - 1)))
            is_first = torch.rand(B, device=DEVICE) < 0.1  # episodes that end here, so the next step is a first step
            cue = torch.where(is_first, cues(), cue)
    xs, flags, kept, actions, log_probs, rewards = map(torch.stack, zip(*steps, strict=True))

    outputs = recompute(xs, flags, begin)
    ratio = (Categorical(logits=head(outputs)).log_prob(actions) - log_probs).exp()  # 1 if the actor is up to date
    optimizer.zero_grad()
    (-ratio * rewards).mean().backward()
    optimizer.step()

    difference = (outputs - kept).abs().max().item()
    if update % EVERY == 0:
        assert difference < 1e-5, "actor and learner have the same weights but different outputs"
    if update % (2 * EVERY) < 2:
        print(f"update {update:2}: mean reward {rewards.mean():.2f}; actor and learner differ by {difference:.0e}")

assert rewards.mean() > 0.9, "the policy didn't learn to remember the cue"
