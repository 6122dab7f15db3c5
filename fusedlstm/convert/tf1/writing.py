"""Convert LSTMWeights or StackedWeights to the variables and arguments of TensorFlow 1's LSTMCells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.tf1.layouts import LAYOUTS
from fusedlstm.convert.tf1.variables import join
from fusedlstm.convert.writing import refuse, refuse_directions, write
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
    """Convert weights to the variables of TensorFlow 1's LSTMCell, or of layers of them: new arrays by name.

    `from_tf1` converts them back, bit for bit if the forget bias is 0.0. A missing bias becomes zeros. Make the cells
    with the arguments from `tf1_arguments`, or they compute something else. Put residual layers in a ResidualWrapper,
    which has no variables.

    Args:
        weights: the weights of a cell, for the names "kernel", "bias", ...; or of layers. Layers get the names of a
            MultiRNNCell in tf.nn.dynamic_rnn ("multi_rnn_cell/cell_0/lstm_cell/kernel"). With both directions, one
            layer gets those of bidirectional_dynamic_rnn ("bidirectional_rnn/fw/lstm_cell/kernel"), and several those
            of stack_bidirectional_dynamic_rnn
            ("stack_bidirectional_rnn/cell_0/bidirectional_rnn/fw/lstm_cell/kernel").
        forget_bias: what the cells will add to the forget gate at every step, and so is subtracted from our bias. The
            cells' own default is 1.0.
        prefix: a scope to put the names in: the cell's own, such as "rnn/lstm_cell", or the layers', such as "rnn".

    Raises:
        TypeError: `weights` is neither an LSTMWeights nor a StackedWeights, `prefix` is not a string, or `forget_bias`
            is not a number.
        ValueError: TensorFlow's LSTMCell doesn't have an option.
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
        weights: as `to_tf1` takes them. A StackedWeights gives one dictionary for each of its `layers`.
        forget_bias: the same as for `to_tf1`.

    Raises:
        TypeError: `weights` is neither an LSTMWeights nor a StackedWeights, or `forget_bias` is not a number.
        ValueError: as to_tf1; or TensorFlow has no name for the activation.
    """
    forget_bias = check_real("forget_bias", forget_bias)
    arguments = []
    for scope, cell in _cells(weights):
        _refuse(scope, cell)
        arguments.append(_arguments(cell) | {"forget_bias": forget_bias})
    return arguments if isinstance(weights, StackedWeights) else arguments[0]


def _arguments(cell: LSTMWeights) -> dict[str, Any]:
    if cell.activation not in ACTIVATIONS:
        hint = "Give the cell your own function as activation"
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
    refuse_directions(weights, "a stack of TensorFlow 1's cells")
    for index, cell in enumerate(weights.layers):
        layer, way = divmod(index, weights.num_directions)
        if not weights.bidirectional:
            scope = f"multi_rnn_cell/cell_{layer}"
        else:
            stack = f"stack_bidirectional_rnn/cell_{layer}/" if weights.num_layers > 1 else ""
            scope = f"{stack}bidirectional_rnn/{('fw', 'bw')[way]}"
        yield f"{scope}/lstm_cell", cell
