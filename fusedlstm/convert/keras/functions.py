"""Map Keras's activations to functions of `fusedlstm.functions` that compute the same.

All names but one mean the same in Keras 3 and Keras 2 (tf.keras, tf_keras). "hard_sigmoid" is
max(0, min(1, x / 6 + 0.5)) in Keras 3, and max(0, min(1, 0.2 x + 0.5)) in Keras 1 and 2. Only Keras 3 has "celu" and
"sparse_sigmoid". None is "linear". Default parameters: the slope of "leaky_relu" is 0.2, in Keras 3 and in TensorFlow
2's tf.keras, which took the name from tf.nn; alpha of "elu" and "celu" has always been 1. The layers LeakyReLU, ELU,
ReLU and ThresholdedReLU may stand in for an activation, and have their own parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.keras.nodes import class_of
from fusedlstm.functions import check_function
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from fusedlstm.functions import Function

_SAME = ("tanh", "sigmoid", "relu", "linear", "softsign", "softplus", "elu")
_FUNCTIONS: dict[str, Function] = {name: name for name in _SAME} | {"leaky_relu": ("leaky_relu", 0.2)}
_ONLY_3: dict[str, Function] = {"sparse_sigmoid": ("hard_sigmoid", 0.5, 0.5), "celu": "elu"}
FUNCTIONS_OF = {
    2: _FUNCTIONS | {"hard_sigmoid": ("hard_sigmoid", 0.2, 0.5)},
    3: _FUNCTIONS | _ONLY_3 | {"hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5)},
    0: _FUNCTIONS | _ONLY_3,  # names that mean the same in every Keras that has them
}


def function_of(option: str, value: Any, keras: int) -> Function:
    """Return the function that an option of a layer's config names.

    Args:
        option: its name in errors, such as "lstm.activation".
        value: a name, None, or the config of a layer or of the user's own function.
        keras: the version of Keras that made the config: 2 or 3, or 0 if unknown.

    Raises:
        ValueError: weights can't represent the function.
    """
    functions = FUNCTIONS_OF[keras]
    if value is None:
        return "linear"
    if isinstance(value, str) and value in functions:
        return functions[value]
    if value == "hard_sigmoid":
        fail(ValueError, option, "a file that records its Keras version", f"{value!r}, which depends on the version")
    if isinstance(value, Mapping) and isinstance(value.get("config"), Mapping):
        kind, module = class_of(value)
        function = None if module else _of_layer(option, kind, value["config"], keras)
        if function is not None:
            return check_function(option, function)
    wanted = f"one of {', '.join(map(repr, functions))}"
    fail(ValueError, option, wanted, _described(value), "No function of fusedlstm computes the same")


def _of_layer(option: str, kind: str, config: Mapping[str, Any], keras: int) -> Any:
    """Return the function of a layer that stands in an activation's place; None for any other."""
    slope = config.get("negative_slope", config.get("alpha"))
    if kind == "LeakyReLU":
        return ("leaky_relu", slope)
    if kind == "ELU":
        return ("elu", config.get("alpha"))
    if kind == "ThresholdedReLU":
        return ("thresholded_relu", config.get("theta"))
    if kind == "ReLU" and config.get("max_value") is None and not config.get("threshold"):
        return ("leaky_relu", slope) if slope else "relu"
    if kind == "Activation":
        return function_of(option, config.get("activation"), keras)
    return None


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return repr(value.get("registered_name") or value.get("class_name") or "a custom function")
    return repr(value)[:100]
