"""Run LSTMs in Haiku itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.haiku import find
from fusedlstm.convert.running.steps import run_steps
from fusedlstm.stacked import StackedWeights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.running.steps import Results, States, Step
    from fusedlstm.weights import LSTMWeights


def run(
    source: Mapping[Any, Any],
    name: str | Sequence[str] | None,
    weights: LSTMWeights | StackedWeights,
    xs: NumpyArray,
    states: States,
    options: Mapping[str, Any],  # noqa: ARG001 - from_haiku has none, and all these functions have one signature
) -> Results:
    """Return the outputs and final states of hk.LSTMs that have these arrays.

    Args:
        source: the parameters.
        name: the prefix or prefixes, or None.
        weights: the result of from_haiku, for sizes.
        xs: (T, B, I).
        states: (h (B, N), c (B, N)) of each layer.
        options: unused.

    Raises:
        ImportError: Haiku is not installed.
    """
    import jax

    cells = weights.layers if isinstance(weights, StackedWeights) else (weights,)
    with jax.enable_x64(True):
        steps = [_step(arrays, cell) for (_, arrays), cell in zip(find(source, name)[0], cells, strict=True)]
        return run_steps(steps, False, xs, states)


def _step(arrays: Mapping[str, Any], cell: LSTMWeights) -> Step:
    import haiku

    def call(x: Any, h: Any, c: Any) -> Any:
        return haiku.LSTM(cell.hidden_size, name="lstm")(x, haiku.LSTMState(h, c))[1]

    apply = haiku.without_apply_rng(haiku.transform(call)).apply
    params = {"lstm/linear": {"w": arrays["w"], "b": arrays["b"]}}

    def step(x: NumpyArray, h: NumpyArray, c: NumpyArray) -> tuple[Any, Any]:
        state = apply(params, x.astype(cell.dtype), h.astype(cell.dtype), c.astype(cell.dtype))
        return state.hidden, state.cell

    return step
