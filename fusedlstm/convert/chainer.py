"""Convert weights of Chainer's LSTM, StatelessLSTM, NStepLSTM and NStepBiLSTM."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.cells import below, cell_weights, flat_arrays, refuse_names
from fusedlstm.convert.layout import Layout, each
from fusedlstm.convert.record import Signs, System
from fusedlstm.convert.trees import check_prefix, names_below, scope_of
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import check_bool, fail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.stacked import EitherWeights
    from fusedlstm.weights import LSTMWeights

LAYOUTS = {
    # StatelessLSTM and LSTM; one layer and direction of NStepLSTM and NStepBiLSTM. F.lstm has had this order
    # since 1.0. The forget bias is in upward/b's initial values.
    "chainer": Layout(
        gates="gifo",
        columns=False,
        weight_ih="upward/W",
        weight_hh="lateral/W",
        biases=("upward/b",),
        interleaved=True,
    ),
    "chainer_nstep": Layout(
        gates="ifgo",
        columns=False,
        weight_ih=each("w{}", "0123"),
        weight_hh=each("w{}", "4567"),
        biases=(each("b{}", "0123"), each("b{}", "4567")),
    ),
}


def from_chainer(params: Mapping[str, Any], prefix: str = "", *, bidirectional: bool | None = None) -> EitherWeights:
    """Return the weights of Chainer's L.LSTM and L.StatelessLSTM, or of L.NStepLSTM and L.NStepBiLSTM.

    LSTM and StatelessLSTM have upward/W (4N, I), upward/b (4N,) and lateral/W (4N, N). Row 4n + k belongs to unit n,
    and to the k-th of the gates g, i, f, o. NStepLSTM and NStepBiLSTM number their layers and directions. Number 0 has
    0/w0 ... 0/w3 (N, I) and 0/w4 ... 0/w7 (N, N) for i, f, g, o, and biases 0/b0 ... 0/b7 (N,). Chainer's
    documentation of NStepLSTM swaps g and o. All are tested against Chainer 7.8.1.

    Args:
        params: arrays by name, as serializers.save_npz writes them, or as in {name: p.array for name, p in
            link.namedparams()}. Names may have "." for "/".
        prefix: the link's path, such as "encoder/lstm".
        bidirectional: whether it is an NStepBiLSTM. None infers it from the sizes, and raises if they allow both.

    Returns:
        LSTMWeights for an LSTM or StatelessLSTM; StackedWeights for the others.

    Raises:
        TypeError: `params` is not a mapping; the arrays' dtypes are mixed or unsupported.
        ValueError: there is no such link; it is a StatefulPeepholeLSTM, whose peepholes are full matrices;
            `bidirectional` is None, and the sizes allow both; a shape is wrong; there are arrays that the
            link doesn't have.
    """
    params = {name.replace(".", "/").lstrip("/"): value for name, value in flat_arrays("params", params).items()}
    scope = scope_of(check_prefix(prefix).replace(".", "/").strip("/"), "/")
    if f"{scope}0/w0" not in params:
        arrays, scope = below("params", params, scope, "/", "upward/W")
        refuse_names("params", arrays, scope, r"peep_.*", "A StatefulPeepholeLSTM's peepholes are full matrices")
        return cell_weights(LAYOUTS["chainer"], "params", arrays, scope)
    numbers = {int(match[1]) for name in names_below(params, scope) if (match := re.match(r"(\d{1,9})/", name))}
    cells: list[LSTMWeights] = []
    for number in range(min(max(numbers), len(params)) + 1):
        arrays, start = below("params", params, f"{scope}{number}/", "/", "w0")
        cells.append(cell_weights(LAYOUTS["chainer_nstep"], "params", arrays, start))
    if bidirectional is None:
        bidirectional = _is_bidirectional(cells)
    check_bool("bidirectional", bidirectional)
    return StackedWeights(cells, bidirectional=bidirectional)


def _is_bidirectional(cells: list[LSTMWeights]) -> bool:
    """Return whether the sizes are those of bidirectional layers. Raise ValueError if they allow both."""
    N, widths = cells[0].hidden_size, [cell.input_size for cell in cells]
    one = widths[1:] == [N] * (len(cells) - 1)
    two = widths == [widths[0]] * 2 + [2 * N] * (len(cells) - 2)
    if one and two:
        wanted = "True or False, as these sizes allow both"
        fail(ValueError, "bidirectional", wanted, "None", "L.NStepBiLSTM has both directions, L.NStepLSTM one")
    return two


SYSTEM = System("chainer", LAYOUTS, from_chainer, source="arrays", signs=Signs(array=r"(.*[/.])?(upward[/.]W|0[/.]w0)"))
