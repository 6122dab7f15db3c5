"""Convert one LSTM node to the weights of its one or two directions.

W (D, 4N, I) and R (D, 4N, N) have the gate order i, o, f, g. B (D, 8N) is two biases in that order. P (D, 3N) has the
peepholes i, o, f. Tested against onnxruntime with random weights.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.convert.onnx import functions
from fusedlstm.convert.onnx.layouts import LAYOUTS
from fusedlstm.convert.onnx.tensors import FLOATS, INTEGERS
from fusedlstm.convert.reading import read
from fusedlstm.errors import WeightsFileError
from fusedlstm.files import blaming
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.graph import Node
    from fusedlstm.convert.onnx.source import Model

DIRECTIONS = ("forward", "reverse", "bidirectional")
_DEFAULT = ("Sigmoid", "Tanh", "Tanh")  # for one direction: the gates, g, the output
# Attributes and their types. output_sequence, of version 1, says only which outputs are wanted.
_ATTRIBUTES: dict[str, Any] = {
    "activation_alpha": list,
    "activation_beta": list,
    "activations": list,
    "clip": float,
    "direction": bytes,
    "hidden_size": int,
    "input_forget": int,
    "layout": int,
    "output_sequence": int,
}
_INPUTS = {"W": 1, "R": 2, "B": 3, "P": 7}


class LSTM:
    """An LSTM node of a model. Its attributes are checked when it is made, and its weights are read on access.

    Attributes:
        node: the node.
        label: its name in errors.
        direction: "forward", "reverse" or "bidirectional".
        batch_first: whether it takes (B, T, I), which layout 1 means.
    """

    def __init__(self, model: Model, node: Node, label: str) -> None:
        self.model, self.node, self.label = model, node, label
        self._known_options: dict[str, list[dict[str, Any]]] = {}
        self.attributes = node.attributes()
        for name, value in self.attributes.items():
            if name not in _ATTRIBUTES:
                self._refuse("attributes", f"those of ONNX's operator, {', '.join(_ATTRIBUTES)}", name)
            if not isinstance(value, _ATTRIBUTES[name]):
                self._refuse(name, f"a value of type {_ATTRIBUTES[name].__name__}", type(value).__name__)
        self.direction = str(self.attributes.get("direction", b"forward"), "utf-8", "replace")
        if self.direction not in DIRECTIONS:
            self._refuse("direction", f"one of {', '.join(DIRECTIONS)}", repr(self.direction))
        self.num_directions = 2 if self.direction == "bidirectional" else 1
        self.batch_first = self._flag("layout")

    def _refuse(self, what: str, wanted: str, got: str, hint: str = "") -> Any:
        self.model.refuse(f"{what} of the LSTM {self.label!r}", wanted, got, hint)

    def _flag(self, name: str) -> bool:
        value = self.attributes.get(name, 0)
        if value not in (0, 1):
            self._refuse(name, "0 or 1", str(value))
        return bool(value)

    def weights(self, constants: Constants) -> list[LSTMWeights]:
        """Return the weights of each direction.

        Raises:
            WeightsFileError: weights are not constants, shapes don't fit, or fusedlstm lacks an option.
        """
        arrays = self.arrays(constants)
        N = self._check_shapes(arrays)
        options = self.options(arrays["W"].dtype)
        self.model.count_copy(f"the LSTM {self.label!r}", sum(array.nbytes for array in arrays.values()))
        with blaming(self.model.name, f": the LSTM {self.label!r}"):
            return [_weights(_of_direction(arrays, d, N), options[d]) for d in range(self.num_directions)]

    def arrays(self, constants: Constants) -> dict[str, NumpyArray]:
        """Return W and R, and B and P if the node has them.

        Raises:
            WeightsFileError: they are not constants.
        """
        arrays = {
            name: constants.array(self.node.scope, self.node.input(index), f"{name} of the LSTM {self.label!r}")
            for name, index in _INPUTS.items()
            if name in ("W", "R") or self.node.value(index) is not None
        }
        for name, array in arrays.items():
            if array.dtype.name in INTEGERS.values():
                self._refuse(name, f"a tensor of {', '.join(FLOATS.values())}", array.dtype.name.upper())
        return arrays

    def _check_shapes(self, arrays: Mapping[str, NumpyArray]) -> int:
        """Return N. Raise unless all shapes agree with it."""
        D, shape = self.num_directions, arrays["W"].shape
        I, N = (shape[2], shape[1] // 4) if len(shape) == 3 else (0, 0)
        if N == 0 or shape != (D, 4 * N, I):
            self._refuse("W", f"shape (D, 4N, I) with D = {D}", f"shape {shape}")
        for name, letters, wanted in (
            ("R", "(D, 4N, N)", (D, 4 * N, N)),
            ("B", "(D, 8N)", (D, 8 * N)),
            ("P", "(D, 3N)", (D, 3 * N)),
        ):
            if name in arrays and arrays[name].shape != wanted:
                self._refuse(name, f"shape {letters} = {wanted}", f"shape {arrays[name].shape}")
        hidden_size = self.attributes.get("hidden_size", N)
        if hidden_size != N:
            self._refuse("hidden_size", f"{N}, as W has 4N = {4 * N} rows", str(hidden_size))
        return N

    def options(self, dtype: np.dtype[Any]) -> list[dict[str, Any]]:
        """Return the options of LSTMWeights for each direction."""
        if str(dtype) not in self._known_options:
            self._known_options[str(dtype)] = self._options(dtype)
        return self._known_options[str(dtype)]

    def _options(self, dtype: np.dtype[Any]) -> list[dict[str, Any]]:
        names = [str(name, "utf-8", "replace") for name in self.attributes.get("activations", [])]
        names = names or [*_DEFAULT] * self.num_directions
        if len(names) != 3 * self.num_directions:
            wanted = f"three for each of {self.num_directions} directions"
            self._refuse("activations", wanted, f"{len(names)}: {', '.join(names)}")
        unknown = [name for name in names if not functions.is_known(name)]
        if unknown:
            self._refuse("activations", f"functions among {', '.join(functions.NAMES)}", repr(unknown[0]))
        alphas, betas = (self._numbers(name, dtype) for name in ("activation_alpha", "activation_beta"))
        three = functions.from_names(names, alphas, betas)
        common = {
            "gate_clip": self._clip(dtype),
            "coupled_gate": "forget" if self._flag("input_forget") else None,
        }
        return [
            {"gate_activation": gate, "activation": g, "output_activation": output, **common}
            for gate, g, output in zip(three[::3], three[1::3], three[2::3], strict=True)
        ]

    def _clip(self, dtype: np.dtype[Any]) -> float | None:
        if "clip" not in self.attributes:
            return None
        (clip,) = self._numbers("clip", dtype)
        if not clip > 0:
            self._refuse("clip", "a number > 0, as in onnxruntime", str(clip))
        return clip

    def _numbers(self, name: str, dtype: np.dtype[Any]) -> list[float]:
        """Return the numbers that an attribute means, with more digits if `to_onnx` noted them."""
        value = self.attributes.get(name, [])
        stored = value if isinstance(value, list) else [value]
        noted = _noted(self.model, self.node.proto.name, name)
        if len(noted) == len(stored) and all(map(_is_float32_of, stored, noted)):
            return noted
        return [functions.exact(number, dtype) for number in stored]


def _weights(arrays: Mapping[str, NumpyArray], options: Mapping[str, Any]) -> LSTMWeights:
    with np.errstate(all="ignore"):  # the sum of biases may be infinite or NaN
        ours: dict[str, Any] = read(LAYOUTS["onnx"], "inputs", arrays)
    return LSTMWeights(**ours, **options)


def _of_direction(arrays: Mapping[str, NumpyArray], d: int, N: int) -> dict[str, NumpyArray]:
    """Return the arrays of one direction, by the names of the layout."""
    mine = {name: array[d] for name, array in arrays.items() if name != "B"}
    if "B" in arrays:
        mine |= {"Wb": arrays["B"][d, : 4 * N], "Rb": arrays["B"][d, 4 * N :]}
    return mine


def _noted(model: Model, node: str, attribute: str) -> list[float]:
    """Return the numbers that the model's metadata has for an attribute of a node; [] without any."""
    with contextlib.suppress(WeightsFileError), blaming("metadata"):
        return [float(value) for value in model.notes[node][attribute]]
    return []


def _is_float32_of(stored: float, noted: float) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.float32(noted) == np.float32(stored))
