"""What Keras computes of a file agrees with what the weights made of it compute, and not with others."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from keras_installed import keras_or_skip

from fusedlstm import LSTM, LSTMState
from fusedlstm.convert.keras.objects import from_keras
from fusedlstm.convert.running.keras import run

pytestmark = pytest.mark.filterwarnings("ignore")
REAL = Path(__file__).parent / "data" / "keras" / "files.zip"


@pytest.mark.parametrize("ending", [".keras", ".h5", "weights.h5"])
@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_run(package, ending, tmp_path):
    h5py = pytest.importorskip("h5py")
    keras_or_skip(package)
    separator = "" if not ending.startswith("w") else "." if package == "keras" else "_"
    with zipfile.ZipFile(REAL) as archive:
        path = archive.extract(f"{package}{separator}{ending}", tmp_path)
    options = {"activation": "tanh", "recurrent_activation": "sigmoid"} if separator else {}
    rng = np.random.default_rng(0)
    for name in ("stack", "inner" if separator == "_" else "both"):
        weights = from_keras(path, name, **options)
        xs = rng.normal(size=(4, 2, 3)).astype("f")
        states = [tuple(rng.uniform(-1, 1, (2, 2, each.hidden_size)).astype("f")) for each in weights.layers]
        outputs, finals = run(path, name, weights, xs, states, options)
        got, ours = LSTM(weights, backend="numpy")(xs, [LSTMState(h=h, c=c) for h, c in states])
        assert np.abs(got - outputs).max() < 3e-6
        for state, (h, c) in zip(ours, finals, strict=True):
            assert max(np.abs(state.h - h).max(), np.abs(state.c - c).max()) < 3e-6
    if ending == ".keras":
        return
    with h5py.File(path, "a") as file:  # with two gates exchanged

        def exchange(name, item):
            if isinstance(item, h5py.Dataset) and item.shape == (3, 8):
                item[...] = item[...].reshape(3, 4, 2)[:, [1, 0, 2, 3]].reshape(3, 8)

        file.visititems(exchange)
    outputs, _ = run(path, name, weights, xs, states, options)
    assert np.abs(got - outputs).max() > 1e-3


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_nothing_in_a_file_is_executed(package, ending, tmp_path):
    """load_model of tf_keras runs the program of a Lambda layer in a .h5."""
    keras = keras_or_skip(package)
    trace, path = str(tmp_path / "executed"), str(tmp_path / f"m{ending}")
    program = eval(f"lambda x: (open({trace!r}, 'w').close(), x)[1]")  # whose source is kept nowhere else
    x = keras.Input((5, 3))
    y = keras.layers.LSTM(4, activation="softsign", recurrent_activation="hard_sigmoid", name="lstm")(x)
    keras.Model(x, keras.layers.Lambda(program, output_shape=(4,))(y)).save(path)
    Path(trace).unlink(missing_ok=True)
    weights = from_keras(path)
    xs, states = np.ones((2, 1, 3), "f"), [(np.ones((1, 4), "f"), np.ones((1, 4), "f"))]
    outputs, _ = run(path, None, weights, xs, states, {})
    got, _ = LSTM(weights, backend="numpy")(xs, [LSTMState(h=h, c=c) for h, c in states])
    assert np.abs(got - outputs).max() < 3e-6
    assert not os.path.exists(trace)
