"""Hints for errors about values passed in place of weights, or to another framework's importer: what to use."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from fusedlstm.validation.arguments import describe_type, fail

# Calls that make weights of an object, by the package of its class or of a base class. Keras comes first, as its
# layers also derive from PyTorch's or TensorFlow's modules. haste's derive from PyTorch's.
_OBJECTS = {
    "keras": "from_keras(layer)",
    "tf_keras": "from_keras(layer)",
    "tensorflow.python.keras": "from_keras(layer)",
    "haste_pytorch": "from_haste(module.state_dict())",
    "torch.nn.modules": "from_torch(module)",
    "torch.export": "from_torch(program.state_dict)",
    "flax.core": "from_flax(variables)",  # its FrozenDict
    "flax.nnx.statelib": "from_flax(state)",
    "flax.linen": "from_flax(variables)",  # its modules hold no weights
    "flax": "from_flax(module)",
    "equinox": "from_equinox(module)",
    "haiku": "from_haiku(params)",
    "onnx": "from_onnx(model)",
    "onnxruntime": "from_onnx(path)",  # its sessions hold no weights
    "sonnet.src": "from_sonnet2(variables)",
    "sonnet": "from_sonnet1(variables)",
    "tensorflow.lite": "from_tflite(inputs)",
    "tensorflow": "from_tf1(variables)",
    "mxnet": "from_mxnet(params)",
    "chainer": "from_chainer(params)",
    "coremltools": "from_coreml(parameters)",
}
# What reads a file, by the end of its name; load_weights reads our own.
_FILES = dict.fromkeys((".pt", ".pth", ".bin"), "from_torch")
_FILES |= dict.fromkeys((".keras", ".h5", ".hdf5"), "from_keras") | {".onnx": "from_onnx"}
_UNKNOWN = "the function of fusedlstm.convert for its framework"


def weights_of(value: Any) -> str:
    """Return the expression that makes weights of a value; "" if none is known. No framework is imported."""
    from fusedlstm.placement import Placed

    if isinstance(value, (str, bytes, os.PathLike)):
        reader = _FILES.get(os.path.splitext(os.fsdecode(value))[1].lower())
        return f"fusedlstm.convert.{reader}(path)" if reader else "fusedlstm.load_weights(path)"
    if isinstance(value, Placed):
        return "its .weights"
    if holds_states(value):
        return "the .weights of its cell or LSTM"
    for module, call in _OBJECTS.items():
        if any(f"{base.__module__}.".startswith(f"{module}.") for base in type(value).__mro__):
            return f"fusedlstm.convert.{call}"
    if isinstance(value, (list, tuple)) and value and hasattr(value[0], "shape"):  # such as Keras's get_weights()
        return _UNKNOWN
    return _of_arrays(value) if isinstance(value, Mapping) else ""


def use_weights_of(value: Any) -> str:
    """Return the same as a sentence, for the hint of an error."""
    if _is_our("LSTMWeights", value) or _is_our("StackedWeights", value):
        return "These are weights already"
    expression = weights_of(value)
    return expression and f"Use {expression}"


def holds_states(value: Any) -> bool:
    """Return whether a value is a Stepper or a StatePool."""
    return _is_our("Stepper", value) or _is_our("StatePool", value)


def _is_our(name: str, value: Any) -> bool:
    """Return whether a value is of our class of this name. Importing it here would be a cycle."""
    return any(base.__name__ == name and base.__module__.startswith("fusedlstm.") for base in type(value).__mro__)


def fail_source(name: str, wanted: str, value: Any) -> NoReturn:
    """Raise TypeError about what an importer was given, saying what takes it."""
    use = use_weights_of(value)
    if isinstance(value, (str, bytes, os.PathLike)) and "load_weights" in use:
        use = 'This takes no path: the command "fusedlstm convert" reads files, and load_weights those that it writes'
    fail(TypeError, name, wanted, describe_type(value), use)


def _of_arrays(arrays: Mapping[Any, Any]) -> str:
    """Return the call that makes weights of named arrays. PyTorch's are known by their names."""
    is_torch = any(re.search(r"\bweight_ih_l\d|\bbias_ih\b", name) for name in arrays if isinstance(name, str))
    return "fusedlstm.convert.from_torch(arrays)" if is_torch else _UNKNOWN


def refuse_others(name: str, wanted: str, value: Any, importer: str) -> None:
    """Raise TypeError for an object of ours or of another framework than the one that this importer reads."""
    hint = use_weights_of(value)
    if hint and importer not in hint:
        fail_source(name, wanted, value)
