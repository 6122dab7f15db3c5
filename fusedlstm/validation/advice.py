"""Hints for errors about values passed in place of weights: how to make weights of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

# Calls that make weights of an object, by the package of its class or of a base class. Keras comes first, as its
# layers also derive from PyTorch's or TensorFlow's modules.
_OBJECTS = {
    "keras": "from_keras(layer)",
    "tf_keras": "from_keras(layer)",
    "tensorflow.python.keras": "from_keras(layer)",
    "torch.nn.modules": "from_torch(module)",
    "flax.linen": "from_flax(variables)",  # its modules hold no weights
    "flax": "from_flax(module)",
    "equinox": "from_equinox(module)",
    "haiku": "from_haiku(params)",
    "onnx": "from_onnx(model)",
    "sonnet.src": "from_sonnet2(variables)",
    "sonnet": "from_sonnet1(variables)",
    "tensorflow": "from_tf1(variables)",
    "mxnet": "from_mxnet(params)",
    "chainer": "from_chainer(params)",
}
_UNKNOWN = "the function of fusedlstm.convert for its framework"


def weights_of(value: Any) -> str:
    """Return the expression that makes weights of a value; "" if none is known. No framework is imported."""
    from fusedlstm.placement import Placed

    if isinstance(value, (str, bytes, os.PathLike)):
        return "fusedlstm.load_weights(path)"
    if isinstance(value, Placed):
        return "its .weights"
    for module, call in _OBJECTS.items():
        if any(f"{base.__module__}.".startswith(f"{module}.") for base in type(value).__mro__):
            return f"fusedlstm.convert.{call}"
    if isinstance(value, (list, tuple)) and value and hasattr(value[0], "shape"):  # such as Keras's get_weights()
        return _UNKNOWN
    return _of_arrays(value) if isinstance(value, Mapping) else ""


def use_weights_of(value: Any) -> str:
    """Return the same as a sentence, for the hint of an error."""
    expression = weights_of(value)
    return expression and f"Use {expression}"


def _of_arrays(arrays: Mapping[Any, Any]) -> str:
    """Return the call that makes weights of named arrays. PyTorch's are known by their names."""
    is_torch = any(re.search(r"\bweight_ih_l\d|\bbias_ih\b", name) for name in arrays if isinstance(name, str))
    return "fusedlstm.convert.from_torch(arrays)" if is_torch else _UNKNOWN
