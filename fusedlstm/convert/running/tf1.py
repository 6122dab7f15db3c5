"""Run a checkpoint's cells in TensorFlow itself, to check the results of `from_tf1`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.convert.tf1.finding import find_cells
from fusedlstm.convert.tf1.variables import Variables
from fusedlstm.convert.tf1.writing import ACTIVATIONS
from fusedlstm.stacked import StackedWeights

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.tf1.cells import Cell
    from fusedlstm.weights import LSTMWeights

    States = Sequence[tuple[NumpyArray, NumpyArray]]  # (h, c) of each layer and direction


def run(
    source: Mapping[str, Any] | str | os.PathLike[str],
    name: str | None,
    weights: LSTMWeights | StackedWeights,
    xs: NumpyArray,
    states: States,
    options: Mapping[str, Any],
) -> tuple[NumpyArray, list[tuple[NumpyArray, NumpyArray]]]:
    """Return what TensorFlow's own LSTMCell computes with a checkpoint's variables.

    Args:
        source: the variables, as `from_tf1` takes them.
        name: the prefix that `from_tf1` was given, or None.
        weights: the result of `from_tf1`, for sizes and residuals.
        xs: (T, B, I).
        states: h (B, P) and c (B, N) of each layer and direction, before the first step.
        options: the other arguments that `from_tf1` was given.

    Returns:
        The outputs (T, B, width) and the states after the last step, as `states`.

    Raises:
        ImportError: TensorFlow or tf_keras is not installed.
        ValueError: TensorFlow 2 has no such cell, or no name for the activation.
    """
    tensorflow, cells = _tensorflow()
    found = find_cells(Variables.of(source), name)
    stacked = weights if isinstance(weights, StackedWeights) else StackedWeights([weights])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated")  # the cells' own warnings
        made = [_make(cells, *pair, options) for pair in zip(found.cells, stacked.layers, strict=True)]
    D = stacked.num_directions
    outputs, finals = tensorflow.constant(np.asarray(xs)), []
    for layer, residual in enumerate(stacked.residual):
        parts = []
        for index in range(layer * D, layer * D + D):
            state = cells.LSTMStateTuple(*(tensorflow.constant(each) for each in reversed(states[index])))
            part, final = _scan(tensorflow, made[index], outputs, state, backward=index % D == 1)
            parts.append(part + outputs if residual else part)
            finals.append((final.h.numpy(), final.c.numpy()))
        outputs = tensorflow.concat(parts, axis=2)
    return outputs.numpy(), finals


def _tensorflow() -> tuple[Any, Any]:
    """Return TensorFlow and its cells, which have been in tf_keras since TensorFlow 2.16."""
    try:
        import tensorflow
        from tf_keras.src.layers.rnn import legacy_cells
    except ImportError as error:
        raise ImportError(
            f"running TensorFlow 1's cells needs the packages tensorflow and tf_keras ({error})"
        ) from error
    return tensorflow, legacy_cells


def _make(cells: Any, found: Cell, sizes: LSTMWeights, options: Mapping[str, Any]) -> Any:
    """Return TensorFlow's cell with the arrays of a cell in the checkpoint."""
    if found.is_coupled:
        raise ValueError(f"{found.scope} is a CoupledInputForgetGateLSTMCell, which TensorFlow 2 does not have")
    activation = options.get("activation") or "tanh"
    if not isinstance(activation, str) and tuple(activation) not in ACTIVATIONS:
        raise ValueError(f"activation: TensorFlow has no name for {activation!r}")
    cell = cells.LSTMCell(
        sizes.hidden_size,
        use_peepholes=bool(found.peepholes()),
        cell_clip=options.get("cell_clip"),
        num_proj=sizes.proj_size,
        proj_clip=options.get("proj_clip"),
        forget_bias=options.get("forget_bias", 1.0),
        activation=activation if isinstance(activation, str) else ACTIVATIONS[tuple(activation)],
        dtype=str(sizes.dtype),
    )
    cell.build((None, sizes.input_size))
    arrays = found.arrays()
    for variable in cell.variables:
        # "projection/kernel" before "kernel"
        names = sorted((name for name in arrays if f"/{variable.name}".endswith(f"/{name}:0")), key=len)
        variable.assign(arrays[names[-1]])
    return cell


def _scan(tensorflow: Any, cell: Any, xs: Any, state: Any, *, backward: bool) -> tuple[Any, Any]:
    steps = tensorflow.reverse(xs, axis=[0]) if backward else xs
    outputs, final = tensorflow.compat.v1.nn.dynamic_rnn(cell, steps, initial_state=state, time_major=True)
    return tensorflow.reverse(outputs, axis=[0]) if backward else outputs, final
