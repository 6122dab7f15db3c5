"""The gradients of fusedlstm.torch's modules, against autograd of the formula and of torch.nn.LSTM."""

import copy
import functools

import numpy as np
import pytest
from hypothesis import given, settings

from fusedlstm import LSTMState
from fusedlstm.backends.numpy.training import NumpyTraining

from support.training_cases import CASES, random_case

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

import fusedlstm.torch as ours  # noqa: E402

from support import torch_formula  # noqa: E402

I, N, T, B = 3, 4, 6, 3


def leaves(states):
    """Return states of new tensors that require grad."""
    return tuple(LSTMState(h=h, c=c) for h, c in torch_formula.tensors_of(states, requires_grad=True))


def parts(states):
    return [part for state in states for part in (state.h, state.c)]


def pairs(states):
    return [(state.h, state.c) for state in states]


def arguments_of(case):
    """Return xs, states and options of a case as tensors. Those that have gradients require grad."""
    options = dict(case.options)
    if "reset_to" in options:
        options["reset_to"] = leaves(options["reset_to"])
    return torch_formula.tensor(case.xs, requires_grad=True), leaves(case.states), options


def weighted(results, seed=0):
    """Return a randomly weighted sum of all elements, so that each has its own gradient."""
    generator = torch.Generator().manual_seed(seed)
    return sum((torch.randn(each.shape, generator=generator, dtype=each.dtype) * each).sum() for each in results)


def truth(case, module):
    """Return the gradients of a case from autograd of the formula, in the order of `gradients`."""
    xs, states, options = arguments_of(case)
    layers = torch_formula.Layers.of(module.to_weights(), requires_grad=True)
    if "reset_to" in options:
        options["reset_to"] = pairs(options["reset_to"])
    outputs, finals = torch_formula.lstm(layers, xs, pairs(states), **options)
    wanted = [xs, *parts(states), *(part for pair in options.get("reset_to", ()) for part in pair), *layers.tensors()]
    results = [outputs, *(part for pair in finals for part in pair)]
    return torch.autograd.grad(weighted(results), wanted, allow_unused=True, materialize_grads=True)


def gradients(case, module):
    """Return the gradients of a case from the module: of xs, states, reset_to, and each cell's arrays."""
    xs, states, options = arguments_of(case)
    outputs, finals = module(xs, states, **options)
    given = [xs, *parts(states), *parts(options.get("reset_to", ()))]
    tensors = []
    for suffix in module.suffixes:
        names = [name + suffix for name in ("weight_ih", "weight_hh", "bias_ih", "peephole", "weight_hr")]
        tensors += [getattr(module, name) for name in names if hasattr(module, name)]
    results = [outputs, *parts(finals)]
    return torch.autograd.grad(weighted(results), [*given, *tensors], allow_unused=True, materialize_grads=True)


def assert_close(got, wanted, tolerance=1e-10):
    assert len(got) == len(wanted)
    for k, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert a.shape == b.shape, k
        assert torch.isfinite(b).all(), k
        scale = max(1.0, b.abs().max().item() if b.numel() else 0)
        assert a.numel() == 0 or (a - b).abs().max().item() <= tolerance * scale, k


@settings(max_examples=100)
@given(case=CASES)
def test_gradients_are_those_of_the_formula(case):
    module = ours.LSTM.from_weights(case.weights)
    assert_close(gradients(case, module), truth(case, module))


@pytest.mark.parametrize("every", [1, 2, 4, 100])
def test_checkpoints_give_the_same_gradients(every):
    case = random_case(0, 9, 3, ["both", "backward"], "mask", "rows", "last")
    module = ours.LSTM.from_weights(case.weights)
    other = ours.LSTM.from_weights(case.weights, checkpoint_every=every)
    assert_close(gradients(case, other), gradients(case, module), 1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "proj_size": 2}], ids=["", "stack"])
def test_gradients_are_those_of_nn_lstm(options, dtype):
    theirs, own = (kind(I, N, **options, dtype=dtype) for kind in (torch.nn.LSTM, ours.LSTM))
    own.load_state_dict(theirs.state_dict())
    K, P = len(own.suffixes), options.get("proj_size", N)
    xs, h, c = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((T, B, I), (K, B, P), (K, B, N)))
    wanted, (h1, c1) = theirs(xs, (h, c))
    got, states = own(xs, tuple(LSTMState(h=h[k], c=c[k]) for k in range(K)))
    stacked = [torch.stack([state.h for state in states]), torch.stack([state.c for state in states])]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert_close([got, *stacked], [wanted, h1, c1], tolerance)
    right = torch.autograd.grad(weighted([wanted, h1, c1]), [xs, h, c, *theirs.parameters()])
    assert_close(torch.autograd.grad(weighted([got, *stacked]), [xs, h, c, *own.parameters()]), right, tolerance)


def test_cell_unrolled_gives_an_lstm_s_gradients():
    lstm = ours.LSTM(I, N, proj_size=2, peephole=True, cell_clip=0.5, dtype=torch.float64)
    cell = ours.LSTMCell.from_weights(lstm.to_weights().layers[0])
    xs, is_first = torch.randn(T, B, I, dtype=torch.float64), torch.rand(T, B) < 0.3
    to = LSTMState(h=torch.randn(1, 2, dtype=torch.float64), c=torch.randn(1, N, dtype=torch.float64))
    for part in (xs, to.h, to.c):
        part.requires_grad_()
    outputs, finals = lstm(xs, is_first=is_first, reset_to=(to,))
    wanted = torch.autograd.grad(weighted([outputs, *parts(finals)]), [xs, to.h, to.c, *lstm.parameters()])
    state, ys = None, []
    for x, first in zip(xs, is_first, strict=True):
        state = cell(x, state, is_first=first, reset_to=to)
        ys.append(state.h)
    got = torch.autograd.grad(weighted([torch.stack(ys), *parts([state])]), [xs, to.h, to.c, *cell.parameters()])
    assert_close(got, wanted, 1e-12)


def test_gradcheck():
    module = ours.LSTM(2, 2, peephole=True, proj_size=1, bidirectional=True, dtype=torch.float64)
    xs = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    is_first = torch.tensor([[True, False], [False, True], [False, False]])
    names, values = zip(*module.named_parameters(), strict=True)

    def run(xs, *values):
        outputs, finals = torch.func.functional_call(
            module, dict(zip(names, values, strict=True)), (xs,), {"is_first": is_first}
        )
        return outputs, *parts(finals)

    assert torch.autograd.gradcheck(run, (xs, *values))


def test_no_gradient_flows_across_a_reset():
    module, xs = ours.LSTM(I, N), torch.randn(T, B, I, requires_grad=True)
    start = LSTMState(h=torch.randn(1, N, requires_grad=True), c=torch.randn(1, N, requires_grad=True))
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[3, 0] = True
    outputs, _ = module(xs, is_first=is_first, reset_to=(start,))
    d_xs, d_h, d_c = torch.autograd.grad(outputs[5, 0].sum(), [xs, start.h, start.c])
    assert not d_xs[:3].any()
    assert d_xs[3:, 0].all()
    assert not d_xs[:, 1:].any()
    assert d_h.all()
    assert d_c.all()


def test_row_without_steps_passes_gradients():
    module, state = ours.LSTM(I, N), leaves([LSTMState(h=np.ones((B, N)), c=np.ones((B, N)))])
    state = tuple(LSTMState(h=each.h.float(), c=each.c.float()) for each in state)
    outputs, (final,) = module(torch.randn(T, B, I), state, lengths=[T, 0, 1])
    d_h, d_c = torch.autograd.grad(final.h.sum() + 2 * final.c.sum(), [state[0].h, state[0].c])
    assert torch.equal(d_h[1], torch.ones(N))
    assert torch.equal(d_c[1], torch.full((N,), 2.0))
    assert not outputs[:, 1].any()


def test_checkpoint_every_may_be_set_later():
    module, sizes = ours.LSTM(I, N, 2), []

    def size(tensor):
        sizes[-1] += tensor.numel()
        return tensor

    for every in (None, 3):
        module.checkpoint_every = every
        sizes.append(0)
        with torch.autograd.graph.saved_tensors_hooks(size, lambda tensor: tensor):
            copy.deepcopy(module)(torch.randn(T, B, I))
    assert sizes[1] < sizes[0]
    assert "checkpoint_every=3" in repr(module)
    with pytest.raises(ValueError, match="checkpoint_every: wanted at least 1"):
        module.checkpoint_every = 0
    assert module.checkpoint_every == 3


def test_torch_s_checkpoint_keeps_gradients():
    """Final states count, and the module's own checkpoints may be set as well."""
    module, xs = ours.LSTM(I, N, 2, checkpoint_every=4), torch.randn(T, B, I)
    gradients = []
    for run in (module, functools.partial(torch.utils.checkpoint.checkpoint, module, use_reentrant=False)):
        outputs, finals = run(xs)
        gradients.append(torch.autograd.grad(weighted([outputs, *parts(finals)]), module.parameters()))
    assert all(map(torch.equal, *gradients))


def test_gradients_accumulate_over_calls():
    module, xs = ours.LSTM(I, N, 2), torch.randn(2, T, B, I)
    whole, states = module(xs[0])
    again, _ = module(xs[1], states)  # one call goes on from another
    (whole.sum() + again.sum()).backward()
    once = [p.grad.clone() for p in module.parameters()]
    outputs, _ = module(torch.cat([xs[0], xs[1]]))
    outputs.sum().backward()
    for p, grad in zip(module.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 2 * grad, rtol=1e-4, atol=1e-4)
    assert module.bias_ih_l0.grad.data_ptr() != module.bias_hh_l0.grad.data_ptr()


# What is computed and kept.


@pytest.fixture
def engine_calls(monkeypatch):
    """Record what the engine's passes are asked for."""
    calls = []
    forward, backward = NumpyTraining.forward, NumpyTraining.backward

    def count_forward(*args, **options):
        calls.append("forward")
        return forward(*args, **options)

    def count_backward(*args, wants_xs, wants_weights, **options):
        calls.append((wants_xs, list(wants_weights)))
        return backward(*args, wants_xs=wants_xs, wants_weights=wants_weights, **options)

    monkeypatch.setattr(NumpyTraining, "forward", count_forward)
    monkeypatch.setattr(NumpyTraining, "backward", count_backward)
    return calls


def test_nothing_is_kept_without_gradients(engine_calls):
    module, xs = ours.LSTM(I, N, 2), torch.randn(T, B, I)
    with torch.no_grad():
        assert module(xs)[0].grad_fn is None
    with torch.inference_mode():
        module(xs)
    module.requires_grad_(False)
    assert not module(xs)[0].requires_grad
    assert not engine_calls


def test_parts_without_grad_are_not_computed(engine_calls):
    module = ours.LSTM(I, N, 3, bidirectional=True)
    module(torch.randn(T, B, I))[0].sum().backward()
    assert engine_calls == ["forward"] * 3 + [(True, [True] * 2)] * 2 + [(False, [True] * 2)]
    engine_calls.clear()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.endswith(("l1_reverse", "l2")))
    module(torch.randn(T, B, I))[0].sum().backward()
    assert engine_calls == ["forward"] * 2 + [(True, [True, False]), (False, [False, True])]
    assert module.weight_ih_l0.grad is not None
    assert module.weight_ih_l2_reverse.grad is not None  # of the first call
    engine_calls.clear()
    xs = torch.randn(T, B, I, requires_grad=True)
    module.requires_grad_(False)(xs)[0].sum().backward()
    assert engine_calls == ["forward"] * 3 + [(True, [False] * 2)] * 3
    assert xs.grad.all()


def test_second_derivatives_raise():
    module, xs = ours.LSTM(I, N), torch.randn(T, B, I, requires_grad=True)
    (d_xs,) = torch.autograd.grad(module(xs)[0].sum(), xs, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivatives: call backward .* without create_graph=True"):
        d_xs.sum().backward()


@pytest.mark.parametrize("flags", ["lengths", "mask", "is_first"])
def test_flags_in_numpy_may_be_reused(flags):
    """A collector writes the next rollout's flags to the same buffers before the update."""
    module, xs = ours.LSTM(I, N), torch.randn(T, B, I)
    buffer = np.full(B, 2) if flags == "lengths" else np.arange(T * B).reshape(T, B) % 2 == 0
    wanted = torch.autograd.grad(module(xs, **{flags: buffer.copy()})[0].sum(), module.parameters())
    outputs, _ = module(xs, **{flags: buffer})
    buffer[...] = 0
    got = torch.autograd.grad(outputs.sum(), module.parameters())
    assert all(map(torch.equal, got, wanted))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # by torch.func itself
@pytest.mark.parametrize("part", ["xs", "state", "weights"])
def test_forward_mode_raises(part):
    """Without a check, the tangents of results would be zeros."""
    module = ours.LSTM(I, N).requires_grad_(False)
    values = {"xs": torch.zeros(T, B, I), "state": torch.zeros(B, N), "weights": module.weight_hh_l0.detach()}

    def call(value):
        xs, h, weights = (value if name == part else given for name, given in values.items())
        states = (LSTMState(h=h, c=torch.zeros(B, N)),)
        return torch.func.functional_call(module, {"weight_hh_l0": weights}, (xs, states))[0]

    value = values[part]
    with pytest.raises(NotImplementedError, match="no derivatives in forward mode"):
        torch.func.jvp(call, (value,), (torch.ones_like(value),))


@pytest.mark.parametrize("transform", ["grad", "vjp", "jacrev", "vmap"])
def test_transforms_raise(transform):
    def call(xs):
        return module(xs)[0].sum()

    module, xs = ours.LSTM(I, N), torch.randn(2, T, B, I)
    with pytest.raises(NotImplementedError, match="doesn't work under torch.func's transforms"):
        if transform == "vjp":
            torch.func.vjp(call, xs[0])
        else:
            getattr(torch.func, transform)(call)(xs if transform == "vmap" else xs[0])


def test_weights_changed_before_backward_raise():
    module = ours.LSTM(I, N)
    outputs, _ = module(torch.randn(T, B, I))
    with torch.no_grad():
        module.weight_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


@pytest.mark.parametrize("options", [{"lengths": [0, 0, 0]}, {"mask": torch.zeros(T, B, dtype=torch.bool)}], ids=str)
@pytest.mark.parametrize("steps", [0, T])
def test_results_share_no_memory(steps, options):
    module = ours.LSTM(I, N, bidirectional=True)
    options = {name: value if name == "lengths" else value[:steps] for name, value in options.items()}
    xs, state = torch.randn(steps, B, I), tuple(module.zero_state(B))
    for context in (torch.no_grad, torch.enable_grad):
        with context():
            outputs, finals = module(xs, state, **options)
        results, given = [outputs, *parts(finals)], [xs, *parts(state), *module.parameters()]
        for k, result in enumerate(results):
            for other in [*results[:k], *given]:
                assert not np.shares_memory(result.detach().numpy(), other.detach().numpy())
        for final, first in zip(finals, state, strict=True):
            assert torch.equal(final.h, first.h)
            assert torch.equal(final.c, first.c)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_16_bit_modules(dtype):
    module = ours.LSTM(I, N, 2, proj_size=2, dtype=dtype)
    exact = ours.LSTM(I, N, 2, proj_size=2)
    exact.load_state_dict({name: value.float() for name, value in module.state_dict().items()})
    xs, state = torch.randn(T, B, I).to(dtype), module.zero_state(B)
    outputs, finals = module(xs, state)
    assert (outputs.dtype, finals[0].h.dtype, finals[0].c.dtype) == (dtype, dtype, torch.float32)
    (outputs.float().sum() + finals[0].c.sum()).backward()
    outputs, finals = exact(xs.float())
    (outputs.sum() + finals[0].c.sum()).backward()
    for parameter, other in zip(module.parameters(), exact.parameters(), strict=True):
        assert parameter.grad.dtype == dtype
        scale = other.grad.abs().max()
        torch.testing.assert_close(parameter.grad.float() / scale, other.grad / scale, rtol=0, atol=0.03)


def test_autocast_computes_in_the_module_s_dtype():
    encoder, module = torch.nn.Linear(5, I), ours.LSTM(I, N)
    xs = torch.randn(T, B, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(xs)
        assert features.dtype == torch.bfloat16
        outputs, finals = module(features, module.zero_state(B))
        cell = ours.LSTMCell.from_weights(module.to_weights().layers[0])(features[0])
    assert outputs.dtype == finals[0].h.dtype == cell.h.dtype == torch.float32
    torch.testing.assert_close(outputs, module(features.float())[0], rtol=0, atol=0)
    outputs.sum().backward()
    assert encoder.weight.grad.dtype == torch.float32
    assert encoder.weight.grad.any()


def test_batch_first_gradients():
    module, swapped = ours.LSTM(I, N), ours.LSTM(I, N, batch_first=True)
    swapped.load_state_dict(module.state_dict())
    xs = torch.randn(B, T, I, requires_grad=True)
    is_first = torch.rand(B, T) < 0.3
    outputs, _ = module(xs.transpose(0, 1), is_first=is_first.T)
    (wanted,) = torch.autograd.grad(weighted([outputs.transpose(0, 1)]), xs)
    got, _ = swapped(xs, is_first=is_first)
    assert torch.equal(got, outputs.transpose(0, 1))
    assert_close(torch.autograd.grad(weighted([got]), [xs]), [wanted], 1e-6)
