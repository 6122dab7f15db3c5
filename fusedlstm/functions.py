"""A cell's functions: those of its gates, of g, and of c' in the output.

A function is a name, or a tuple of a name and its parameters. Parameters are floats that are finite in float32:

    "tanh"                                   "sigmoid"                 1 / (1 + exp(-x))
    "relu"      max(x, 0)                    "softsign"                x / (1 + |x|)
    "linear"    x                            "softplus"                log(1 + exp(x))
    "elu"       x if x > 0 else exp(x) - 1   ("elu", alpha)            x if x > 0 else alpha (exp(x) - 1)

    ("affine", alpha, beta)        alpha x + beta
    ("leaky_relu", alpha)          x if x >= 0 else alpha x
    ("thresholded_relu", alpha)    x if x > alpha else 0
    ("scaled_tanh", alpha, beta)   alpha tanh(beta x)
    ("hard_sigmoid", alpha, beta)  max(0, min(1, alpha x + beta))

These are the functions of ONNX's LSTM, under Keras's names. Each gives NaN for NaN. softsign gives NaN for infinities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fusedlstm.validation.arguments import check_choice, check_clip, check_real, fail

Function: TypeAlias = str | tuple[str | float, ...]

# The possible numbers of parameters, by name. kernels/activations.cuh has the same names.
_PARAMETERS = {
    "tanh": (0,),
    "relu": (0,),
    "sigmoid": (0,),
    "softsign": (0,),
    "elu": (0, 1),
    "linear": (0,),
    "softplus": (0,),
    "affine": (2,),
    "leaky_relu": (1,),
    "thresholded_relu": (1,),
    "scaled_tanh": (2,),
    "hard_sigmoid": (2,),
}
NAMES = tuple(_PARAMETERS)
ACTIVATIONS = tuple(name for name, counts in _PARAMETERS.items() if 0 in counts)  # without parameters
COUPLED_GATES = ("input", "forget")

_MOST = float(np.finfo(np.float32).max)
_LETTERS = ("alpha", "beta")
# What a name alone means in other systems, as found by running Keras 3.15, tf_keras 2.21 and onnxruntime 1.32.
_MEANT = {
    "hard_sigmoid": 'Keras 3 means ("hard_sigmoid", 1/6, 0.5), ONNX and Keras 2 ("hard_sigmoid", 0.2, 0.5)',
    "leaky_relu": 'Keras 3 means ("leaky_relu", 0.2), ONNX and PyTorch ("leaky_relu", 0.01)',
    "thresholded_relu": 'ONNX means ("thresholded_relu", 1.0), but onnxruntime takes 0.0',
}
_UP_TO_1 = ("tanh", "sigmoid", "softsign", "hard_sigmoid")  # functions whose magnitude is at most 1 for all x


def check_function(name: str, value: Any) -> Function:
    """Return a function in its canonical form, or raise.

    Args:
        name: the argument's name, for messages.
        value: a name, or a tuple or list (as from JSON) of a name and its parameters.

    Returns:
        A name if there are no parameters, else a tuple of the name and floats. ("elu", 1.0) becomes "elu", and a
        parameter of -0.0 becomes 0.0.

    Raises:
        ValueError: the name is unknown, the number of parameters is wrong, or one is not finite in float32.
        TypeError: a parameter is not a real number.
    """
    parts = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    function = parts[0] if parts else None
    if not isinstance(function, str) or function not in NAMES:
        fail(ValueError, name, f"one of {', '.join(map(_written, NAMES))}", repr(value))
    if len(parts) - 1 not in _PARAMETERS[function]:
        hint = _MEANT.get(function, "") if len(parts) == 1 else ""
        fail(ValueError, name, _written(function), repr(value), hint)
    parameters = [_check_parameter(f"{name}[{k}]", part) for k, part in enumerate(parts[1:], 1)]
    if not parameters or (function == "elu" and parameters == [1.0]):
        return function
    return (function, *parameters)


def check_part(name: str, value: Any) -> float:
    """Return a number from 0 to 1 as a float, or raise."""
    number = check_real(name, value)
    if not 0 <= number <= 1:
        fail(ValueError, name, "a number from 0 to 1", str(value))
    return number + 0.0  # turns -0.0 into 0.0


def _check_parameter(name: str, value: Any) -> float:
    number = check_real(name, value)
    if abs(number) > _MOST:
        fail(ValueError, name, "a number that float32 can hold", str(number))
    return number + 0.0  # turns -0.0 into 0.0


def _written(name: str) -> str:
    """Return the forms that a function can have, for messages."""
    letters = _LETTERS[: max(_PARAMETERS[name])]
    with_parameters = f"({', '.join([repr(name), *letters])})"
    ways = [repr(name)] if 0 in _PARAMETERS[name] else []
    return " or ".join([*ways, with_parameters] if letters else ways)


def split(function: Function) -> tuple[str, tuple[float, ...]]:
    """Return a checked function's name and all parameters of its formula, such as the alpha of 1 in "elu"."""
    if isinstance(function, str):
        return function, (1.0,) if function == "elu" else ()
    name, *parameters = function
    return str(name), tuple(map(float, parameters))


@dataclass(frozen=True)
class Functions:
    """A cell's elementwise options. Functions have the form that `check_function` returns.

    Attributes:
        input: the function of g.
        output: the function of c', for the output.
        gate: the function of i, f and o.
        gate_clip: i, f, g and o are clipped to +-gate_clip before their functions; None for no clip.
        coupled: the gate, "input" or "forget", that is one minus the other; None for independent gates.
        zoneout_c: the part of c to keep, from 0 to 1.
        zoneout_h: the part of h, after the projection, to keep, from 0 to 1.
    """

    input: Function = "tanh"
    output: Function = "tanh"
    gate: Function = "sigmoid"
    gate_clip: float | None = None
    coupled: str | None = None
    zoneout_c: float = 0.0
    zoneout_h: float = 0.0

    @classmethod
    def of(
        cls,
        *,
        activation: Any,
        output_activation: Any = None,
        gate_activation: Any = "sigmoid",
        gate_clip: Any = None,
        coupled_gate: Any = None,
        zoneout_c: Any = 0.0,
        zoneout_h: Any = 0.0,
    ) -> Functions:
        """Check options of `LSTMWeights` and return them as Functions.

        Raises:
            TypeError, ValueError: an option is wrong. The error names it.
        """
        input_ = check_function("activation", activation)
        if coupled_gate is not None:
            check_choice("coupled_gate", coupled_gate, COUPLED_GATES)
        return cls(
            input_,
            input_ if output_activation is None else check_function("output_activation", output_activation),
            check_function("gate_activation", gate_activation),
            check_clip("gate_clip", gate_clip),
            coupled_gate,
            check_part("zoneout_c", zoneout_c),
            check_part("zoneout_h", zoneout_h),
        )

    def options(self) -> dict[str, Any]:
        """Return the options that `LSTMWeights` and `lstm_pointwise` share. Equal functions give equal options."""
        return {
            "activation": self.input,
            "output_activation": None if self.output == self.input else self.output,
            "gate_activation": self.gate,
            "gate_clip": self.gate_clip,
            "coupled_gate": self.coupled,
            "zoneout_c": self.zoneout_c,
        }

    @property
    def up_to_1(self) -> bool:
        """Whether the output, o times a function of c', never exceeds 1 in magnitude."""
        return _is_up_to_1(self.gate) and _is_up_to_1(self.output)


def _is_up_to_1(function: Function) -> bool:
    name, parameters = split(function)
    return name in _UP_TO_1 or (name == "scaled_tanh" and abs(parameters[0]) <= 1)
