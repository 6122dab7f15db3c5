"""Hints about x, masks and sequences."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, convert

from support.hints.case import B, Case, I, N, T, cell, lstm, state, torch, weights, x, xs


def packed():
    return torch().nn.utils.rnn.pack_padded_sequence(torch().zeros(T, B, I), [T, 3])


def run_padded():
    """Do what the message says, and compare with PyTorch's outputs."""
    xs, lengths = torch().nn.utils.rnn.pad_packed_sequence(packed())
    module = torch().nn.LSTM(I, N)
    with torch().no_grad():
        wanted, _ = torch().nn.utils.rnn.pad_packed_sequence(module(packed())[0])
    outputs, _ = LSTM(convert.from_torch(module), backend="numpy")(xs, lengths=lengths)
    np.testing.assert_allclose(outputs, wanted, rtol=0, atol=1e-6)


def masked():
    module = pytest.importorskip("torch.masked", reason="this PyTorch has no masked tensors")
    return module.masked_tensor(torch().zeros(B, I), torch().ones(B, I, dtype=torch().bool))


CASES = {
    "one row": Case(lambda: cell()(x()[0], state()), lambda: cell()(x()[0][None], cell().zero_state(1))),
    "a sequence for a cell": Case(lambda: cell()(xs(), state()), lambda: LSTM(weights(), backend="numpy")(xs())),
    "a step for an lstm": Case(lambda: lstm()(x()), lambda: lstm().step(x(), lstm().zero_state(B))),
    "a list": Case(lambda: cell()([[0.0] * I] * B, state()), lambda: cell()(cell().asarray([[0.0] * I] * B), state())),
    "a list of steps": Case(lambda: lstm()(xs().tolist()), lambda: lstm()(lstm().asarray(xs().tolist()))),
    "another dtype": Case(lambda: cell()(x("d"), state()), lambda: cell()(x("d").astype("float32"), state())),
    "complex numbers": Case(
        lambda: cell()(x("F"), state()), lambda: cell()(np.ascontiguousarray(x("F").real), state())
    ),
    "state as x": Case(
        lambda: cell()(state(), state()),
        lambda: LSTMCell(LSTMWeights.random(N, N, seed=0), backend="numpy")(state().h, state()),
    ),
    "a float mask": Case(
        lambda: cell()(x(), state(), is_first=np.zeros(B, "f")),
        lambda: cell()(x(), state(), is_first=np.zeros(B, "f") != 0),
    ),
    "a float mask of steps": Case(
        lambda: lstm()(xs(), mask=np.ones((T, B), "f")), lambda: lstm()(xs(), mask=np.ones((T, B), "f") != 0)
    ),
    "a masked array": Case(
        lambda: cell()(np.ma.zeros((B, I), "f"), state()), lambda: cell()(np.ma.zeros((B, I), "f").filled(0), state())
    ),
    "a masked tensor": Case(
        lambda: cell()(masked(), state()), lambda: cell()(masked().to_tensor(0.0), state()), "torch"
    ),
    "packed sequence": Case(lambda: lstm()(packed()), run_padded, "torch"),
    "requires grad": Case(
        lambda: cell()(torch().zeros(B, I, requires_grad=True), state()),
        lambda: cell()(torch().zeros(B, I, requires_grad=True).detach(), state()),
        "torch",
    ),
    "an own subclass of an array": Case(
        lambda: cell()(np.matrix(x()), state()), lambda: cell()(np.asarray(np.matrix(x())), state())
    ),
    "negated memory": Case(
        lambda: cell()(torch().zeros(B, I, dtype=torch().complex64).conj().imag, state()),
        lambda: cell()(torch().zeros(B, I, dtype=torch().complex64).conj().imag.resolve_neg().contiguous(), state()),
        "torch",
    ),
    "a sequencer without a buffer": Case(
        lambda: lstm().sequencer(T, B).is_first, lambda: lstm().sequencer(T, B, is_first=True).is_first
    ),
    "a sequencer without an argument": Case(
        lambda: lstm().sequencer(T, B).run(xs(), is_first=np.zeros((T, B), bool)),
        lambda: lstm().sequencer(T, B, is_first=True).run(xs(), is_first=np.zeros((T, B), bool)),
    ),
}
