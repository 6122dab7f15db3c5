"""Hints for errors about values that aren't weights, or were passed to the wrong importer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from fusedlstm.validation.arguments import describe_type, fail

# Calls that convert an object to weights, by the package of its class or of a base class. The first match wins. Keras
# and haste come before PyTorch, because their layers may also be PyTorch modules. `flax.core` comes before `flax`.
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
UNKNOWN_FRAMEWORK = "Use the function of fusedlstm.convert for its framework"
# The importer for each file extension.
_FILES = dict.fromkeys((".pt", ".pth", ".bin"), "from_torch")
_FILES |= dict.fromkeys((".keras", ".h5", ".hdf5"), "from_keras") | {".onnx": "from_onnx"}


def use_weights_of(value: Any) -> str:
    """Return the hint for an error about a value that isn't weights."""
    from fusedlstm.placement import Placed

    if _is_our("LSTMWeights", value) or _is_our("StackedWeights", value):
        return "These are weights already"
    if isinstance(value, Placed):
        return "Use its .weights"
    if holds_states(value):
        return "Use the .weights of its cell or LSTM"
    if call := weights_call(value):
        return f"Use {call}"
    has_arrays = isinstance(value, (list, tuple)) and value and hasattr(value[0], "shape")  # such as get_weights()
    return UNKNOWN_FRAMEWORK if has_arrays or isinstance(value, Mapping) else ""


def weights_call(value: Any) -> str:
    """Return the call that converts a value to weights; "" if it is unknown. No framework is imported."""
    if call := _importer_call(value):
        return f"fusedlstm.convert.{call}"
    return "fusedlstm.load_weights(path)" if _is_path(value) else ""


def _importer_call(value: Any) -> str:
    """Return the importer's part of `weights_call`; "" for our own files and unknown values."""
    if _is_path(value):
        importer = _FILES.get(os.path.splitext(os.fsdecode(value))[1].lower())
        return f"{importer}(path)" if importer else ""
    for module, call in _OBJECTS.items():
        if any(f"{base.__module__}.".startswith(f"{module}.") for base in type(value).__mro__):
            return call
    return "from_torch(arrays)" if isinstance(value, Mapping) and any(map(_is_of_torch, value)) else ""


def _is_of_torch(name: Any) -> bool:
    """Return whether this is a name that PyTorch gives a parameter of an LSTM."""
    return isinstance(name, str) and re.search(r"\bweight_ih_l\d|\bbias_ih\b", name) is not None


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, bytes, os.PathLike))


def holds_states(value: Any) -> bool:
    """Return whether a value is a Stepper, a Sequencer or a StatePool."""
    return any(_is_our(name, value) for name in ("Stepper", "Sequencer", "StatePool"))


def _is_our(name: str, value: Any) -> bool:
    """Return whether a value is of our class of this name. Importing the class here would be circular."""
    return any(base.__name__ == name and base.__module__.startswith("fusedlstm.") for base in type(value).__mro__)


def fail_source(name: str, wanted: str, value: Any, *, converts: bool = False) -> NoReturn:
    """Raise TypeError about an importer's source, with a hint about what to use for it.

    `converts` says whether the command converts files of the importer's system.
    """
    hint = use_weights_of(value)
    if _is_path(value) and not _importer_call(value):
        hint = "Pass arrays, not a path" + ('. The command "fusedlstm convert" converts files' if converts else "")
    fail(TypeError, name, wanted, describe_type(value), hint)


def refuse_foreign_source(name: str, wanted: str, value: Any, importer: str) -> None:
    """Raise TypeError if `value` is ours or another importer's, for importers whose files the command converts."""
    if _importer_call(value).partition("(")[0] != importer and use_weights_of(value):
        fail_source(name, wanted, value, converts=True)
