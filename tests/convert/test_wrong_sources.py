"""Errors of importers about objects that they don't read."""

import inspect
import operator
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, StackedWeights, StatePool, WeightsFileError, convert
from fusedlstm.convert.systems import SYSTEMS

from support.examples import EXAMPLES
from support.framework_objects import OBJECTS, object_of

WEIGHTS = LSTMWeights.random(3, 4, seed=0)
CELL = LSTMCell(WEIGHTS, backend="numpy")
OURS = {
    "LSTMWeights": (WEIGHTS, "These are weights already"),
    "StackedWeights": (StackedWeights([WEIGHTS]), "These are weights already"),
    "LSTMCell": (CELL, "Use its .weights"),
    "LSTM": (LSTM(WEIGHTS, backend="numpy"), "Use its .weights"),
    "Stepper": (CELL.stepper(2), "Use the .weights of its cell or LSTM"),
    "StatePool": (StatePool(CELL, 2), "Use the .weights of its cell or LSTM"),
}
READERS = [name for name in convert.__all__ if name.startswith(("from_", "list_", "initial_"))]
NAME = operator.attrgetter("name")
KEYWORDS = {"from_cudnn": {"num_layers": 1}}


def refusal(reader, value):
    """Return the message of a reader that is given a value for each required argument."""
    function = getattr(convert, reader)
    required = [
        each
        for each in inspect.signature(function).parameters.values()
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    with pytest.raises((TypeError, ValueError, WeightsFileError)) as raised:
        function(*[value] * len(required), **KEYWORDS.get(reader, {}))
    message = str(raised.value)
    assert message.startswith(f"{required[0].name}: wanted ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("reader", READERS)
def test_reader_says_what_it_wants(reader):
    for value in (None, 5, object()):
        assert type(value).__name__.removesuffix("Type") in refusal(reader, value)


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("reader", READERS)
def test_reader_refuses_our_own_objects(reader, ours):
    value, hint = OURS[ours]
    assert refusal(reader, value).endswith(f". {hint}")


@pytest.mark.parametrize("reader", READERS)
def test_reader_names_the_right_importer(reader):
    for module, call in OBJECTS.items():
        if not call.startswith(f"{reader}("):
            theirs = object_of(module)
            for value in (theirs, object_of("__main__", type(theirs))):
                if not (reader == "initial_state_from_keras" and "from_keras" in call):
                    assert f"Use fusedlstm.convert.{call}" in refusal(reader, value)


NAMED = {name: example.arrays(WEIGHTS) for name, example in EXAMPLES.items()}
NAMED["tf1"] = convert.to_tf1(WEIGHTS, prefix="rnn/lstm_cell")
NAMED["torch"] = {f"weight_{part}_l0": np.zeros((16, size)) for part, size in (("ih", 3), ("hh", 4))}
NESTED = {
    "flax": {"encoder": {"ii": {"kernel": np.zeros((3, 4))}}},
    "haiku": {"lstm/linear": {"w": np.zeros((7, 16)), "b": np.zeros(16)}},
    "torch": {"model": {"lstm": NAMED["torch"]}},
}
FROM = [name for name in READERS if name.startswith("from_")]


@pytest.mark.parametrize("reader", FROM)
def test_names_of_arrays_tell_the_importer(reader):
    own = next(each.name for each in SYSTEMS if getattr(convert, reader).__name__ in names_of_functions(each))
    for system, arrays in (*NAMED.items(), *NESTED.items()):
        if system != own:
            assert re.search(rf"\bfrom_{system}\b", refusal(reader, arrays)), system


def names_of_functions(system):
    return [each.__name__ for each in (system.read, *system.others) if each]


@pytest.mark.parametrize(
    ("reader", "arrays"),
    [
        ("from_chainer", NAMED["chainer"]),  # wants a prefix
        ("from_torch", {"weight_ih_l0": np.zeros((16, 3))}),
        ("from_torch", {"cell.weight_ih": np.zeros((16, 3))}),  # Equinox has these names, too
        ("from_coreml", {"weight_ih": np.zeros((16, 3))}),  # Equinox has these names, too
        ("from_tf1", {"dense/weights": np.zeros(3)}),
        ("from_haiku", {5: np.zeros(3)}),
    ],
)
def test_other_names_tell_no_importer(reader, arrays):
    assert "from_" not in refusal(reader, arrays)


def test_hints_never_replace_an_error():
    class Closed(dict):
        def items(self):
            raise KeyError("closed")

    with pytest.raises(TypeError, match="^weights: wanted a sequence"):
        convert.from_cudnn(Closed(a=np.zeros(3)), [], num_layers=1)


def test_hints_do_not_name_their_own_importer():
    names = {"lstm/kernel": np.zeros((3, 16)), "lstm/recurrent_kernel": np.zeros((4, 16)), "lstm/bias": np.zeros(16)}
    assert "from_keras" not in refusal("from_keras", names)


@pytest.mark.parametrize("name", [name for name in convert.__all__ if not name.startswith("__")])
def test_functions_can_be_pickled(name):
    function = getattr(convert, name)
    assert pickle.loads(pickle.dumps(function)) is function


def test_hints_take_keywords():
    with pytest.raises(ValueError, match=r"Arrays with such names are for fusedlstm\.convert\.from_flax$"):
        convert.from_torch(layer=None, source=NAMED["flax"])


@pytest.mark.parametrize("reader", ["from_torch", "list_torch"])
def test_torch_readers_refuse_keras_and_haste(reader):
    """With its PyTorch backend, Keras's layers are PyTorch's modules too. So are haste's."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for module in ("keras.src.layers.rnn.lstm", "haste_pytorch.lstm"):
        theirs = object_of(module, torch.nn.Module)
        assert f"Use fusedlstm.convert.{OBJECTS[module]}" in refusal(reader, theirs)
        theirs.inner = torch.nn.LSTM(3, 4)  # if an LSTM is inside, they convert
        getattr(convert, reader)(theirs, **({"custom_classes": ["Theirs"]} if reader == "from_torch" else {}))


@pytest.mark.parametrize("system", [each for each in SYSTEMS if each.read and each.source != "path"], ids=NAME)
def test_readers_of_arrays_name_the_command(system):
    """The error names the command if it converts files of the system."""
    hint = "Pass arrays, not a path" + ('. The command "fusedlstm convert" converts files' if system.source else "")
    for path in ("model", b"model.params", Path("a.tflite")):
        assert refusal(system.read.__name__, path).endswith(f". {hint}")
        assert refusal(system.read.__name__, "a.onnx").endswith(". Use fusedlstm.convert.from_onnx(path)")


@pytest.mark.parametrize("reader", ["from_cudnn", "from_tflite"])
@pytest.mark.parametrize("kind", [list, tuple, iter, np.array, lambda arrays: dict(enumerate(arrays)).values()])
def test_readers_of_sequences_take_iterables(reader, kind):
    w, u, b = [np.ones((4, 4), "f")] * 4, [np.ones((4, 4), "f")] * 4, [np.zeros(4, "f")] * 4
    if reader == "from_cudnn":
        layers = convert.from_cudnn(kind([*w, *u]), kind([*b, *b]), num_layers=1).layers
        assert (layers[0].weight_ih == 1).all()
    else:
        inputs = [None, *w, *u, None, None, None, *b]
        filled = np.empty(len(inputs), object)
        filled[:] = inputs
        weights = convert.from_tflite(filled if kind is np.array else kind(inputs))
        assert (weights.weight_ih == 1).all()


def test_from_equinox_refuses_pytorch_modules():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for module in (torch.nn.LSTM(3, 4), torch.nn.LSTMCell(3, 4)):
        for source, prefix in ((module, ""), ([module], "0")):
            with pytest.raises(TypeError, match=r"Use fusedlstm\.convert\.from_torch\(module\)$"):
                convert.from_equinox(source, prefix)
        module.weight_ih = module.weight_hh = module.bias = None
        with pytest.raises(TypeError, match=r"Use fusedlstm\.convert\.from_torch\(module\)$"):
            convert.from_equinox([module], "0")


def test_from_equinox_refuses_a_path_with_prefix():
    with pytest.raises(TypeError, match='The command "fusedlstm convert" converts files$'):
        convert.from_equinox("model.eqx", "encoder.cell")


@pytest.mark.parametrize("reader", ["list_tf1", "list_torch", "list_flax"])
def test_lists_refuse_mappings_without_arrays(reader):
    listed = getattr(convert, reader)
    with pytest.raises(TypeError, match=r": wanted arrays among its values; got int at 'a'$"):
        listed({"a": 1})
    assert listed({}) == listed({"a": 1, "b": np.zeros(3)}) == []
