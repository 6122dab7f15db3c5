"""fusedlstm.torch's operators and modules under torch.compile and PyTorch's checks of operators."""

import pytest

from fusedlstm import LSTMState

from support.training_cases import random_case

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fusedlstm.torch as ours  # noqa: E402
from fusedlstm.torch import operator  # noqa: E402

I, N, T, B = 3, 4, 5, 2
CASES = {
    "plain": (5, None, None, "zero"),
    "lengths": (5, "lengths", "rows", "last"),
    "mask": (5, "mask", "one row", "zero"),
    "no steps": (0, "lengths", "zero", "zero"),
}


def calls_of(run, monkeypatch):
    """Return the arguments of the operator's calls."""
    calls, called = [], operator.layer
    monkeypatch.setattr("fusedlstm.torch.modules.run_layer", lambda *args: calls.append(args) or called(*args))
    run()
    return calls


@pytest.mark.parametrize("name", CASES)
def test_opcheck(name, monkeypatch):
    steps, marks, reset, rule = CASES[name]
    case = random_case(1, steps, B, ["both", "backward"], marks, reset, rule)
    module = ours.LSTM.from_weights(case.weights)
    options = dict(case.options)
    if "reset_to" in options:
        options["reset_to"] = states(options["reset_to"])
    xs = torch.tensor(case.xs, requires_grad=True)
    for arguments in calls_of(lambda: module(xs, states(case.states), **options), monkeypatch):
        detached = torch.utils._pytree.tree_map_only(torch.Tensor, again, arguments)
        torch.library.opcheck(operator.layer, detached)


def again(tensor):
    """Return a leaf with the same values."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def states(arrays):
    return tuple(
        LSTMState(h=torch.tensor(each.h, requires_grad=True), c=torch.tensor(each.c, requires_grad=True))
        for each in arrays
    )


@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_module_gives_the_same_gradients(fullgraph):
    class Policy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.core = torch.nn.Linear(I, I), ours.LSTM(I, N, 2, peephole=True)

        def forward(self, xs, is_first):
            outputs, finals = self.core(self.encoder(xs), is_first=is_first)
            return outputs.square() + finals[0].c, finals[1].h

    torch.manual_seed(0)
    policy = Policy()
    xs, is_first = torch.randn(T, B, I), torch.rand(T, B) < 0.3
    outcomes = []
    for run in (policy, torch.compile(policy, backend="aot_eager", fullgraph=fullgraph)):
        policy.zero_grad()
        results = run(xs, is_first)
        sum(each.sum() for each in results).backward()
        outcomes.append([*results, *(parameter.grad.clone() for parameter in policy.parameters())])
    for got, wanted in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
