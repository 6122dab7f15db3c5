"""Run an LSTM in Equinox itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.equinox import arrays_of
from fusedlstm.convert.running.steps import run_steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.running.steps import Results, States
    from fusedlstm.weights import LSTMWeights


def run(
    source: Mapping[str, Any],
    name: str | None,
    weights: LSTMWeights,
    xs: NumpyArray,
    states: States,
    options: Mapping[str, Any],  # noqa: ARG001 - from_equinox has none, and all these functions have one signature
) -> Results:
    """Return the outputs and final state of an equinox.nn.LSTMCell that has these arrays.

    Args:
        source: the arrays by name.
        name: the prefix, or None.
        weights: the result of from_equinox, for sizes.
        xs: (T, B, I).
        states: one (h (B, N), c (B, N)).
        options: unused.

    Raises:
        ImportError: Equinox is not installed.
    """
    import equinox
    import jax

    arrays = arrays_of(source, name or "")
    with jax.enable_x64(True):
        cell: Any = equinox.nn.LSTMCell(
            weights.input_size,
            weights.hidden_size,
            use_bias="bias" in arrays,
            dtype=weights.dtype,
            key=jax.random.key(0),
        )
        for part, array in arrays.items():
            cell = equinox.tree_at(lambda one, part=part: getattr(one, part), cell, jax.numpy.asarray(array))

        def step(x: NumpyArray, h: NumpyArray, c: NumpyArray) -> tuple[Any, Any]:
            x, h, c = (one.astype(weights.dtype) for one in (x, h, c))
            h, c = jax.vmap(lambda x, h, c: cell(x, (h, c)))(x, h, c)
            return h, c

        return run_steps([step], False, xs, states)
