"""Random Keras models: from_keras refuses them, or its weights give the outputs of the model's own run."""

import itertools
import os

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState
from fusedlstm.convert.keras.files import list_keras
from fusedlstm.convert.keras.objects import from_keras, to_keras

from support.comparisons import assert_equal
from support.keras_installed import keras_or_skip
from support.keras_models import draw, run

pytestmark = pytest.mark.filterwarnings("ignore")  # the warnings are Keras's
MODELS = int(os.environ.get("FUSEDLSTM_MODELS", "20"))
FIRST = int(os.environ.get("FUSEDLSTM_FIRST_MODEL", "0"))
TOLERANCE = 2e-5


def apart(weights, below, above):
    """Return the largest difference between the weights' outputs and those of a stack.

    `below` has one call of each layer, with its states. `above` is the call of the highest layer, with its outputs.
    """
    xs, mask, theirs = below[0].xs, below[0].mask, above.outputs
    mask = np.ones(xs.shape[:2], bool) if mask is None else mask
    order = np.argsort(~mask, axis=1, kind="stable")[..., None]  # unmasked steps first
    lengths = mask.sum(axis=1)
    lstm = LSTM(weights, batch_first=True, backend="numpy")
    flat = [array for call in below for array in call.states]
    states = [LSTMState(h=h, c=c) for h, c in zip(flat[::2], flat[1::2], strict=True)]
    outputs, finals = lstm(np.take_along_axis(xs, order, 1), states, lengths=lengths)
    if theirs.ndim == 2:
        h = [state.h for state in finals]
        return difference(np.concatenate(h[weights.slices[-1]], axis=1), theirs)
    theirs = theirs[:, :: -1 if sum(call.turns for call in below) % 2 else 1]
    counted = np.arange(xs.shape[1]) < lengths[:, None]
    return difference(outputs[counted], np.take_along_axis(theirs, order, 1)[counted])


def difference(ours, theirs):
    return np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max())


def is_taken(source, names, calls):
    """Return whether from_keras takes the weights. Fail if their outputs differ from the model's."""
    try:
        weights = from_keras(source, names if len(names) > 1 else names[0])
    except ValueError:
        return False
    for above in calls[names[-1]]:
        ways = itertools.product(*(calls[name] for name in names[:-1]))
        found = min(apart(weights, (*way, above), above) for way in ways)
        assert found <= TOLERANCE, (names, found)
    return True


def orders(names, rng):
    """Return lists of names: all in the model's order, some in random orders, and pairs of neighbours."""
    several = [names, *(rng.permutation(names)[: rng.integers(2, len(names) + 1)].tolist() for _ in range(3))]
    return several + [list(pair) for pair in itertools.pairwise(names)]


def check_model(keras, seed, folder):
    """Return whether each LSTM of a random model is taken, and whether the stack of all is."""
    drawn = draw(keras, seed)
    calls, names = run(keras, drawn), list(drawn.lstms)
    sources = [drawn.model]
    for ending in (".keras", ".h5"):
        sources.append(folder / f"m{ending}")
        drawn.model.save(sources[-1])
    single, stacks = [], []
    for source in sources:
        single.append([is_taken(source, [name], calls) for name in names])
        if len(names) > 1:
            several = orders(names, np.random.default_rng(seed))
            stacks.append([is_taken(source, order, calls) for order in several])
            with pytest.raises(ValueError, match="wanted one LSTM; got"):
                from_keras(source)
        elif single[-1][0]:
            assert_equal(from_keras(source), from_keras(source, names[0]))
    assert single == single[:1] * len(sources), "objects and files differ"
    assert stacks == stacks[:1] * len(stacks), "objects and files differ"
    check_weights(drawn, folder)
    return single[0], [taken[0] for taken in stacks[:1]]


def check_weights(drawn, folder):
    """Check the weights in a weights-only file, where layers may have other names."""
    path = folder / "m.weights.h5"
    drawn.model.save_weights(path)
    functions = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    known = {array.tobytes() for layer in drawn.lstms.values() for array in layer.get_weights()}
    for listed in list_keras(path):
        weights = from_keras(path, listed.name, **functions)
        for each in weights.layers:
            assert {array.tobytes() for array in to_keras(each)} <= known


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_models_are_refused_or_equal(package, tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed")
    keras = keras_or_skip(package)
    single, stacks = [], []
    for seed in range(FIRST, FIRST + MODELS):
        try:
            taken = check_model(keras, seed, tmp_path)
        except Exception as error:
            raise AssertionError(f"model {seed}: {error}") from error
        single += taken[0]
        stacks += taken[1]
    print(f"{package}: {sum(single)} of {len(single)} LSTMs alone, {sum(stacks)} of {len(stacks)} stacks")
    assert sum(single) > 0.8 * len(single)
    assert sum(stacks) > 0.15 * len(stacks)
