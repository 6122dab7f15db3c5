"""What `from_onnx` and its companions return of a model's LSTM nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedlstm import dtypes, log
from fusedlstm.checks import check_choice
from fusedlstm.convert.onnx.finding import Found
from fusedlstm.convert.onnx.initial import STATE_INPUTS, Kind
from fusedlstm.convert.onnx.source import open_model
from fusedlstm.files import WeightsFileError, blaming
from fusedlstm.stacked import StackedWeights
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from typing import Any

    from fusedlstm.convert.onnx.initial import Initial
    from fusedlstm.convert.onnx.listing import OnnxLSTM
    from fusedlstm.convert.onnx.node import LSTM
    from fusedlstm.convert.onnx.source import Proto
    from fusedlstm.convert.onnx.units import Unit
    from fusedlstm.dtypes import NumpyArray

_SEPARATE = "separate"


def from_onnx(
    source: str | os.PathLike[str] | bytes | Proto,
    name: str | Sequence[str] | None = None,
    *,
    initial_state: str = "refuse",
) -> StackedWeights:
    """Return the weights of an LSTM node of an ONNX model, or of several that are the layers of one LSTM.

    Nodes are looked for in the model's graph, in those of If, Loop and Scan, and in its own functions. Weights are
    constants: initializers, Constant nodes, and what operators that move elements make of them. All opsets, functions
    and attributes are taken. Numbers of attributes, which are float32, become the shortest decimals that are them (0.2
    is 0.2), or in float64 weights what is stored. The biases of x and h are summed, in the dtype of the weights.

    Nodes are layers where the graph says so, whatever they are called: each one reads the output of the one before,
    with the same sequence_lens, through nothing but Identity, Dropout at inference, a Cast that keeps every number, and
    what exporters write to move axes (Transpose, Squeeze, Unsqueeze, Reshape, and Split or Slice and Concat of both
    directions). Nodes of equal weights in branches of an If, of which one runs, are one LSTM.

    A model says more than weights do:

    - Constant initial states that are not zero would be lost: they are refused, unless `initial_state` says that they
      are taken by `state_from_onnx`. States that are inputs of the model are arguments of a call, and so are those
      that it computes, of which the log warns.
    - sequence_lens are arguments of a call. The log warns of those that are neither all steps nor an input.
    - Of a node that reads in reverse (in one direction), and of one of layout 1, the log warns: use LSTM.__call__'s
      reverse=True, and LSTM(batch_first=True).
    - A row of length 0 has a final state of zeros in onnxruntime (1.32, measured); here it keeps its initial state.

    Files are not trusted: nothing is executed, and external data is read from the model's own folder and below. What
    is made of a model, constants and names, takes at most 64 times the bytes of its files, and 1 MB. A model has at
    most 1,000,000 nodes (those of functions once for each call) on 50 levels of subgraphs and calls, constants are made
    by at most 100 operators on one another, and at most 30 stand between two layers.

    Args:
        source: the path of a model, its bytes, or an onnx.ModelProto.
        name: of a node, or that of its first output where it has none; several names are layers, from the lowest
            on. None is the only LSTM, or all of them if they are layers. Nodes that share a name, in subgraphs, are
            told by their path, as the error says them.
        initial_state: "refuse" constant initial states that are not zero, or "separate": you take them by
            `state_from_onnx`.

    Returns:
        A layer for each node; both directions of nodes that are bidirectional.

    Raises:
        WeightsFileError: the model is damaged, has no LSTM or several that are not the layers of one, weights that are
            not constants, a constant initial state, or what no cell here has; the message says where, and what. It is
            a ValueError.
        TypeError: `source` or `name` is of another kind.
        ValueError: the model has no LSTM of that name, or names of nodes that are not layers: the message says what
            stands between them, or their right order. Or another `initial_state`.
        OSError: the file can't be read.
        ImportError: the package onnx is not installed.
    """
    check_choice("initial_state", initial_state, ("refuse", _SEPARATE))
    found = Found(open_model(source))
    units = found.choose(name)
    with blaming(found.model.name):
        if initial_state != _SEPARATE:
            _refuse_states(found, units)
        layers = [weights for unit in units for weights in unit.named.weights(found.constants)]
        stacked = StackedWeights(layers, bidirectional=units[0].named.num_directions == 2)
        _warn(found, units)
    return stacked


def list_onnx(source: str | os.PathLike[str] | bytes | Proto) -> list[OnnxLSTM]:
    """Return what LSTMs a model has; see `from_onnx`.

    Raises:
        WeightsFileError: the model is damaged.
        TypeError: `source` is not a model.
        OSError: the file can't be read.
        ImportError: the package onnx is not installed.
    """
    found = Found(open_model(source), required=False)
    with blaming(found.model.name):
        return found.listed()


def state_from_onnx(
    source: str | os.PathLike[str] | bytes | Proto, name: str | Sequence[str] | None = None
) -> tuple[LSTMState, ...]:
    """Return the constant initial state of a model's LSTM, one for each layer and direction: h (B, N) and c (B, N).

    Constants are initializers, and what Expand and Tile make of them for as many rows as the input has. B is 1 where
    all rows start alike: repeat it for a batch, as np.repeat(state.h, B, axis=0) does. Parts that a model leaves out
    are zeros. Dtypes are those that the LSTM of these weights takes: h is in theirs, c in float32 if that has 16 bits.

    Args:
        source: as of `from_onnx`.
        name: as of `from_onnx`. Of nodes that are one LSTM in branches of an If, it is the state of the one named.

    Raises:
        WeightsFileError: there is no constant state, or part of it is an input or computed; or as of `from_onnx`.
        TypeError, ValueError, OSError, ImportError: as of `from_onnx`.
    """
    found = Found(open_model(source))
    units = found.choose(name)
    with blaming(found.model.name):
        pairs = [_of_unit(found, unit, is_named=name is not None) for unit in units]
        if all(part.kind is None for pair in pairs for part in pair):
            labels = ", ".join(repr(unit.named.label) for unit in units)
            found.model.refuse(f"the LSTM {labels}", "a constant initial_h or initial_c", "none: it starts from zeros")
        rows = max((part.array.shape[1] for pair in pairs for part in pair if part.array is not None), default=1)
        return tuple(
            state for unit, pair in zip(units, pairs, strict=True) for state in _states(unit.named, pair, rows, found)
        )


def _refuse_states(found: Found, units: Sequence[Unit]) -> None:
    """Raise if the nodes start from a constant that is not zero."""
    for unit in units:
        for lstm in unit.members:
            for name in STATE_INPUTS:
                initial = found.states.of(lstm, name)
                if initial.kind is Kind.CONSTANT:
                    hint = (
                        'Give initial_state="separate", and take it by convert.state_from_onnx '
                        "(fusedlstm convert: --initial-state S.npz)"
                    )
                    got = f"a constant that is not zero ({initial.made})"
                    wanted = "zeros or an input, as weights don't hold a state"
                    found.model.refuse(f"{name} of the LSTM {lstm.label!r}", wanted, got, hint)


def _of_unit(found: Found, unit: Unit, *, is_named: bool) -> tuple[Initial, Initial]:
    """Return initial_h and initial_c of an LSTM; of all its nodes where none is named."""
    members = [unit.named] if is_named else unit.members
    h, c = (_of_members(found, members, name) for name in STATE_INPUTS)
    return h, c


def _of_members(found: Found, members: Sequence[LSTM], name: str) -> Initial:
    every = [found.states.of(lstm, name) for lstm in members]
    first = every[0]
    for lstm, initial in zip(members, every, strict=True):
        what = f"{name} of the LSTM {lstm.label!r}"
        if initial.kind in (Kind.INPUT, Kind.COMPUTED):
            how = "an input of the model" if initial.kind is Kind.INPUT else "which the model computes"
            found.model.refuse(what, "a constant", f"{initial.made}, {how}", "Give it at each call")
        if initial.kind is Kind.CONSTANT and initial.array is None:
            raise WeightsFileError(initial.problem or f"{found.model.name}: {what}: wanted one constant; got several")
        if not _are_equal(initial, first):
            got = f"another one than {members[0].label!r} has"
            found.model.refuse(what, "one state in all branches", got, "Give name=, of the node whose state is wanted")
    return first


def _are_equal(one: Initial, other: Initial) -> bool:
    first, second = (None if each.kind is Kind.ZERO else each.array for each in (one, other))
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


def _states(lstm: LSTM, pair: Sequence[Initial], rows: int, found: Found) -> list[LSTMState]:
    """Return a node's state for each of its directions."""
    R = lstm.arrays(found.constants)["R"]
    dtype = dtypes.resolve(R.dtype.name)
    shape = lstm.num_directions, rows, R.shape[-1]
    h, c = (_filled(part, shape, kind) for part, kind in zip(pair, (dtype, dtypes.state_dtype(dtype)), strict=True))
    return [LSTMState(h=h[d], c=c[d]) for d in range(lstm.num_directions)]


def _filled(part: Initial, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NumpyArray:
    values = np.zeros((), dtype) if part.array is None else part.array.astype(dtype)
    return np.array(np.broadcast_to(values, shape))


def _warn(found: Found, units: Sequence[Unit]) -> None:
    """Warn of what weights don't say."""
    first = units[0].named
    if first.direction == "reverse":
        log.warning("the LSTM %r reads in reverse: use lstm(xs, reverse=True), as weights don't say", first.label)
    if first.batch_first:
        log.warning("the LSTM %r has layout 1: use LSTM(weights, batch_first=True), as weights don't say", first.label)
    for unit in units[:1]:  # those above have the same
        found.chains.lengths.warn(unit.named)
    computed = [
        f"{name} of {lstm.label!r} ({initial.made})"
        for unit in units
        for lstm in unit.members
        for name in STATE_INPUTS
        if (initial := found.states.of(lstm, name)).kind is Kind.COMPUTED
    ]
    if computed:
        log.warning("the model computes %s: give the state at each call", ", ".join(computed))
