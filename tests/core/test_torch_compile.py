"""fusedlstm.torch's operators and modules under torch.compile and PyTorch's checks of operators."""

import pytest

from fusedlstm import LSTMState

from support.training_cases import random_case

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fusedlstm.torch as ours  # noqa: E402
from fusedlstm.torch import operator  # noqa: E402

I, N, T, B = 3, 4, 5, 2
CASES = {
    "plain": (5, None, None, "zero", None),
    "lengths": (5, "lengths", "rows", "last", None),
    "mask": (5, "mask", "one row", "zero", None),
    "no steps": (0, "lengths", "zero", "zero", None),
    "checkpoints": (5, "mask", "rows", "zero", 2),
}


def calls_of(name, monkeypatch):
    """Return the arguments of the operators' calls in a forward and a backward pass."""
    steps, marks, reset, rule, every = CASES[name]
    case = random_case(1, steps, B, ["both", "backward"], marks, reset, rule)
    module = ours.LSTM.from_weights(case.weights, checkpoint_every=every)
    options = dict(case.options)
    if "reset_to" in options:
        options["reset_to"] = states(options["reset_to"])
    calls, layer, layer_backward = ([], []), operator.layer, operator.layer_backward
    monkeypatch.setattr("fusedlstm.torch.modules.run_layer", lambda *args: calls[0].append(args) or layer(*args))
    monkeypatch.setattr(operator, "layer_backward", lambda *args: calls[1].append(args) or layer_backward(*args))
    outputs, _ = module(columns(case.xs), states(case.states), **options)
    outputs.sum().backward()
    monkeypatch.undo()
    return calls


@pytest.mark.parametrize("name", CASES)
def test_opcheck(name, monkeypatch):
    calls, of_backward = calls_of(name, monkeypatch)
    for arguments in calls:
        torch.library.opcheck(operator.layer, torch.utils._pytree.tree_map_only(torch.Tensor, again, arguments))
    for arguments in of_backward:
        torch.library.opcheck(operator.layer_backward, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("name", CASES)
def test_results_and_fakes_are_contiguous(name, monkeypatch):
    """opcheck doesn't compare strides, and compiled code relies on them."""
    for op, calls in zip((operator.layer, operator.layer_backward), calls_of(name, monkeypatch), strict=True):
        for arguments in calls:
            detached = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, arguments)
            with FakeTensorMode() as mode:
                fakes = op(*torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, detached))
            assert all(each.is_contiguous() for each in [*fakes, *op(*arguments)])


def test_saved_tensors_have_no_gradients(monkeypatch):
    for arguments in calls_of("plain", monkeypatch)[0]:
        results = operator.layer(*arguments)
        finals = 1 + len(arguments[1])
        assert [each.requires_grad for each in results] == [k < finals for k in range(len(results))]


def again(tensor):
    """Return a leaf with the same values and strides."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def columns(array):
    """Return a leaf whose first two axes are swapped in memory. Results are row-major all the same."""
    return torch.tensor(array).transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()


def states(arrays):
    return tuple(LSTMState(h=columns(each.h), c=columns(each.c)) for each in arrays)


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


class Streaming(torch.nn.Module):
    """Takes and returns a state by name."""

    def __init__(self):
        super().__init__()
        self.core = ours.LSTM(I, N)

    def forward(self, xs, state, is_first):
        outputs, (state,) = self.core(xs, (state,), is_first=is_first)
        return outputs, {"state": state}


def random_state(rows):
    return LSTMState(h=torch.randn(rows, N), c=torch.randn(rows, N))


def assert_same(got, wanted):
    assert isinstance(got[1]["state"], LSTMState)
    for a, b in zip(*map(torch.utils._pytree.tree_leaves, (got, wanted)), strict=True):
        assert torch.equal(a, b)


def test_exported_module_takes_states(tmp_path):
    module, (t, b) = Streaming(), (torch.export.Dim(name, max=64) for name in "tb")
    shapes = {"xs": {0: t, 1: b}, "state": [{0: b}, {0: b}], "is_first": {0: t, 1: b}}
    first = torch.rand(T, B) < 0.3
    program = torch.export.export(module, (torch.randn(T, B, I), random_state(B), first), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "core.pt2")
    xs, state, first = torch.randn(T + 2, B + 1, I), random_state(B + 1), torch.rand(T + 2, B + 1) < 0.3
    wanted = module(xs, state, first)
    for run in (program.module(), torch.export.load(tmp_path / "core.pt2").module()):
        got = run(xs, state, first)
        assert_same(got, wanted)
        wanted_gradients = torch.autograd.grad(wanted[0].sum(), module.parameters(), retain_graph=True)
        assert all(map(torch.equal, torch.autograd.grad(got[0].sum(), run.parameters()), wanted_gradients))


def test_export_with_checkpoints_takes_any_t():
    module, xs = ours.LSTM(I, N, checkpoint_every=2), torch.randn(T + 4, B, I)
    shapes = ({0: torch.export.Dim("t", min=2)},)
    program = torch.export.export(module, (torch.randn(T, B, I),), dynamic_shapes=shapes).module()
    gradients = []
    for run in (program, module):
        outputs, _ = run(xs)
        gradients.append([outputs, *torch.autograd.grad(outputs.sum(), run.parameters())])
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted)


def test_export_without_gradients_still_runs():
    """A program for inference may run outside torch.no_grad, but has nothing to compute gradients from."""
    module, xs = ours.LSTM(I, N, checkpoint_every=2), torch.randn(T, B, I)
    with torch.no_grad():
        program = torch.export.export(module, (xs,)).module()
    outputs, _ = program(xs)
    assert torch.equal(outputs, module(xs)[0])
    with pytest.raises(RuntimeError, match="exported without gradients"):
        outputs.sum().backward()


def test_checkpoint_with_a_state_loads(tmp_path):
    """torch.load refuses what isn't registered as safe."""
    state = random_state(B)
    torch.save({"state": state, "weights": ours.LSTM(I, N).state_dict()}, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]
    assert torch.equal(loaded.h, state.h)
    assert torch.equal(loaded.c, state.c)
