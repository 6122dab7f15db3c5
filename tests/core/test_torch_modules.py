"""fusedlstm.torch's modules: parameters, states, weights in both directions, and bad arguments."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, convert
from fusedlstm.backends.numpy.backend import NumpyBackend
from fusedlstm.backends.numpy.blas import why_threads_are_fixed

from support.comparisons import assert_equal

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fusedlstm.torch as ours  # noqa: E402
from fusedlstm.layer_call import Layer  # noqa: E402

I, N, T, B = 3, 4, 5, 2
LSTMS = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "both directions": {"num_layers": 2, "bidirectional": True},
    "no bias": {"bias": False},
    "projection": {"proj_size": 2, "num_layers": 2, "bidirectional": True},
    "batch first": {"batch_first": True},
}


def pair_of(options, dtype=torch.float32):
    """Return PyTorch's module and ours, made with the same seed."""
    made = []
    for kind in (torch.nn.LSTM, ours.LSTM):
        torch.manual_seed(3)
        made.append(kind(I, N, **options, dtype=dtype))
    return made


@pytest.mark.parametrize("options", LSTMS.values(), ids=LSTMS)
def test_same_seed_gives_torch_s_values(options):
    theirs, own = pair_of(options)
    assert list(own.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(own.state_dict()[name], value), name


def test_same_seed_gives_a_torch_cell_s_values():
    torch.manual_seed(3)
    theirs = torch.nn.LSTMCell(I, N)
    torch.manual_seed(3)
    own = ours.LSTMCell(I, N)
    assert list(own.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(own.state_dict()[name], value), name


@pytest.mark.parametrize("options", LSTMS.values(), ids=LSTMS)
def test_state_dicts_load_in_either_direction(options):
    theirs, own = torch.nn.LSTM(I, N, **options), ours.LSTM(I, N, **options)
    own.load_state_dict(theirs.state_dict(), strict=True)
    xs = torch.randn(T, B, I)
    wanted, (h, c) = theirs(xs)
    got, states = own(xs)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    for k, state in enumerate(states):
        torch.testing.assert_close(state.h, h[k], rtol=0, atol=1e-6)
        torch.testing.assert_close(state.c, c[k], rtol=0, atol=1e-6)
    back = torch.nn.LSTM(I, N, **options)
    back.load_state_dict(own.state_dict(), strict=True)
    torch.testing.assert_close(back(xs)[0], wanted, rtol=0, atol=0)


def test_torch_cell_s_state_dict_loads():
    theirs, own = torch.nn.LSTMCell(I, N), ours.LSTMCell(I, N)
    own.load_state_dict(theirs.state_dict(), strict=True)
    x, h, c = torch.randn(B, I), torch.randn(B, N), torch.randn(B, N)
    state = own(x, LSTMState(h=h, c=c))
    for got, wanted in zip((state.h, state.c), theirs(x, (h, c)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    torch.nn.LSTMCell(I, N).load_state_dict(own.state_dict(), strict=True)


def stack(dtype="float32"):
    """Return layers that differ in everything."""
    cells = [
        LSTMWeights.random(I, N, seed=0, proj_size=2, proj_clip=0.1, peephole=True, dtype=dtype),
        LSTMWeights.random(I, 6, seed=1, bias=False, activation=("leaky_relu", 0.1), cell_clip=0.5, dtype=dtype),
        LSTMWeights.random(8, 8, seed=2, coupled_gate="input", gate_clip=0.7, dtype=dtype),
    ]
    return StackedWeights(cells, directions=["both", "backward"], residual=[False, True])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_weights_become_a_module_and_back(dtype):
    weights = stack(dtype)
    module = ours.LSTM.from_weights(weights)
    assert str(module.weight_ih_l0.dtype) == f"torch.{dtype}"
    got = module.to_weights()
    assert got.residual == weights.residual
    assert_equal(got, weights)
    cell = LSTMWeights.random(I, N, seed=0, proj_size=2, peephole=True, cell_clip=3.0, dtype=dtype)
    assert_equal(ours.LSTMCell.from_weights(cell).to_weights(), cell)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_module_gives_the_numbers_of_its_weights(dtype):
    module = ours.LSTM.from_weights(stack(dtype))
    lstm = LSTM(module.to_weights(), backend="numpy")
    xs = torch.randn(T, B, I).to(module.weight_ih_l0.dtype)
    with torch.no_grad():
        options = {"lengths": [5, 3], "is_first": torch.rand(T, B) < 0.3}
        wanted, finals = lstm(xs, **options)
        for context in (torch.no_grad, torch.enable_grad):
            with context():
                got, states = module(xs, **options)
            assert torch.equal(got, wanted) or dtype in ("float16", "bfloat16")
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-2 if got.dtype.itemsize == 2 else 1e-6)
            for state, final in zip(states, finals, strict=True):
                assert (state.h.dtype, state.c.dtype) == (final.h.dtype, final.c.dtype)
                torch.testing.assert_close(state.c, final.c, rtol=0, atol=1e-2 if got.dtype.itemsize == 2 else 1e-6)


def test_cell_gives_the_numbers_of_its_weights():
    weights = LSTMWeights.random(I, N, seed=0, proj_size=2, peephole=True)
    module, cell = ours.LSTMCell.from_weights(weights), LSTMCell(weights, backend="numpy")
    x, state = torch.randn(B, I), LSTMState(h=torch.randn(B, 2), c=torch.randn(B, N))
    start = LSTMState(h=torch.randn(1, 2), c=torch.randn(1, N))
    with torch.no_grad():
        wanted = cell(x, state, is_first=[True, False], reset_to=start)
        got = module(x, state, is_first=[True, False], reset_to=start)
    torch.testing.assert_close(got.h, wanted.h, rtol=0, atol=1e-6)
    torch.testing.assert_close(got.c, wanted.c, rtol=0, atol=1e-6)


def test_from_torch_takes_modules():
    weights = stack()
    assert_equal(convert.from_torch(ours.LSTM.from_weights(weights)), weights)
    model = torch.nn.ModuleDict({"core": ours.LSTMCell.from_weights(weights.layers[0])})
    assert_equal(convert.from_torch(model), weights.layers[0])
    assert_equal(convert.from_torch(model, prefix="core."), weights.layers[0])
    assert_equal(convert.from_torch(ours.LSTM.from_weights(weights), layer=0, reverse=True), weights.layers[1])
    plain = ours.LSTM(I, N, 2)
    assert_equal(convert.from_torch(plain), convert.from_torch(plain.state_dict()))


def test_from_torch_refuses_other_subclasses():
    class Doubled(ours.LSTM):
        def forward(self, *arguments, **options):
            return super().forward(2 * arguments[0], *arguments[1:], **options)

    with pytest.raises(ValueError, match="which has its own forward"):
        convert.from_torch(Doubled(I, N))


def test_to_torch_s_state_dict_loads():
    weights = StackedWeights.random(I, N, 2, seed=0, bidirectional=True)
    module = ours.LSTM(I, N, 2, bidirectional=True)
    module.load_state_dict(convert.to_torch(weights), strict=True)
    assert_equal(module.to_weights(), weights)


def test_forget_bias_is_added_to_initial_values():
    torch.manual_seed(0)
    plain = ours.LSTM(I, N, 2, bidirectional=True)
    torch.manual_seed(0)
    biased = ours.LSTM(I, N, 2, bidirectional=True, forget_bias=1.0)
    for name, value in plain.state_dict().items():
        added = torch.zeros_like(value)
        if name.startswith("bias_ih"):
            added[N : 2 * N] = 1
        torch.testing.assert_close(biased.state_dict()[name], value + added, rtol=0, atol=0)


def test_engine_reads_the_parameters_memory(monkeypatch):
    module, seen = ours.LSTM(I, N, proj_size=2, peephole=True), []
    weights_of = Layer.weights
    monkeypatch.setattr(Layer, "weights", lambda *args: seen.append(weights_of(*args)) or seen[-1])
    module(torch.randn(T, B, I))[0].sum().backward()
    assert len(seen) == 2  # forward and backward
    for stacked in seen:
        for name in ("weight_ih", "weight_hh", "weight_hr", "peephole"):
            own = getattr(module, f"{name}_l0").detach().numpy()
            assert np.shares_memory(getattr(stacked.layers[0], name), own), name


@pytest.mark.skipif(why_threads_are_fixed() is not None, reason="the threads of NumPy's BLAS can't be set")
@pytest.mark.parametrize(("of_torch", "limit"), [(1, 1), (3, 3), (4, None), (8, None)])
def test_calls_use_torch_s_number_of_threads(monkeypatch, of_torch, limit):
    seen, engine_of = [], NumpyBackend.cell_engine
    monkeypatch.setattr("fusedlstm.torch.layer.at_most", lambda _: 4)  # threads of the BLAS
    monkeypatch.setattr(torch, "get_num_threads", lambda: of_torch)
    monkeypatch.setattr(
        NumpyBackend, "cell_engine", lambda *a, threads: seen.append(threads) or engine_of(*a, threads=threads)
    )
    ours.LSTM(I, N)(torch.randn(T, B, I))[0].sum().backward()
    assert seen == [limit, limit]  # forward and backward


def test_next_call_uses_what_an_optimizer_changed():
    module, xs = ours.LSTM(I, N), torch.randn(T, B, I)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(3):
        outputs, _ = module(xs)
        optimizer.zero_grad()
        outputs.sum().backward()
        optimizer.step()
        lstm = LSTM(module.to_weights(), backend="numpy")
        with torch.no_grad():
            assert torch.equal(module(xs)[0], lstm(xs)[0])
            assert not torch.equal(module(xs)[0], outputs)
    module.weight_ih_l0.data.mul_(2)  # which PyTorch's version counter doesn't see
    with torch.no_grad():
        assert torch.equal(module(xs)[0], LSTM(module.to_weights(), backend="numpy")(xs)[0])


def test_modules_copy_and_pickle():
    for module in (ours.LSTM.from_weights(stack()), ours.LSTMCell(I, N, peephole=True)):
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert repr(other) == repr(module)
            assert_equal(other.to_weights(), module.to_weights())


def test_module_s_repr_shows_options():
    module = ours.LSTM(I, N, 2, bidirectional=True, proj_size=2, peephole=True, cell_clip=3.0)
    assert repr(module) == "LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2, peephole=True, cell_clip=3.0)"
    assert repr(ours.LSTMCell(I, N, bias=False)) == "LSTMCell(3, 4, bias=False)"
    mixed = ours.LSTM(I, I, 2, batch_first=True, directions=["forward", "backward"], residual=[False, True])
    assert (
        repr(mixed)
        == "LSTM(3, 3, num_layers=2, directions=['forward', 'backward'], residual=[False, True], batch_first=True)"
    )


def test_dropout_is_between_layers_in_training():
    module, xs = ours.LSTM(I, N, 2, dropout=1.0), torch.randn(T, B, I)
    lower, upper = module.to_weights().layers
    with torch.no_grad():
        zeros = torch.zeros(T, B, N)
        dropped = LSTM(upper, backend="numpy")(zeros)[0]
        assert torch.equal(module(xs)[0], dropped)
        module.eval()
        assert torch.equal(module(xs)[0], LSTM(StackedWeights([lower, upper]), backend="numpy")(xs)[0])


def test_zero_states_have_the_core_s_dtypes():
    module = ours.LSTM(I, N, proj_size=2, dtype=torch.bfloat16)
    (state,) = module.zero_state(B)
    assert (state.h.shape, state.h.dtype) == ((B, 2), torch.bfloat16)
    assert (state.c.shape, state.c.dtype) == ((B, N), torch.float32)
    state = ours.LSTMCell(I, N, dtype=torch.float64).zero_state(B)
    assert (state.h.dtype, state.c.dtype) == (torch.float64, torch.float64)


def test_import_does_not_import_torch():
    code = "import sys, fusedlstm; assert 'torch' not in sys.modules; import fusedlstm.torch"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_torch_names_the_extra():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "try:\n    import fusedlstm.torch\n"
        "except ModuleNotFoundError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "fusedlstm.torch needs PyTorch: install fusedlstm[torch]"


# Bad arguments.


def zeros(*shape, **options):
    return torch.zeros(*shape, **options)


def state_of(rows=B, width=N, **options):
    return LSTMState(h=zeros(rows, width, **options), c=zeros(rows, width, **options))


BAD_CALLS = {
    "an array": (lambda m: m(np.zeros((T, B, I), np.float32)), TypeError, "xs: wanted a torch.Tensor"),
    "another dtype": (lambda m: m(zeros(T, B, I).double()), TypeError, r"got dtype torch.float64. Use xs.to\(torch"),
    "a 2-D xs": (
        lambda m: m(zeros(T, I)),
        ValueError,
        r"xs: wanted shape \(T, B, I\) = \(T, B, 3\); got shape \(5, 3\)",
    ),
    "a wrong I": (lambda m: m(zeros(T, B, I + 1)), ValueError, r"got shape \(5, 2, 4\)$"),
    "a device": (lambda m: m(zeros(T, B, I, device="meta")), ValueError, "xs: wanted a tensor on the CPU.* on meta"),
    "sparse": (
        lambda m: m(zeros(T, B, I).to_sparse()),
        ValueError,
        r"xs: wanted a dense tensor; got layout torch.sparse_coo. Use xs.to_dense",
    ),
    "nested": (
        lambda m: m(torch.nested.nested_tensor([zeros(T, I), zeros(1, I)], layout=torch.jagged)),
        ValueError,
        r"xs: wanted a dense tensor; got a nested one. Use xs.to_padded_tensor\(0\)",
    ),
    "sparse flags": (
        lambda m: m(zeros(T, B, I), is_first=torch.zeros(T, B, dtype=torch.bool).to_sparse()),
        ValueError,
        "is_first: wanted a dense tensor",
    ),
    "torch's state": (lambda m: m(zeros(T, B, I), (zeros(1, B, N), zeros(1, B, N))), TypeError, "For PyTorch's"),
    "one state": (lambda m: m(zeros(T, B, I), state_of()), TypeError, r"got one LSTMState. Use \(state,\)"),
    "two states": (lambda m: m(zeros(T, B, I), (state_of(), state_of())), ValueError, "got 2$"),
    "one row": (lambda m: m(zeros(T, B, I), (state_of(1),)), ValueError, r"with state\[0\].h.expand\(2, -1\)"),
    "a wide state": (lambda m: m(zeros(T, B, I), (state_of(B, N + 1),)), ValueError, r"state\[0\].h: wanted shape"),
    "a float64 state": (
        lambda m: m(zeros(T, B, I), (state_of(dtype=torch.float64),)),
        TypeError,
        r"state\[0\].h: want",
    ),
    "reset_to alone": (lambda m: m(zeros(T, B, I), reset_to=(state_of(),)), ValueError, "None without is_first"),
    "float flags": (lambda m: m(zeros(T, B, I), is_first=zeros(T, B)), TypeError, "Use is_first != 0"),
    "flags of B": (
        lambda m: m(zeros(T, B, I), is_first=[True] * B),
        ValueError,
        r"\(T, B\) = \(5, 2\); got shape \(2,\)",
    ),
    "ragged flags": (lambda m: m(zeros(T, B, I), is_first=[[True], [True, False]]), TypeError, "is_first: wanted bool"),
    "a float mask": (lambda m: m(zeros(T, B, I), mask=zeros(T, B)), TypeError, "Use mask != 0"),
    "float lengths": (lambda m: m(zeros(T, B, I), lengths=zeros(B)), TypeError, "lengths: wanted integers"),
    "long lengths": (lambda m: m(zeros(T, B, I), lengths=[1, T + 1]), ValueError, "from 0 to T = 5; got 6 for row 1"),
    "both": (lambda m: m(zeros(T, B, I), lengths=[1, 2], mask=zeros(T, B) == 0), ValueError, "None if lengths"),
    "a rule": (lambda m: m(zeros(T, B, I), masked_outputs="nan"), ValueError, "masked_outputs: wanted one of"),
    "reverse": (lambda m: m(zeros(T, B, I), reverse=1), TypeError, "reverse: wanted a bool"),
}


@pytest.mark.parametrize(("call", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls_raise(call, kind, message):
    with pytest.raises(kind, match=message):
        call(ours.LSTM(I, N))


BAD_MODULES = {
    "a name": (lambda: ours.LSTM(I, N, peepholes=True), TypeError, "unexpected keyword argument 'peepholes'"),
    "a size": (lambda: ours.LSTM(I, 0), ValueError, "hidden_size: wanted at least 1"),
    "a function": (lambda: ours.LSTM(I, N, activation="swish"), ValueError, "activation: wanted one of"),
    "proj_clip": (lambda: ours.LSTM(I, N, proj_clip=1.0), ValueError, "proj_clip: wanted None without weight_hr"),
    "zoneout": (lambda: ours.LSTM(I, N, zoneout_h=0.1), ValueError, "zoneout_h: wanted 0 in a module"),
    "a cell's zoneout": (lambda: ours.LSTMCell(I, N, zoneout_c=0.1), ValueError, "zoneout_c: wanted 0 in a module"),
    "directions": (lambda: ours.LSTM(I, N, 2, directions=["both"]), ValueError, "directions: wanted one for each of 2"),
    "both": (
        lambda: ours.LSTM(I, N, bidirectional=True, directions=["both"]),
        ValueError,
        "bidirectional: wanted False",
    ),
    "residual": (lambda: ours.LSTM(I, N, residual=True), ValueError, "residual: wanted False for a layer of 3 inputs"),
    "forget_bias": (lambda: ours.LSTM(I, N, bias=False, forget_bias=1.0), ValueError, "forget_bias: wanted 0 without"),
    "dropout": (lambda: ours.LSTM(I, N, 2, dropout=2), ValueError, "dropout: wanted a number from 0 to 1"),
    "checkpoint_every": (
        lambda: ours.LSTM(I, N, checkpoint_every=0),
        ValueError,
        "checkpoint_every: wanted at least 1",
    ),
    "complex": (lambda: ours.LSTM(I, N, dtype=torch.complex64), TypeError, "dtype: wanted .*; got torch.complex64"),
    "a cell's dtype": (lambda: ours.LSTMCell(I, N, dtype=torch.int32), TypeError, "dtype: wanted .*; got torch.int32"),
    "a name of a dtype": (lambda: ours.LSTM(I, N, dtype="float32"), TypeError, "dtype: wanted .*; got float32"),
    "weights": (
        lambda: ours.LSTM.from_weights(torch.nn.LSTM(I, N)),
        TypeError,
        r"fusedlstm.convert.from_torch\(module",
    ),
    "a stack": (lambda: ours.LSTMCell.from_weights(stack()), TypeError, "weights: wanted an LSTMWeights"),
    "an LSTM of a module": (lambda: LSTM(ours.LSTM(I, N)), TypeError, r"fusedlstm.convert.from_torch\(module\)"),
}


@pytest.mark.parametrize(("make", "kind", "message"), BAD_MODULES.values(), ids=BAD_MODULES)
def test_bad_modules_raise(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_reversed_call_of_backward_layers_raises():
    with pytest.raises(ValueError, match="reverse: wanted False with bidirectional=True; got True"):
        ours.LSTM(I, N, bidirectional=True)(zeros(T, B, I), reverse=True)


def parameter(*shape, **options):
    return torch.nn.Parameter(zeros(*shape, **options))


BAD_PARAMETERS = {
    "complex": (
        "weight_ih_l0",
        parameter(4 * N, I, dtype=torch.complex64),
        TypeError,
        "weight_ih_l0: wanted a dtype of",
    ),
    "another I": ("weight_ih_l0", parameter(4 * N, I + 1), ValueError, r"weight_ih_l0: wanted shape \(16, 3\)"),
    "another P": ("weight_hh_l1", parameter(4 * N, N + 1), ValueError, r"weight_hh_l1: wanted shape \(16, 4\)"),
    "one bias": ("bias_hh_l1", parameter(1), ValueError, r"bias_hh_l1: .* got shape \(1,\)$"),
    "a dtype": ("weight_hh_l0", parameter(4 * N, N, dtype=torch.float64), TypeError, "weight_hh_l0: wanted dtype"),
    "none": ("bias_ih_l0", None, TypeError, "bias_ih_l0: wanted a torch.Tensor .* got None"),
    "a device": ("weight_hh_l0", parameter(4 * N, N, device="meta"), ValueError, "weight_hh_l0: .* one on meta"),
}


@pytest.mark.parametrize(("name", "value", "kind", "message"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS)
def test_replaced_parameters_are_checked(name, value, kind, message):
    module = ours.LSTM(I, N, 2)
    setattr(module, name, value)
    with pytest.raises(kind, match=message):
        module(zeros(T, B, I))


def test_packed_sequences_get_a_hint():
    packed = torch.nn.utils.rnn.pack_padded_sequence(zeros(T, B, I), [5, 4])
    with pytest.raises(TypeError, match="pad_packed_sequence"):
        ours.LSTM(I, N)(packed)


def test_module_on_another_device_names_the_cpu():
    module = ours.LSTM(I, N).to("meta")
    with pytest.raises(ValueError, match=r"weight_ih_l0: wanted a tensor on the CPU.*one on meta. Use .cpu\(\)"):
        module(zeros(T, B, I))
    with pytest.raises(ValueError, match="weight_ih: wanted a tensor on the CPU"):
        ours.LSTMCell(I, N, device="meta")(zeros(B, I))


def test_cuda_tensors_name_the_cpu():
    with FakeTensorMode():
        xs = zeros(T, B, I, device="cuda")
    with pytest.raises(ValueError, match="xs: wanted a tensor on the CPU, .* got one on cuda:0. Use .cpu"):
        ours.LSTM(I, N)(xs)


BAD_STEPS = {
    "a sequence": (lambda c: c(zeros(T, B, I)), ValueError, r"x: wanted shape \(B, I\) = \(B, 3\).*use LSTM"),
    "torch's state": (lambda c: c(zeros(B, I), (zeros(B, N), zeros(B, N))), TypeError, "Name the two"),
    "flags": (lambda c: c(zeros(B, I), is_first=[True]), ValueError, r"is_first: wanted shape \(B,\) = \(2,\)"),
    "reset_to alone": (lambda c: c(zeros(B, I), reset_to=state_of()), ValueError, "None without is_first"),
}


@pytest.mark.parametrize(("call", "kind", "message"), BAD_STEPS.values(), ids=BAD_STEPS)
def test_bad_steps_raise(call, kind, message):
    with pytest.raises(kind, match=message):
        call(ours.LSTMCell(I, N))
