"""Convert weights of Core ML's MIL operation lstm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm import log
from fusedlstm.convert.cells import cell_weights, flat_arrays, refuse_state
from fusedlstm.convert.layout import Layout
from fusedlstm.convert.record import System
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import check_choice, fail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.functions import Function
    from fusedlstm.stacked import EitherWeights

# One direction. From Core ML's documentation. coremltools 4 had one array for x and h.
LAYOUTS = {
    "coreml": Layout(
        gates="ifog",
        columns=False,
        weight_ih="weight_ih",
        weight_hh="weight_hh",
        biases=("bias",),
        peephole="peephole",
    ),
}

_BACK = "_back"
_IGNORED = ("name", "output_sequence", "x")  # these don't affect a step


def from_coreml(
    parameters: Mapping[str, Any],
    *,
    recurrent_activation: Function = "sigmoid",
    cell_activation: Function = "tanh",
    activation: Function = "tanh",
    clip: float | None = None,
) -> EitherWeights:
    """Return the weights of Core ML's MIL operation lstm (iOS 15).

    weight_ih is (4N, I) and weight_hh (4N, N), rows in the gate order i, f, o, g; bias is (4N,) in that order, and
    peephole (3N,) of i, f, o. From the documentation in coremltools's source.

    Args:
        parameters: the operation's parameters by name: weight_ih, weight_hh and, if it has them, bias and peephole.
            Names of the backward direction end with _back. Other parameters are optional: direction tells whether to
            read both directions, and the functions and clip must agree with the arguments here.
        recurrent_activation: the operation's function for i, f and o, by our name.
        cell_activation: the operation's function for g.
        activation: the operation's function for c' in the output.
        clip: the operation's clip. Only None is supported, as its documentation doesn't say what it clips.

    Returns:
        LSTMWeights for one direction, forward or reverse; StackedWeights for both.

    Raises:
        TypeError: `parameters` is not a mapping; the arrays' dtypes are mixed or unsupported.
        ValueError: an array is missing or has the wrong shape; there is a clip, or an initial state other than zeros;
            the operation has no such parameter; a parameter disagrees with an argument.
    """
    options: dict[str, Any] = {
        "activation": cell_activation,
        "output_activation": activation,
        "gate_activation": recurrent_activation,
    }
    flat = flat_arrays("parameters", parameters, converts=False)
    given = {name: value for name, value in flat.items() if value is not None}
    arguments = (recurrent_activation, cell_activation, activation)
    for name, ours in zip(("recurrent_activation", "cell_activation", "activation"), arguments, strict=True):
        _check_same_function(name, ours, given.pop(name, None))
    clip = given.pop("clip", None) if clip is None else clip
    if clip is not None:
        fail(ValueError, "clip", "None", str(clip), "Core ML's documentation doesn't say what it clips")
    states = [name for name in ("initial_h", "initial_c") if name in given]
    refuse_state("parameters", {name: given.pop(name) for name in states})
    direction = given.pop("direction", None)
    if direction is not None:
        check_choice("direction", direction, ("forward", "reverse", "bidirectional"))
    for name in _IGNORED:
        given.pop(name, None)
    if "weight" in given and "weight_ih" not in given:
        hint = "Convert the model with coremltools 5 or later"
        fail(ValueError, "parameters", "weight_ih and weight_hh", "the weight of coremltools 4, which holds both", hint)
    backward = {name.removesuffix(_BACK): given.pop(name) for name in list(given) if name.endswith(_BACK)}
    forward = cell_weights(LAYOUTS["coreml"], "parameters", given, "", **options)
    if direction == "reverse":
        log.warning("the operation reads in reverse, which weights don't record: use lstm(xs, reverse=True)")
    if direction in ("forward", "reverse") or (direction is None and not backward):
        return forward
    return StackedWeights(
        [forward, cell_weights(LAYOUTS["coreml"], "parameters", backward, "", _BACK, **options)], bidirectional=True
    )


def _check_same_function(name: str, ours: Function, theirs: Any) -> None:
    """Raise if the parameters hold a function that differs from the argument."""
    if theirs is None or theirs == (ours if isinstance(ours, str) else ours[0]):
        return
    hint = "Pass it with its alpha and beta, which the name alone doesn't give" if "_" in str(theirs) else ""
    fail(ValueError, name, f"{theirs!r}, as in the parameters", repr(ours), hint)


SYSTEM = System(name="coreml", layouts=LAYOUTS, read=from_coreml)
