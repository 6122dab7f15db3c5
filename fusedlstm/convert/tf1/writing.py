"""LSTMWeights, or StackedWeights -> the variables of TensorFlow 1's LSTMCells, and the arguments to make these with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.tf1.layouts import LAYOUTS
from fusedlstm.convert.tf1.variables import join
from fusedlstm.convert.writing import refuse, write
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import check_real, describe_type, fail
from fusedlstm.validation.weights import check_weights
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedlstm.arrays.dtypes import NumpyArray

_ARGUMENTS = ("peephole", "weight_hr", "cell_clip", "proj_clip", "activation")
_REASONS = {"coupled_gate": "CoupledInputForgetGateLSTMCell is another cell, without a clip of c"}
# The functions that TensorFlow 1 has by name.
_NAMES = {name: name for name in ("tanh", "relu", "sigmoid", "softsign", "softplus", "elu", "linear")}
ACTIVATIONS: dict[Any, str] = {**_NAMES, ("hard_sigmoid", 0.2, 0.5): "hard_sigmoid"}


def to_tf1(
    weights: LSTMWeights | StackedWeights, *, forget_bias: float = 0.0, prefix: str = ""
) -> dict[str, NumpyArray]:
    """Return the variables of TensorFlow 1's LSTMCell, or of layers of them, by name: new arrays.

    `from_tf1` of them gives the weights again, bit for bit with a forget bias of 0.0, and zeros for no bias. The
    cells must be made with what `tf1_arguments` returns, or they compute something else. Residual layers are to be put
    in a ResidualWrapper, which has no variables.

    Args:
        weights: of one cell, whose names are "kernel", "bias", ...; or of layers, as tf.nn.dynamic_rnn names those of a
            MultiRNNCell ("multi_rnn_cell/cell_0/lstm_cell/kernel"), bidirectional_dynamic_rnn those of one layer
            ("bidirectional_rnn/fw/lstm_cell/kernel"), and stack_bidirectional_dynamic_rnn those of several
            ("stack_bidirectional_rnn/cell_0/bidirectional_rnn/fw/lstm_cell/kernel").
        forget_bias: what the cells will add to the forget gate at every step, and so is taken out of our bias. Their
            own default is 1.0.
        prefix: a scope to put the names in: the cell's own, such as "rnn/lstm_cell", or that of the layers, "rnn".

    Raises:
        TypeError: `weights` is neither, `prefix` no string, `forget_bias` no number.
        ValueError: an option that TensorFlow's LSTMCell does not have.
    """
    forget_bias = check_real("forget_bias", forget_bias)
    if not isinstance(prefix, str):
        fail(TypeError, "prefix", "the name of a scope", describe_type(prefix))
    variables = {}
    for scope, cell in _cells(weights):
        _refuse(scope, cell)
        for name, array in write(LAYOUTS["tf1"], cell, forget_bias=forget_bias).items():
            variables[join(prefix.strip("/"), join(scope, name))] = array
    return variables


def tf1_arguments(
    weights: LSTMWeights | StackedWeights, *, forget_bias: float = 0.0
) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the arguments of the LSTMCell that computes what the weights do: LSTMCell(**tf1_arguments(weights)).

    Args:
        weights: as `to_tf1` takes them. For a StackedWeights there is one dictionary for each of its `layers`.
        forget_bias: that which `to_tf1` was given.

    Raises:
        TypeError: `weights` is neither, `forget_bias` no number.
        ValueError: as `to_tf1` raises; also an activation that TensorFlow has no name for.
    """
    forget_bias = check_real("forget_bias", forget_bias)
    arguments = []
    for scope, cell in _cells(weights):
        _refuse(scope, cell)
        arguments.append(_arguments(cell) | {"forget_bias": forget_bias})
    return arguments if isinstance(weights, StackedWeights) else arguments[0]


def _arguments(cell: LSTMWeights) -> dict[str, Any]:
    if cell.activation not in ACTIVATIONS:
        hint = "Give the cell a function of your own as activation"
        fail(ValueError, "activation", "one that TensorFlow has a name for", repr(cell.activation), hint)
    return {
        "num_units": cell.hidden_size,
        "use_peepholes": cell.peephole is not None,
        "cell_clip": cell.cell_clip,
        "num_proj": cell.proj_size,
        "proj_clip": cell.proj_clip,
        "activation": ACTIVATIONS[cell.activation],
    }


def _refuse(scope: str, cell: LSTMWeights) -> None:
    try:
        refuse(cell, "TensorFlow 1's LSTMCell", _ARGUMENTS, _REASONS)
    except ValueError as error:
        raise ValueError(f"{scope}: {error}" if scope else str(error)) from None


def _cells(weights: Any) -> Iterator[tuple[str, LSTMWeights]]:
    """Yield each cell with the scope that TensorFlow gives it."""
    check_weights(weights)
    if isinstance(weights, LSTMWeights):
        yield "", weights
        return
    for index, cell in enumerate(weights.layers):
        layer, way = divmod(index, weights.num_directions)
        if not weights.bidirectional:
            scope = f"multi_rnn_cell/cell_{layer}"
        else:
            stack = f"stack_bidirectional_rnn/cell_{layer}/" if weights.num_layers > 1 else ""
            scope = f"{stack}bidirectional_rnn/{('fw', 'bw')[way]}"
        yield f"{scope}/lstm_cell", cell
