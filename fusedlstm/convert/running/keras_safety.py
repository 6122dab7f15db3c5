"""Check that Keras may load a file's model: it has only known layers, in sizes that the file has.

Keras's loaders execute what configs name: code of Lambda layers (in HDF5 whatever the arguments), and classes and
functions of other modules. They also allocate memory by the sizes that a config claims.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.keras.nodes import class_of
from fusedlstm.convert.running.model import ModelNotRunError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LAYERS = (
    *("InputLayer", "LSTM", "GRU", "SimpleRNN", "RNN", "LSTMCell", "GRUCell", "SimpleRNNCell", "StackedRNNCells"),
    *("Bidirectional", "TimeDistributed", "Masking", "Dense", "Conv1D", "Identity", "Activation"),
    *("Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"),
    *("BatchNormalization", "LayerNormalization", "LeakyReLU", "ReLU", "ELU", "PReLU", "Softmax", "ThresholdedReLU"),
    *("MaxPooling1D", "AveragePooling1D", "GlobalMaxPooling1D", "GlobalAveragePooling1D", "Cropping1D"),
    *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"),
    *("Flatten", "Reshape", "Permute", "RepeatVector", "Sequential", "Functional", "Model"),
    # Operations with which Keras 3 makes masks. In HDF5 their module is missing.
    *("ops.NotEqual", "ops.Any", "ops.ExpandDims", "NotEqual", "Any", "ExpandDims"),
)
_PARTS = (
    *("Zeros", "Ones", "Constant", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling"),
    *("GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform"),
    *("Orthogonal", "OrthogonalInitializer", "IdentityInitializer"),
    *("L1", "L2", "L1L2", "OrthogonalRegularizer", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"),
    *("DTypePolicy", "FloatDTypePolicy", "Policy", "__keras_tensor__", "__numpy__", "__tensor__", "__tuple__"),
)
_FUNCTIONS = (
    *("linear", "relu", "relu6", "elu", "selu", "celu", "gelu", "silu", "swish", "mish", "leaky_relu", "exponential"),
    *("sigmoid", "hard_sigmoid", "sparse_sigmoid", "tanh", "softsign", "softplus", "softmax"),
)
_OF_FUNCTIONS = ("activation", "recurrent_activation")
_NUMBERS_OF_ANY_SIZE = ("seed", "value", "shared_object_id")
_MOST_LAYERS = 300
_LARGEST = 1 << 20  # the largest number in a config
_MOST_ELEMENTS = 1 << 22  # in a tensor of the run


def plain(config: Any) -> Any:
    """Return a config without the parts that are only for training.

    Raises:
        ModelNotRunError: it has anything other than known layers and their parts.
    """
    return _cleaned("", config, [0])


def _cleaned(key: str, value: Any, layers: list[int]) -> Any:
    if isinstance(value, Mapping):
        if "class_name" in value:
            _check_class(value, layers)
        training = ("compile_config", "training_config")
        return {each: _cleaned(str(each), part, layers) for each, part in value.items() if each not in training}
    if isinstance(value, list):
        return [_cleaned(key, part, layers) for part in value]
    if key in _OF_FUNCTIONS and isinstance(value, str) and value not in _FUNCTIONS:
        raise ModelNotRunError(f"it has the activation {value[:40]!r}, which is not known to be safe to load")
    if isinstance(value, int) and abs(value) > _LARGEST and key not in _NUMBERS_OF_ANY_SIZE:
        raise ModelNotRunError(f"its {key[:40]!r} is {value}, and only numbers up to {_LARGEST} are allowed")
    return value


def _check_class(config: Mapping[str, Any], layers: list[int]) -> None:
    kind, module = class_of(config)
    if module or (kind not in _LAYERS and kind not in _PARTS):
        name = f"{module}.{kind}" if module else kind
        raise ModelNotRunError(f"it has the class {name[:80]}, which is not known to be safe to load")
    layers[0] += kind in _LAYERS
    if layers[0] > _MOST_LAYERS:
        raise ModelNotRunError(f"it has more than {_MOST_LAYERS} layers")


def check_sizes(model: Any, stored: int, steps: int) -> None:
    """Raise unless a model's variables fit the file's size, and its tensors are small.

    Args:
        model: a model whose variables have only shapes and take no memory.
        stored: the total size of the file's arrays in bytes.
        steps: the size to use for open dims.

    Raises:
        ModelNotRunError: the variables or tensors are too large.
    """
    elements = sum(math.prod(variable.shape) for variable in model.variables)
    if elements > stored + _LARGEST:  # an element has at least two bytes; a few, such as states, are not in the file
        raise ModelNotRunError(f"its layers have {elements} numbers, but the file's arrays have {stored} bytes")
    for shape in _shapes(model):
        if math.prod(steps if size is None else size for size in shape) > _MOST_ELEMENTS:
            raise ModelNotRunError(
                f"it makes tensors of shape {shape}, and at most {_MOST_ELEMENTS} elements are allowed"
            )


def _shapes(model: Any) -> Iterator[tuple[int | None, ...]]:
    """Yield the shapes of all tensors that the layers return."""
    for layer in getattr(model, "layers", []):
        yield from _shapes(layer)
        for call in getattr(layer, "_inbound_nodes", []):
            outputs = call.output_tensors if hasattr(call, "output_tensors") else call.outputs
            for tensor in _flat(outputs):
                yield tuple(tensor.shape)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _flat(each)
    elif value is not None:
        yield value
