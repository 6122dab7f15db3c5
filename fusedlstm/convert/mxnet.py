"""Convert weights of MXNet's gluon.rnn.LSTMCell and LSTM."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.cells import below, cell_weights, flat_arrays
from fusedlstm.convert.layout import Layout
from fusedlstm.convert.record import Signs, System
from fusedlstm.convert.trees import check_prefix, names_below
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.stacked import EitherWeights

# The projection is from MXNet's source.
LAYOUTS = {
    "mxnet": Layout(
        gates="ifgo",
        columns=False,
        weight_ih="i2h_weight",
        weight_hh="h2h_weight",
        biases=("i2h_bias", "h2h_bias"),
        weight_hr="h2r_weight",
    ),
}


def from_mxnet(
    params: Mapping[str, Any],
    prefix: str = "",
    *,
    state_clip_min: float | None = None,
    state_clip_max: float | None = None,
) -> EitherWeights:
    """Return the weights of MXNet's gluon.rnn.LSTMCell, or of a gluon.rnn.LSTM with any layers and directions.

    i2h_weight is (4N, I) and h2h_weight (4N, P), each with a bias and rows in the gate order i, f, g, o. h2r_weight is
    (P, N). Names of layers begin with l0_, l1_ ..., and those of backward directions with r0_, r1_ ... The cell is
    tested against MXNet 1.9.1. The layers' names are from its source.

    Args:
        params: arrays by name, such as {name: p.data().asnumpy() for name, p in net.collect_params().items()}.
        prefix: the exact prefix of the names, such as "lstm0_" or "encoder.lstm.".
        state_clip_min: the layer's argument. Only None is supported, as cuDNN doesn't document what it clips.
        state_clip_max: likewise.

    Returns:
        LSTMWeights for a cell; StackedWeights for an LSTM, even with one layer.

    Raises:
        TypeError: `params` is not a mapping; the arrays' dtypes are mixed or unsupported.
        ValueError: there is no such cell or LSTM; a shape is wrong; there is a clip; there are arrays that an LSTM
            doesn't have.
    """
    for name, value in (("state_clip_min", state_clip_min), ("state_clip_max", state_clip_max)):
        if value is not None:
            fail(ValueError, name, "None", str(value), "cuDNN's documentation doesn't say what it clips")
    params = flat_arrays("params", params)
    layers = [
        m.groups() for name in names_below(params, check_prefix(prefix)) if (m := re.fullmatch(r"([lr])(\d+)_.*", name))
    ]
    if not layers:
        arrays, scope = below("params", params, prefix, "_", "i2h_weight")
        return cell_weights(LAYOUTS["mxnet"], "params", arrays, scope)
    directions = "lr" if any(direction == "r" for direction, _ in layers) else "l"
    cells = []
    for layer in range(max(int(number) for _, number in layers) + 1):
        for direction in directions:
            arrays, scope = below("params", params, f"{prefix}{direction}{layer}_", "_", "i2h_weight")
            cells.append(cell_weights(LAYOUTS["mxnet"], "params", arrays, scope))
    return StackedWeights(cells, bidirectional=len(directions) == 2)


SYSTEM = System("mxnet", LAYOUTS, from_mxnet, source="arrays", signs=Signs(array=r"(.*[._])?i2h_weight"))
