"""Convert weights of the LSTMs of Sonnet 1 and Sonnet 2."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.cells import below, cell_weights, flat_arrays, refuse_names, refuse_state
from fusedlstm.convert.layout import Layout
from fusedlstm.convert.record import Signs, System
from fusedlstm.convert.trees import scope_of
from fusedlstm.validation.arguments import check_real, fail

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fusedlstm.weights import LSTMWeights

# The forget_bias has been 1.0 since 1.1. The projection, added in 1.16, is from Sonnet's source.
LAYOUTS1 = {
    "sonnet1": Layout(
        gates="igfo",
        columns=True,
        weight_ih="w_gates",
        biases=("b_gates",),
        weight_hr="w_h_projection",
        forget_bias=1.0,
    ),
}
# Since 2.0-beta nothing is added at run time: the forget_bias of 1.0 is in b's initial values.
LAYOUTS2 = {
    "sonnet2": Layout(
        gates="ifgo", columns=True, weight_ih="w_i", weight_hh="w_h", biases=("b",), weight_hr="projection"
    ),
}


def from_sonnet1(
    variables: Mapping[str, Any],
    prefix: str = "lstm",
    *,
    forget_bias: float = 1.0,
    hidden_clip_value: float | None = None,
    cell_clip_value: float | None = None,
) -> LSTMWeights:
    """Return the weights of a Sonnet 1 snt.LSTM, with a projection where there is one.

    w_gates is (I + P, 4N), rows [x; h], columns in the gate order i, g, f, o, and w_h_projection (N, P). Checked by
    numbers of Sonnet 1.36; the projection's name and shape from its source.

    Args:
        variables: names to arrays, as in a checkpoint: "lstm/w_gates", ... An ending ":0" is dropped.
        prefix: the module's scope.
        forget_bias: the module's argument, added at every step.
        hidden_clip_value: the module's argument; refused, as it clips the previous h.
        cell_clip_value: likewise, of the previous c.

    Raises:
        TypeError: `variables` is not a mapping; arrays of mixed or unsupported dtypes.
        ValueError: no such module; wrong shapes; a clip, peepholes (which Sonnet 1 puts inside the tanh of c) or
            normalisation, which this package's formula lacks; a trained initial state, which weights can't hold;
            arrays that the module doesn't have.
    """
    for name, value in (("hidden_clip_value", hidden_clip_value), ("cell_clip_value", cell_clip_value)):
        if value is not None:
            hint = "Sonnet 1 clips the previous state, and this package's formula doesn't"
            fail(ValueError, name, "None", str(value), hint)
    variables = {str(name).removesuffix(":0"): value for name, value in flat_arrays("variables", variables).items()}
    arrays, scope = below("variables", variables, scope_of(prefix, "/"), "/", "w_gates")
    refuse_names("variables", arrays, scope, r"w_[ifo]_diag", "Sonnet 1's peephole of o is inside the tanh of c")
    refuse_names("variables", arrays, scope, r"(.*[/_])?(gamma|beta)(_[hxc])?", "It is normalised")
    start = re.escape(scope.removesuffix("/"))
    _refuse_initial_state(variables, rf"{start}_initial_state.*|(.*/)?trainable_initial_state(_\d+)?/.*")
    return cell_weights(
        LAYOUTS1["sonnet1"], "variables", arrays, scope, forget_bias=check_real("forget_bias", forget_bias)
    )


def from_sonnet2(variables: Mapping[str, Any], prefix: str = "lstm") -> LSTMWeights:
    """Return the weights of a Sonnet 2 snt.LSTM, with a projection where there is one.

    w_i is (I, 4N) and w_h (P, 4N), columns in the gate order i, f, g, o, with nothing added at run time; projection
    is (N, P). Checked by numbers of Sonnet 2.0.2.

    Args:
        variables: names to arrays: {v.name: v for v in module.variables}. An ending ":0" is dropped.
        prefix: the module's scope.

    Raises:
        TypeError: `variables` is not a mapping; arrays of mixed or unsupported dtypes.
        ValueError: no such module; wrong shapes; a TrainableState other than zeros, which weights can't hold; arrays
            that the module doesn't have.
    """
    variables = {str(name).removesuffix(":0"): value for name, value in flat_arrays("variables", variables).items()}
    arrays, scope = below("variables", variables, scope_of(prefix, "/"), "/", "w_i")
    _refuse_initial_state(variables, r"(.*/)?trainable_state(_\d+)?/.*")
    return cell_weights(LAYOUTS2["sonnet2"], "variables", arrays, scope)


def _refuse_initial_state(variables: Mapping[str, Any], pattern: str) -> None:
    """Raise if variables hold a trained initial state other than zeros."""
    names = (name for name in variables if re.fullmatch(pattern, name))
    # Names below a variable are an optimiser's, such as .../w/Adam.
    refuse_state("variables", {name: variables[name] for name in names if not _is_slot(name, variables)})


def _is_slot(name: str, names: Iterable[str]) -> bool:
    return any(name.startswith(f"{other}/") for other in names)


SONNET1 = System("sonnet1", LAYOUTS1, from_sonnet1, source="arrays", signs=Signs(array=r"(.*/)?w_gates(:0)?"))

SONNET2 = System("sonnet2", LAYOUTS2, from_sonnet2, source="arrays", signs=Signs(array=r"(.*/)?w_i(:0)?"))
