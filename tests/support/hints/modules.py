"""Hints about what PyTorch and JAX train."""

import importlib
import sys

import pytest

from fusedlstm import LSTMState

from support.hints.case import B, Case, I, N, T, torch, weights, xs


def tensor(*shape):
    return torch().zeros(shape)


def module(kind="LSTM"):
    """Return a module that PyTorch trains."""
    return getattr(importlib.import_module("fusedlstm.torch"), kind)(I, N)


def slope(**options):
    """Return the gradient of a module's input, and with create_graph=True, differentiate it."""
    x = tensor(T, B, I).requires_grad_()
    (found,) = torch().autograd.grad(module()(x)[0].sum(), x, **options)
    if options:
        found.sum().backward()
    return found


def forward_slope():
    forward = torch().autograd.forward_ad
    with forward.dual_level():
        module()(forward.make_dual(tensor(T, B, I), tensor(T, B, I)))


def without_pytorch():
    """Import the modules as if PyTorch weren't installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "fusedlstm.torch", raising=False)
        patch.setitem(sys.modules, "torch", None)
        importlib.import_module("fusedlstm.torch")


def in_jax(given, inputs=None):
    return importlib.import_module("fusedlstm.jax").lstm(given, xs() if inputs is None else inputs)


def slope_in_jax(times):
    jax, found = importlib.import_module("jax"), lambda xs: in_jax(weights().arrays(), xs)[0].sum()
    for _ in range(times):
        found = jax.grad(lambda xs, found=found: found(xs).sum())
    return found(xs())


def without_jax():
    """Import the function as if JAX weren't installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "fusedlstm.jax", raising=False)
        patch.setitem(sys.modules, "jax", None)
        importlib.import_module("fusedlstm.jax")


CASES = {
    "modules without pytorch": Case(without_pytorch, module, "torch"),
    "a function without jax": Case(without_jax, lambda: in_jax(weights().arrays()), "jax"),
    "weights for a function in jax": Case(lambda: in_jax(weights()), lambda: in_jax(weights().arrays()), "jax"),
    "an array for a module": Case(lambda: module()(xs()), lambda: module()(torch().as_tensor(xs())), "torch"),
    "another dtype for a module": Case(
        lambda: module()(tensor(T, B, I).double()),
        lambda: module()(tensor(T, B, I).double().to(torch().float32)),
        "torch",
    ),
    "another device": Case(
        lambda: module()(tensor(T, B, I).to("meta")), lambda: module()(tensor(T, B, I).cpu()), "torch"
    ),
    "state for a module": Case(
        lambda: module()(tensor(T, B, I), module().zero_state(B)[0]),
        lambda: module()(tensor(T, B, I), (module().zero_state(B)[0],)),
        "torch",
    ),
    "pytorch's pair for a module": Case(
        lambda: module()(tensor(T, B, I), (tensor(1, B, N), tensor(1, B, N))),
        lambda: module()(
            tensor(T, B, I), tuple(LSTMState(h=tensor(1, B, N)[k], c=tensor(1, B, N)[k]) for k in range(1))
        ),
        "torch",
    ),
    "one row for a module": Case(
        lambda: module()(tensor(T, B, I), module().zero_state(1)),
        lambda: module()(tensor(T, B, I), (LSTMState(h=tensor(1, N).expand(B, -1), c=tensor(1, N).expand(B, -1)),)),
        "torch",
    ),
    "float flags for a module": Case(
        lambda: module()(tensor(T, B, I), is_first=tensor(T, B)),
        lambda: module()(tensor(T, B, I), is_first=tensor(T, B) != 0),
        "torch",
    ),
    "a float mask for a module": Case(
        lambda: module()(tensor(T, B, I), mask=tensor(T, B)),
        lambda: module()(tensor(T, B, I), mask=tensor(T, B) != 0),
        "torch",
    ),
    "one row for a module's cell": Case(
        lambda: module("LSTMCell")(tensor(I)), lambda: module("LSTMCell")(tensor(I)[None]), "torch"
    ),
    "forward mode": Case(forward_slope, slope, "torch"),
    "second derivatives in jax": Case(lambda: slope_in_jax(2), lambda: slope_in_jax(1), "jax"),
    "a transform of torch.func": Case(
        lambda: torch().func.grad(lambda x: module()(x)[0].sum())(tensor(T, B, I)), slope, "torch"
    ),
    "second derivatives": Case(lambda: slope(create_graph=True), slope, "torch"),
}
