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
    """Return the weights of haste's LSTM: one layer in one direction.

    kernel is (I, 4N) and recurrent_kernel (N, 4N), with columns in the gate order i, g, f, o. bias is (4N,) and
    includes the forget bias. From the source of haste_pytorch.

    Args:
        parameters: the module's state_dict: arrays by name.
        prefix: the prefix of the names, such as "encoder.lstm".
        zoneout: the module's argument, which becomes zoneout_h. At inference haste mixes only h with its previous
            value, and not c.

    Raises:
        TypeError: `parameters` is not a mapping; the arrays' dtypes are mixed or unsupported; `zoneout` is not a
            number.
        ValueError: there is no such module; it is a LayerNormLSTM or a GRU; `zoneout` is below 0 or above 1; a shape is
            wrong; there are arrays that an LSTM doesn't have.
    """
    zoneout = check_part("zoneout", zoneout)
    scope = scope_of(prefix, ".")
    arrays, scope = below("parameters", flat_arrays("parameters", parameters), scope, ".", "recurrent_kernel")
    refuse_names("parameters", arrays, scope, r"gamma.*|beta.*", "It is a LayerNormLSTM")
    refuse_names("parameters", arrays, scope, r"recurrent_bias", "It is a GRU")
    return cell_weights(LAYOUTS["haste"], "parameters", arrays, scope, zoneout_h=zoneout)


_SIGNS = Signs(
    array=r"(.*[/.])?recurrent_kernel(:0)?",
    refused="has a recurrent_kernel, which both Keras and haste write, in different gate orders. For haste, use --from "
    "haste; for Keras, give the file that it saved, or pass the arrays to fusedlstm.convert.from_keras",
    alike=("keras",),
)
SYSTEM = System("haste", LAYOUTS, from_haste, source="arrays", signs=_SIGNS)
