"""Convert weights of libraries that store plain arrays by name: Sonnet, MXNet, Chainer and haste.

Each has a row in `layouts`. Each function says how its layout is known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.cells import below, cell_weights, flat_arrays, refuse_names, refuse_state
from fusedlstm.convert.trees import check_prefix, names_below, scope_of
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import check_bool, check_real, fail

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fusedlstm.weights import LSTMWeights


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
    return cell_weights("sonnet1", "variables", arrays, scope, forget_bias=check_real("forget_bias", forget_bias))


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
    return cell_weights("sonnet2", "variables", arrays, scope)


def _refuse_initial_state(variables: Mapping[str, Any], pattern: str) -> None:
    """Raise if variables hold a trained initial state other than zeros."""
    names = (name for name in variables if re.fullmatch(pattern, name))
    # Names below a variable are an optimiser's, such as .../w/Adam.
    refuse_state("variables", {name: variables[name] for name in names if not _is_slot(name, variables)})


def _is_slot(name: str, names: Iterable[str]) -> bool:
    return any(name.startswith(f"{other}/") for other in names)


def from_mxnet(
    params: Mapping[str, Any],
    prefix: str = "",
    *,
    state_clip_min: float | None = None,
    state_clip_max: float | None = None,
) -> LSTMWeights | StackedWeights:
    """Return the weights of MXNet's gluon.rnn.LSTMCell, or gluon.rnn.LSTM of any layers and directions.

    i2h_weight is (4N, I) and h2h_weight (4N, P), rows in the gate order i, f, g, o, with a bias each; h2r_weight is
    (P, N). A layer's names begin with l0_, l1_ ..., its backward direction's with r0_, r1_ ... The cell is checked
    by numbers of MXNet 1.9.1, the layers' names by its source.

    Args:
        params: names to arrays, such as {name: p.data().asnumpy() for name, p in net.collect_params().items()}.
        prefix: what the names begin with, to the letter, such as "lstm0_" or "encoder.lstm.".
        state_clip_min: the layer's argument; refused, as what cuDNN clips by it is not documented.
        state_clip_max: likewise.

    Returns:
        LSTMWeights of a cell; StackedWeights of an LSTM, even of one layer.

    Raises:
        TypeError: `params` is not a mapping; arrays of mixed or unsupported dtypes.
        ValueError: no such cell or LSTM; wrong shapes; a clip; arrays that it doesn't have.
    """
    for name, value in (("state_clip_min", state_clip_min), ("state_clip_max", state_clip_max)):
        if value is not None:
            fail(ValueError, name, "None", str(value), "cuDNN's documents don't say what it clips")
    params = flat_arrays("params", params)
    layers = [
        m.groups() for name in names_below(params, check_prefix(prefix)) if (m := re.fullmatch(r"([lr])(\d+)_.*", name))
    ]
    if not layers:
        arrays, scope = below("params", params, prefix, "_", "i2h_weight")
        return cell_weights("mxnet", "params", arrays, scope)
    directions = "lr" if any(direction == "r" for direction, _ in layers) else "l"
    cells = []
    for layer in range(max(int(number) for _, number in layers) + 1):
        for direction in directions:
            arrays, scope = below("params", params, f"{prefix}{direction}{layer}_", "_", "i2h_weight")
            cells.append(cell_weights("mxnet", "params", arrays, scope))
    return StackedWeights(cells, bidirectional=len(directions) == 2)


def from_chainer(
    params: Mapping[str, Any], prefix: str = "", *, bidirectional: bool | None = None
) -> LSTMWeights | StackedWeights:
    """Return the weights of Chainer's L.LSTM and L.StatelessLSTM, or of L.NStepLSTM and L.NStepBiLSTM.

    upward/W is (4N, I), upward/b (4N,) and lateral/W (4N, N), where row 4n + k is gate g, i, f, o (k = 0 ... 3) of unit
    n; checked by numbers of Chainer 7.8.1. The others keep, for layer and direction number 0, 0/w0 ... 0/w3 (N, I) and
    0/w4 ... 0/w7 (N, N) of i, f, g, o, with biases 0/b0 ... 0/b7; measured with Chainer 7.8.1, whose documents say
    another order.

    Args:
        params: names to arrays, with "/" (of serializers.save_npz, or {name: p.array for name, p in
            link.namedparams()}) or with ".".
        prefix: where the link is, such as "encoder/lstm".
        bidirectional: whether it is an NStepBiLSTM; None takes what the sizes say, where they say it.

    Returns:
        LSTMWeights of a LSTM or StatelessLSTM; StackedWeights of the others.

    Raises:
        TypeError: `params` is not a mapping; arrays of mixed or unsupported dtypes.
        ValueError: no such link; a StatefulPeepholeLSTM, whose peepholes are full matrices; sizes that allow both,
            without `bidirectional`; wrong shapes; arrays that the link doesn't have.
    """
    params = {name.replace(".", "/").lstrip("/"): value for name, value in flat_arrays("params", params).items()}
    scope = scope_of(check_prefix(prefix).replace(".", "/").strip("/"), "/")
    if f"{scope}0/w0" not in params:
        arrays, scope = below("params", params, scope, "/", "upward/W")
        refuse_names("params", arrays, scope, r"peep_.*", "A StatefulPeepholeLSTM's peepholes are full matrices")
        return cell_weights("chainer", "params", arrays, scope)
    numbers = {int(match[1]) for name in names_below(params, scope) if (match := re.match(r"(\d{1,9})/", name))}
    cells: list[LSTMWeights] = []
    for number in range(min(max(numbers), len(params)) + 1):
        arrays, start = below("params", params, f"{scope}{number}/", "/", "w0")
        cells.append(cell_weights("chainer_nstep", "params", arrays, start))
    if bidirectional is None:
        bidirectional = _is_bidirectional(cells)
    check_bool("bidirectional", bidirectional)
    return StackedWeights(cells, bidirectional=bidirectional)


def _is_bidirectional(cells: list[LSTMWeights]) -> bool:
    """Return whether these are layers of two directions, by their sizes, or raise where these allow both."""
    N, widths = cells[0].hidden_size, [cell.input_size for cell in cells]
    one = widths[1:] == [N] * (len(cells) - 1)
    two = widths == [widths[0]] * 2 + [2 * N] * (len(cells) - 2)
    if one and two:
        wanted = "True or False, as these sizes allow both"
        fail(ValueError, "bidirectional", wanted, "None", "L.NStepBiLSTM has both directions, L.NStepLSTM one")
    return two


def from_haste(parameters: Mapping[str, Any], prefix: str = "", *, zoneout: float = 0.0) -> LSTMWeights:
    """Return the weights of haste's LSTM, a layer in one direction.

    kernel is (I, 4N), recurrent_kernel (N, 4N), columns in the gate order i, g, f, o; bias is (4N,) and holds the
    forget bias. From the source of haste_pytorch.

    Args:
        parameters: names to arrays: the module's state_dict.
        prefix: what the names begin with, such as "encoder.lstm".
        zoneout: the module's argument; refused but for 0, as at inference haste mixes h with the previous h.

    Raises:
        TypeError: `parameters` is not a mapping; arrays of mixed or unsupported dtypes.
        ValueError: no such module; a LayerNormLSTM; zoneout; wrong shapes; arrays that an LSTM doesn't have.
    """
    if check_real("zoneout", zoneout) != 0:
        hint = "At inference haste mixes h with the previous h, which this package's formula lacks"
        fail(ValueError, "zoneout", "0", str(zoneout), hint)
    scope = scope_of(prefix, ".")
    arrays, scope = below("parameters", flat_arrays("parameters", parameters), scope, ".", "recurrent_kernel")
    refuse_names("parameters", arrays, scope, r"gamma.*|beta.*", "It is a LayerNormLSTM")
    refuse_names("parameters", arrays, scope, r"recurrent_bias", "It is a GRU")
    return cell_weights("haste", "parameters", arrays, scope)
