"""Hints about JAX's systems: Flax, Haiku and Equinox."""

import numpy as np
import pytest

from fusedlstm import LSTM, StackedWeights, convert

from support.hints.arrays import equinox_cell, haiku
from support.hints.case import FOLDER, B, Case, I, N, lstm, weights, x, xs


class Own:
    """A class that looks like Equinox's cell."""

    def __init__(self):
        self.__dict__.update(equinox_cell())


def nnx():
    return pytest.importorskip("flax.nnx", reason="Flax is not installed")


def rnn(cell=None, **options):
    rngs = nnx().Rngs(0)
    return nnx().RNN(nnx().LSTMCell(I, N, rngs=rngs, **(cell or {})), rngs=rngs, **options)


def started():
    return rnn({"carry_init": lambda key, shape, dtype=None: np.ones(shape, dtype)})


def summed():
    return nnx().Bidirectional(rnn(), rnn(), merge_fn=lambda one, other: one + other, rngs=nnx().Rngs(0))


def message_pack():
    """Return the path of parameters as flax.serialization writes them."""
    from flax import serialization

    path = FOLDER["now"] / "m.msgpack"
    path.write_bytes(serialization.msgpack_serialize(convert.to_flax(weights())))
    return path


def restored():
    from flax import serialization

    return serialization.msgpack_restore(message_pack().read_bytes())


def with_head():
    both = convert.to_flax(StackedWeights.random(I, N, seed=0, bidirectional=True))
    return {"m": both | {"head": {"kernel": np.ones((2 * N, 2))}}}


CASES = {
    "several flax cells": Case(
        lambda: convert.from_flax({"a": convert.to_flax(weights()), "b": convert.to_flax(weights())}),
        lambda: convert.from_flax({"a": convert.to_flax(weights()), "b": convert.to_flax(weights())}, prefix="a/"),
    ),
    "several equinox cells": Case(
        lambda: convert.from_equinox({"a": equinox_cell(), "b": equinox_cell()}),
        lambda: convert.from_equinox({"a": equinox_cell(), "b": equinox_cell()}, prefix="b"),
    ),
    "other arrays": Case(
        lambda: convert.from_flax(convert.to_flax(weights()) | {"scale": x()}),
        lambda: convert.from_flax(convert.to_flax(weights())),
    ),
    "several haiku layers": Case(
        lambda: convert.from_haiku(haiku("lstm") | haiku("lstm_1")),
        lambda: (
            convert.from_haiku(haiku("lstm") | haiku("lstm_1"), prefix="lstm"),
            convert.from_haiku(haiku("lstm", N) | haiku("lstm_1", N), prefix=["lstm", "lstm_1"]),
        ),
    ),
    "a module that holds no Equinox cell": Case(
        lambda: convert.from_equinox(3), lambda: convert.from_equinox({"a": {"b": equinox_cell()}}, prefix="a.b")
    ),
    "a module that is not Equinox's": Case(
        lambda: convert.from_equinox(Own()), lambda: convert.from_equinox(Own(), custom_classes=["Own"])
    ),
    "directions with more": Case(
        lambda: convert.from_flax(with_head(), "m"),
        lambda: convert.from_flax(with_head(), [("m/forward_rnn", "m/backward_rnn")]),
    ),
    "parameters in MessagePack": Case(
        lambda: convert.from_torch(message_pack()), lambda: convert.from_flax(restored()), "flax"
    ),
    "a reversed RNN": Case(
        lambda: convert.from_flax(rnn(reverse=True)),
        lambda: LSTM(convert.from_flax(rnn(reverse=True)), backend="numpy")(xs(), reverse=True),
        "flax",
    ),
    "an RNN with an initial state": Case(
        lambda: convert.from_flax(started()),
        lambda: LSTM(convert.from_flax(started(), prefix="cell"), backend="numpy")(xs(), lstm().zero_state(B)),
        "flax",
    ),
    "directions that are added": Case(
        lambda: convert.from_flax(summed()),
        lambda: [convert.from_flax(summed(), f"{way}_rnn/cell") for way in ("forward", "backward")],
        "flax",
    ),
}
