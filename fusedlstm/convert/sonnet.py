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
    """Return the weights of a Sonnet 1 snt.LSTM, and of its projection if it has one.

    w_gates is (I + P, 4N), with rows [x; h] and columns in the gate order i, g, f, o. w_h_projection is (N, P). Tested
    against Sonnet 1.36. The projection's name and shape are from its source.

    Args:
        variables: arrays by name, as in a checkpoint: "lstm/w_gates", ... A trailing ":0" is dropped.
        prefix: the module's scope.
        forget_bias: the module's argument, added at every step.
        hidden_clip_value: the module's argument. Only None is supported, as it clips the previous h.
        cell_clip_value: likewise, for the previous c.

    Raises:
        TypeError: `variables` is not a mapping; the arrays' dtypes are mixed or unsupported.
        ValueError: there is no such module; a shape is wrong; this package's formula lacks the module's clip,
            normalisation or peepholes (Sonnet 1 puts the peephole of o inside the tanh of c); there is a trained
            initial state, which weights can't hold; there are arrays that the module doesn't have.
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
    """Return the weights of a Sonnet 2 snt.LSTM, and of its projection if it has one.

    w_i is (I, 4N) and w_h (P, 4N), with columns in the gate order i, f, g, o. projection is (N, P). Nothing is added to
    the bias at run time. Tested against Sonnet 2.0.2.

    Args:
        variables: arrays by name: {v.name: v for v in module.variables}. A trailing ":0" is dropped.
        prefix: the module's scope.

    Raises:
        TypeError: `variables` is not a mapping; the arrays' dtypes are mixed or unsupported.
        ValueError: there is no such module; a shape is wrong; a TrainableState is not zero, and weights can't hold it;
            there are arrays that the module doesn't have.
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
