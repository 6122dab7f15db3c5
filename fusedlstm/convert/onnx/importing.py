"""Convert the LSTM nodes of ONNX models, list them, and return their initial states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedlstm import log
from fusedlstm.arrays import dtypes
from fusedlstm.convert.onnx.finding import Found
from fusedlstm.convert.onnx.initial import STATE_INPUTS, Kind
from fusedlstm.convert.onnx.rounding import refuse_rounded
from fusedlstm.convert.onnx.source import open_model
from fusedlstm.errors import WeightsFileError
from fusedlstm.files import blaming
from fusedlstm.stacked import StackedWeights
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import check_choice

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from typing import Any

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.onnx.initial import Initial
    from fusedlstm.convert.onnx.listing import OnnxLSTM
    from fusedlstm.convert.onnx.node import LSTM
    from fusedlstm.convert.onnx.source import Proto
    from fusedlstm.convert.onnx.units import Unit

_SEPARATE = "separate"


def from_onnx(
    source: str | os.PathLike[str] | bytes | Proto,
    name: str | Sequence[str] | None = None,
    *,
    initial_state: str = "refuse",
) -> StackedWeights:
    """Return the weights of an LSTM node of an ONNX model, or of several that are the layers of one LSTM.

    Nodes are looked for in the model's graph, in the subgraphs of If, Loop and Scan, and in the model's own functions.
    Weights are constants: initializers, Constant nodes, and results of operators that move their elements. All opsets,
    functions and attributes are supported. Attributes are float32: a number becomes the shortest decimal with its value
    (0.2 is 0.2), but float64 weights get the stored value. The biases of x and h are summed in the weights' dtype.

    The graph decides which nodes are layers, not their names. Each layer reads the output of the one before, with the
    same sequence_lens. Between them there may be only Identity, Dropout at inference, a Cast that keeps every number,
    and the operators with which exporters move axes: Transpose, Squeeze, Unsqueeze, Reshape, and Split or Slice and
    Concat of both directions. Nodes with equal weights in the two branches of an If are one LSTM, as only one runs.

    A node with the direction "reverse" becomes a layer that reads backward. Between nodes without sequence_lens, a
    Slice may also reverse all steps, as PyTorch's flip does. Directions, and the order of our outputs, then
    follow the steps of the first node's X. A bidirectional node must not read reversed steps.

    A model holds more than weights:

    - Constant initial states that are not zero would be lost, so they raise, unless `initial_state` is "separate". If
      states are inputs of the model, pass them at each call. If the model computes them, the log warns: pass them, too.
    - If sequence_lens is neither all steps nor an input, the log warns. Pass it at each call.
    - If a node has layout 1, the log warns: use LSTM(batch_first=True).
    - A row of length 0 ends with a state of zeros in onnxruntime (1.32, measured). Here it keeps its initial state.

    Files are not trusted: nothing is executed, and external data is read only from the model's folder and below.
    Constants and names take at most 1 MB plus 64 times the size of the model's files. A model has at most 1,000,000
    nodes (a function's count for each call) in 50 levels of subgraphs and calls. At most 100 operators in a chain make
    a constant, and at most 30 are between two layers.

    Args:
        source: the path of a model, its bytes, or an onnx.ModelProto.
        name: a node's name, or that of its first output if it has none. Several names are layers, lowest first. None
            is the only LSTM, or all of them if they are layers. Nodes in subgraphs that share a name have a path, which
            the error lists.
        initial_state: "refuse" to raise for constant initial states that are not zero, or "separate" to leave them to
            `state_from_onnx`.

    Returns:
        A layer for each node, in the node's direction.

    Raises:
        WeightsFileError: the model is damaged; it has no LSTM, or several that are not layers of one; weights are not
            constants; there is a constant initial state, or an option that no cell here has. The message says where
            and what. It is a ValueError.
        TypeError: `source` or `name` has the wrong type.
        ValueError: the model has no LSTM with that name; the named nodes are not layers, and the message says what is
            between them or their right order; `initial_state` is neither "refuse" nor "separate".
        OSError: the file can't be read.
        ImportError: the package onnx is not installed.
    """
    check_choice("initial_state", initial_state, ("refuse", _SEPARATE))
    found = Found(open_model(source))
    units = found.choose(name)
    with blaming(found.model.name):
        if initial_state != _SEPARATE:
            _refuse_states(found, units)
        every = [lstm for unit in units for lstm in unit.members]
        refuse_rounded(found.constants, units[0].members, every)
        layers = [weights for unit in units for weights in unit.named.weights(found.constants)]
        stacked = StackedWeights(layers, directions=found.directions(units))
        _warn(found, units)
    return stacked


def list_onnx(source: str | os.PathLike[str] | bytes | Proto) -> list[OnnxLSTM]:
    """Return the LSTMs in a model; see `from_onnx`.

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

    Constants are initializers, and what Expand and Tile make of them for each row of the input. If all rows start with
    the same state, B is 1: repeat it for a batch, as in np.repeat(state.h, B, axis=0). If a model has only h or only c,
    the other is zeros. Dtypes are those that the LSTM takes: h has the weights' dtype, and c float32 if that has 16
    bits.

    Args:
        source: see `from_onnx`.
        name: see `from_onnx`. If several nodes are one LSTM in branches of an If, the named node's state is returned.

    Raises:
        WeightsFileError: there is no constant state, or part of it is an input or computed; see also `from_onnx`.
        TypeError, ValueError, OSError, ImportError: see `from_onnx`.
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
    """Raise if a node's initial state is a constant that is not zero."""
    for unit in units:
        for lstm in unit.members:
            for name in STATE_INPUTS:
                initial = found.states.of(lstm, name)
                if initial.kind is Kind.CONSTANT:
                    hint = (
                        'Pass initial_state="separate", and read it with convert.state_from_onnx '
                        "(fusedlstm convert: --initial-state S.npz)"
                    )
                    got = f"a constant that is not zero ({initial.made})"
                    wanted = "zeros or an input, as weights don't hold a state"
                    found.model.refuse(f"{name} of the LSTM {lstm.label!r}", wanted, got, hint)


def _of_unit(found: Found, unit: Unit, *, is_named: bool) -> tuple[Initial, Initial]:
    """Return initial_h and initial_c of the named node. If none is named, all nodes of the LSTM must have the same."""
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
            found.model.refuse(what, "a constant", f"{initial.made}, {how}", "Pass it at each call")
        if initial.kind is Kind.CONSTANT and initial.array is None:
            raise WeightsFileError(initial.problem or f"{found.model.name}: {what}: wanted one constant; got several")
        if not _are_equal(initial, first):
            got = f"a different one from that of {members[0].label!r}"
            found.model.refuse(what, "one state in all branches", got, "Give name= of the node whose state you want")
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
    """Log warnings about what weights don't record."""
    first = units[0].named
    if first.batch_first:
        log.warning(
            "the LSTM %r has layout 1: use LSTM(weights, batch_first=True), which weights don't record", first.label
        )
    for unit in units[:1]:  # the layers above have the same
        found.chains.lengths.warn(unit.named)
    computed = [
        f"{name} of {lstm.label!r} ({initial.made})"
        for unit in units
        for lstm in unit.members
        for name in STATE_INPUTS
        if (initial := found.states.of(lstm, name)).kind is Kind.COMPUTED
    ]
    if computed:
        log.warning("the model computes %s: pass the state at each call", ", ".join(computed))
