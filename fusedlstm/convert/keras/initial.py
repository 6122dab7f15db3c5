"""Read the constants that a Keras model passes to an LSTM as initial_state."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays.host import to_host
from fusedlstm.convert.keras.graph import all_places
from fusedlstm.convert.keras.nodes import Ref, choose
from fusedlstm.convert.keras.trees import root_of
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import check_shape, fail

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.keras.nodes import Call, Found, Node


def initial_state_from_keras(source: Any, name: str | None = None) -> tuple[LSTMState, ...]:
    """Return the constant initial state that a model passes to an LSTM: h (B, N) and c (B, N).

    Weights don't hold a state, so `from_keras` raises for such a layer unless you pass initial_state="separate".

    Args:
        source: a model, or the path of a file; see `from_keras`.
        name: the layer's name; None for the only LSTM.

    Returns:
        A state for each cell, or for each direction: float64 if the constants are, else float32.

    Raises:
        TypeError: `source` is not a model, a layer or a path.
        ValueError: there is no constant state, calls have different ones, or part of it is computed.
        WeightsFileError: the same, in a file; or the file is damaged, or is not a Keras file.
        ImportError, OSError: see `from_keras`.
    """
    if isinstance(source, (str, bytes, os.PathLike)):
        from fusedlstm.convert.keras.files import opened

        with opened(source) as root:
            return _states(root, choose("source", root, name))
    root = root_of(source)
    return _states(root, choose("source", root, name))


def _states(root: Node, found: Found) -> tuple[LSTMState, ...]:
    calls = [place.call for place in all_places(root, found) if place.call is not None] if found.around else []
    given = [_arrays(found, call) for call in calls if call.states]
    if not given or len(given) != len(calls):
        fail(ValueError, f"{found.name}.initial_state", "constants in each call of the layer", "calls without them")
    if any(not all(map(np.array_equal, arrays, given[0])) for arrays in given):
        fail(ValueError, f"{found.name}.initial_state", "the same constants in each call", "different ones")
    return tuple(LSTMState(h=h, c=c) for h, c in zip(given[0][::2], given[0][1::2], strict=True))


def _arrays(found: Found, call: Call) -> list[NumpyArray]:
    """Return h and c of each cell, (B, N) each."""
    name = f"{found.name}.initial_state"
    if any(isinstance(state, Ref) for state in call.states):
        fail(ValueError, name, "constants", "a tensor that the model computes, or an input")
    leaves = [
        to_host(name, state) if hasattr(state, "shape") else np.asarray(state, np.float32) for state in call.states
    ]
    sizes = [shapes[1][0] for cell in found.node.cells() if (shapes := _shapes(cell))]
    count = 2 * len(sizes)
    if len(leaves) != count:  # Keras 2 writes one list for each row
        rows, rest = divmod(len(leaves), count) if count else (0, 1)
        if rest or any(leaf.ndim != 1 for leaf in leaves):
            fail(ValueError, name, f"{count} arrays", f"{len(leaves)}")
        leaves = [np.stack(leaves[k : k + rows]) for k in range(0, len(leaves), rows)]
    for k, leaf in enumerate(leaves):
        leaves[k] = leaf = leaf if leaf.ndim == 2 else leaf[None]
        check_shape(f"{name}[{k}]", leaf.shape, "B N", {"B": len(leaf), "N": sizes[k // 2]})
    return leaves


def _shapes(cell: Node) -> Any:
    return cell.shapes or ([np.shape(array) for array in cell.read()] if cell.read else ())
