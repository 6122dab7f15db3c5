"""Convert weights of TFLite's operators LSTM and UNIDIRECTIONAL_SEQUENCE_LSTM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays.host import to_host
from fusedlstm.convert.cells import cell_weights, elements, refuse_state
from fusedlstm.convert.layout import Layout, each
from fusedlstm.convert.record import Signs, System
from fusedlstm.validation.arguments import check_choice, check_clip, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.weights import LSTMWeights

LAYOUTS = {
    # Names are the numbers of the operators' inputs. Without an input gate, i = 1 - f.
    "tflite": Layout(
        gates="ifgo",
        columns=False,
        weight_ih=each("{}", "1234"),
        weight_hh=each("{}", "5678"),
        biases=(("12", "13", "14", "15"),),
        has_bias=True,
        peephole=("9", "10", "11"),
        weight_hr="16",
    ),
    "tflite_coupled": Layout(
        gates="fgo",
        columns=False,
        weight_ih=each("{}", "234"),
        weight_hh=each("{}", "678"),
        biases=(("13", "14", "15"),),
        has_bias=True,
        peephole=("", "10", "11"),
        weight_hr="16",
    ),
}

_INPUTS = 24
_LAYER_NORM = range(20, _INPUTS)
_STATES = ("18", "19")
_OF_INPUT_GATE = (1, 5, 9, 12)


def from_tflite(
    inputs: Sequence[Any] | Mapping[int, Any],
    *,
    activation: str = "tanh",
    cell_clip: float = 0.0,
    proj_clip: float = 0.0,
) -> LSTMWeights:
    """Return the weights of a TFLite operator LSTM or UNIDIRECTIONAL_SEQUENCE_LSTM, with or without an input gate.

    For the gates i, f, g, o, inputs 1 to 4 are (N, I), 5 to 8 (N, P) and 12 to 15 (N,). Inputs 9 to 11 are the
    peepholes of i, f, o, and 16 is the projection (P, N). If the input gate's inputs are missing, i = 1 - f. Tested
    against TensorFlow 2.21's interpreter.

    Args:
        inputs: the operator's input tensors by number; None for a missing one. The states, 18 and 19, must be zeros if
            given, as weights hold no state. Input 0, x, is ignored.
        activation: the operator's fused_activation_function, for g and for the output, by our name: "tanh" or "relu".
            The operator's NONE does not compute what "linear" does.
        cell_clip: the operator's option (10 if TensorFlow converted Keras's LSTM); 0 for no clip.
        proj_clip: the operator's option. Without a projection it has no effect.

    Raises:
        TypeError: `inputs` is neither a sequence nor a mapping; the weights are integers, as in a quantised or hybrid
            model; dtypes are mixed or unsupported.
        ValueError: the operator has layer normalisation, a bias of the projection, or a state other than zeros; some
            but not all inputs of the input gate are given; another input is missing; a number is not from 0 to 23;
            a shape is wrong; the activation is neither "tanh" nor "relu"; a clip is negative.
    """
    check_choice("activation", activation, ("tanh", "relu"))
    given = _by_number(inputs)
    if any(str(index) in given for index in _LAYER_NORM):
        fail(ValueError, "inputs", "none of 20 to 23", "some", "These inputs are coefficients of layer normalisation")
    if np.any(to_host("inputs[17]", given.get("17", 0.0))):
        fail(ValueError, "inputs[17]", "zeros or None", "other numbers", "This package's projection has no bias")
    refuse_state("inputs", {f"inputs[{index}]": given.get(index) for index in _STATES})
    given = {index: value for index, value in given.items() if index not in ("0", "17", *_STATES)}
    coupled = "1" not in given
    if coupled and any(str(index) in given for index in _OF_INPUT_GATE):
        have = ", ".join(str(index) for index in _OF_INPUT_GATE if str(index) in given)
        fail(ValueError, "inputs", "all of 1, 5 and 12, or none of 1, 5, 9 and 12", have)
    if "2" in given and to_host("inputs[2]", given["2"]).dtype.kind in "iu":
        got = f"dtype {to_host('inputs[2]', given['2']).dtype}"
        fail(TypeError, "inputs[2]", "float weights", got, "Convert the model without quantisation")
    return cell_weights(
        LAYOUTS["tflite_coupled" if coupled else "tflite"],
        "inputs",
        given,
        "inputs[",
        "]",
        activation=activation,
        coupled_gate="input" if coupled else None,
        cell_clip=check_clip("cell_clip", cell_clip) or None,
        proj_clip=(check_clip("proj_clip", proj_clip) or None) if "16" in given else None,
    )


def _by_number(inputs: Any) -> dict[str, Any]:
    """Return the inputs that are not None, by number."""
    wanted = "the operator's inputs, as a sequence or as a mapping from their numbers"
    items = inputs.items() if isinstance(inputs, Mapping) else enumerate(elements("inputs", wanted, inputs))
    given = {str(index): value for index, value in items if value is not None}
    if unknown := sorted(set(given) - {str(index) for index in range(_INPUTS)}):
        hint = "BIDIRECTIONAL_SEQUENCE_LSTM numbers inputs differently: renumber each direction's like this operator's"
        fail(ValueError, "inputs", f"numbers from 0 to {_INPUTS - 1}", ", ".join(unknown[:4]), hint)
    return given


SYSTEM = System(
    name="tflite",
    layouts=LAYOUTS,
    read=from_tflite,
    signs=Signs(start=rb"(?s).{4}TFL3", refused="is a TFLite model: give its tensors to fusedlstm.convert.from_tflite"),
)
