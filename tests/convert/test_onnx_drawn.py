"""Draw models at random, and test that from_onnx either returns weights that agree with the model's run, or raises.

A model has up to four LSTMs with identities and other operators between them, skips, siblings, branches of an If,
functions, states and lengths of all kinds. FUSEDLSTM_MODELS models (default 20) are drawn, with seeds 0, 1, 2 ...
"""

import logging
import os
from collections import Counter

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState, convert
from fusedlstm.convert.checking import check

from support.onnx_drawn import Drawn, N
from support.onnx_models import numpy_helper, onnx, session

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

MODELS = int(os.environ.get("FUSEDLSTM_MODELS", "20"))


def values_of(model, drawn, condition):
    """Return all tapped values from the model's own run."""
    feeds = drawn.feeds | ({"condition": np.array(condition)} if drawn.has_if else {})
    running = session(model)
    names = [output.name for output in running.get_outputs()]
    found = dict(zip(names, running.run(names, feeds), strict=True))
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in drawn.constants} | feeds | found


def states_of(layers, values, branch, constant):
    """Return the state of each layer and direction: the caller's, state_from_onnx's, or zeros."""
    states = []
    for layer in layers:
        D, rows = values[layer.values["Y_h"]].shape[:2]
        parts = []
        for part in ("initial_h", "initial_c"):
            kind, name = layer.states[branch][part]
            is_given = kind in ("input", "computed")
            parts.append(values[name] if is_given else np.zeros((D, rows, N), np.float32))
        states += [LSTMState(h=h, c=c) for h, c in zip(*parts, strict=True)]
    if constant is not None:
        rows = states[0].h.shape[0]
        states = [
            LSTMState(**{k: np.repeat(a, rows // len(a), 0) for k, a in (("h", s.h), ("c", s.c))}) for s in constant
        ]
    return tuple(states)


def apart(weights, layers, values, branch, constant, said):
    """Return the largest difference between the weights' outputs and states and the model's."""
    first, last = layers[0], layers[-1]
    options = {}
    kind, name = first.lengths
    if kind in ("input", "short"):
        options["lengths"] = values[name].astype(np.int64)
        if kind == "short":
            assert any("sequence_lens" in text for text in said)
    states = states_of(layers, values, branch, constant)
    outputs, finals = LSTM(weights, backend="numpy")(values[first.values["X"]], states, **options)
    Y = values[last.values["Y"]][:: -1 if last.turned != first.turned else 1]
    differences = [np.abs(outputs - np.concatenate(list(Y.swapaxes(0, 1)), axis=2)).max()]
    D = Y.shape[1]
    for k, state in enumerate(finals):
        for part, array in (("Y_h", state.h), ("Y_c", state.c)):
            differences.append(np.abs(values[layers[k // D].values[part]][k % D] - array).max())
    return max(differences)


def tried(source, name, **options):
    """Return from_onnx's result, or None if it raises, and the log's messages."""
    said, handler = [], logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("fusedlstm")
    logger.addHandler(handler)
    try:
        return convert.from_onnx(source, name, **options), said
    except ValueError:
        return None, said
    finally:
        logger.removeHandler(handler)


def asked(model, drawn, name, layers, path, outcomes):
    """Convert by a name, and return the difference from the model, or None if it raises."""
    weights, said = tried(model, name)
    constant = None
    if weights is None:
        weights, said = tried(model, name, initial_state="separate")
        if weights is None:
            outcomes["refused"] += 1
            return None
        try:
            constant = convert.state_from_onnx(model, name)
        except ValueError:
            outcomes["refused for its state"] += 1
            return None
        outcomes["its state by itself"] += 1
    outcomes["accepted"] += 1
    outcomes["accepted stacks"] += weights.num_layers > 1
    assert weights.num_layers == len(layers)
    result = check("onnx", str(path), name, weights, {"initial_state": "separate"})
    assert result.agrees, str(result)
    outcomes["whole models checked"] += not result.around
    names = [name] if isinstance(name, str) else name
    branches = {0, 1} if drawn.has_if else {0}
    branches = branches.intersection(*(layer.branches_of(names, constant) for layer in layers))
    if not branches:  # the states belong to nodes in different branches, which never run together
        return None
    return max(
        apart(weights, layers, values_of(model, drawn, not branch), branch, constant, said) for branch in branches
    )


def names_for(drawn, layers):
    """Return a name of each layer, or all names of a layer in two branches."""
    chosen = []
    for layer in layers:
        some = layer.labels if drawn.chance(0.3) else [str(drawn.rng.choice(layer.labels))]
        chosen += [str(label) for label in some]
    return chosen


def draw_and_ask(seed, folder, outcomes):
    """Convert a model without a name, by all names in both orders, and by some. Return the largest difference."""
    drawn = Drawn(np.random.default_rng([7, seed]))
    model = drawn.draw()
    path = folder / f"{seed}.onnx"
    onnx.save(model, path)
    differences = [asked(model, drawn, None, drawn.layers, path, outcomes)]
    if drawn.is_faithful and not kinds_of(drawn) & {"constant", "rows", "Expand", "Tile"}:
        assert differences[0] is not None, "refused, though only identities are between the layers"
    order = [drawn.layers[k] for k in drawn.rng.permutation(len(drawn.layers))]
    some = order[: int(drawn.rng.integers(1, len(order) + 1))]
    differences += [
        asked(model, drawn, names_for(drawn, layers), layers, path, outcomes) for layers in (drawn.layers, order, some)
    ]
    path.unlink()
    return max((each for each in differences if each is not None), default=0.0)


def kinds_of(drawn):
    return {kind for layer in drawn.layers for states in layer.states for kind, _ in states.values()}


def test_drawn_models_agree_or_raise(tmp_path):
    outcomes, largest = Counter(), 0.0
    for seed in range(MODELS):
        try:
            difference = draw_and_ask(seed, tmp_path, outcomes)
        except Exception as error:
            raise AssertionError(f"model {seed}: {error}") from error
        assert difference < 1e-5, f"model {seed}: {difference}"
        largest = max(largest, difference)
    print(f"{MODELS} models: at most {largest:.1e} apart; {dict(outcomes)}")
    for outcome in ("accepted", "accepted stacks", "refused", "whole models checked"):
        assert outcomes[outcome] >= MODELS // 5, outcomes
