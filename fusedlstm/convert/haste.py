"""Convert weights of haste's LSTM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.cells import below, cell_weights, flat_arrays, refuse_names
from fusedlstm.convert.layout import Layout
from fusedlstm.convert.record import Signs, System
from fusedlstm.convert.trees import scope_of
from fusedlstm.functions import check_part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.weights import LSTMWeights

# From haste's source. The forget_bias is in bias's initial values, in 0.3 too.
LAYOUTS = {
    "haste": Layout(gates="igfo", columns=True, weight_ih="kernel", weight_hh="recurrent_kernel", biases=("bias",)),
}


def from_haste(parameters: Mapping[str, Any], prefix: str = "", *, zoneout: float = 0.0) -> LSTMWeights:
    """Return the weights of haste's LSTM, a layer in one direction.

    kernel is (I, 4N), recurrent_kernel (N, 4N), columns in the gate order i, g, f, o; bias is (4N,) and holds the
    forget bias. From the source of haste_pytorch.

    Args:
        parameters: names to arrays: the module's state_dict.
        prefix: what the names begin with, such as "encoder.lstm".
        zoneout: the module's argument, which becomes zoneout_h: at inference haste mixes h alone with the previous h.

    Raises:
        TypeError: `parameters` is not a mapping; arrays of mixed or unsupported dtypes; a zoneout that is not a number.
        ValueError: no such module; a LayerNormLSTM; a zoneout below 0 or above 1; wrong shapes; arrays that an LSTM
            doesn't have.
    """
    zoneout = check_part("zoneout", zoneout)
    scope = scope_of(prefix, ".")
    arrays, scope = below("parameters", flat_arrays("parameters", parameters), scope, ".", "recurrent_kernel")
    refuse_names("parameters", arrays, scope, r"gamma.*|beta.*", "It is a LayerNormLSTM")
    refuse_names("parameters", arrays, scope, r"recurrent_bias", "It is a GRU")
    return cell_weights(LAYOUTS["haste"], "parameters", arrays, scope, zoneout_h=zoneout)


_SIGNS = Signs(
    array=r"(.*[/.])?recurrent_kernel(:0)?",
    refused="has a recurrent_kernel, as Keras' LSTM and haste's have, whose gates differ. Of haste say --from haste; "
    "of Keras give the file that it saved, or the arrays to fusedlstm.convert.from_keras",
    alike=("keras",),
)
SYSTEM = System("haste", LAYOUTS, from_haste, source="arrays", signs=_SIGNS)
