"""Run LSTMs in Flax itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.convert.flax.tree import FUNCTIONS, Tree
from fusedlstm.convert.running.steps import run_steps
from fusedlstm.convert.trees import names_below, unflatten
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.running.steps import Results, States, Step
    from fusedlstm.functions import Function
    from fusedlstm.weights import LSTMWeights


def run(
    source: Mapping[Any, Any],
    name: Any,
    weights: LSTMWeights | StackedWeights,
    xs: NumpyArray,
    states: States,
    options: Mapping[str, Any],
) -> Results:
    """Return the outputs and final states of linen's or nnx's cells with these arrays.

    Args:
        source: the parameters.
        name: the prefix or prefixes, or None.
        weights: the result of from_flax, for sizes.
        xs: (T, B, I).
        states: (h (B, N), c (B, N)) of each layer and direction.
        options: the other arguments of from_flax: activation, gate_activation.

    Raises:
        ImportError: Flax is not installed.
        ValueError: jax.nn has no such function.
    """
    import jax

    tree = Tree(source)
    layers, _ = tree.find(name or "")
    cells = weights.layers if isinstance(weights, StackedWeights) else (weights,)
    functions = {
        "activation_fn": _function("activation", options.get("activation") or "tanh"),
        "gate_fn": _function("gate_activation", options.get("gate_activation") or "sigmoid"),
    }
    finals: list[tuple[NumpyArray, NumpyArray]] = []
    with jax.enable_x64(True):
        for layer in layers:
            these = slice(len(finals), len(finals) + len(layer))
            both = _bidirectional(tree, layer)
            if both is None:
                steps = [_step(tree, *pair, functions) for pair in zip(layer, cells[these], strict=True)]
                xs, after = run_steps(steps, len(layer) == 2, xs, states[these])
            else:
                xs, after = _run_both(tree, both, cells[these], functions, xs, states[these])
            finals += after
    return xs, finals


def _bidirectional(tree: Tree, layer: Sequence[str]) -> str | None:
    """Return the scope of the Bidirectional that holds a layer's cells; None if there is none."""
    return next((both for both in tree.bidirectionals if all(scope.startswith(both) for scope in layer)), None)


def _run_both(
    tree: Tree,
    scope: str,
    cells: Sequence[LSTMWeights],
    functions: Mapping[str, Any],
    xs: NumpyArray,
    states: States,
) -> Results:
    """Run a whole Bidirectional, which itself knows which direction reads forward."""
    from flax import linen, nnx

    names = names_below(tree.everything, scope)
    nested = unflatten({name: tree.everything[whole] for name, whole in names.items()}, "/")
    dtype = cells[0].dtype
    carries = tuple((c.astype(dtype), h.astype(dtype)) for h, c in states)
    inputs = xs.swapaxes(0, 1).astype(dtype)
    if any(name.endswith("/if/kernel") for name in names):
        rnns = (linen.RNN(linen.LSTMCell(cell.hidden_size, **functions)) for cell in cells)
        module = linen.Bidirectional(*rnns, return_carry=True)
        after, outputs = module.apply({"params": nested}, inputs, initial_carry=carries)
    else:
        kind = nnx.LSTMCell if any(name.endswith("/if_/kernel") for name in names) else nnx.OptimizedLSTMCell
        rngs = nnx.Rngs(0)
        rnns = (nnx.RNN(kind(cell.input_size, cell.hidden_size, **functions, rngs=rngs), rngs=rngs) for cell in cells)
        built = nnx.Bidirectional(*rnns, return_carry=True, rngs=rngs)
        nnx.update(built, nested)
        after, outputs = built(inputs, initial_carry=carries)
    return np.asarray(outputs).swapaxes(0, 1), [(np.asarray(h), np.asarray(c)) for c, h in after]


def _function(name: str, function: Function) -> Any:
    import jax

    for theirs, ours in FUNCTIONS.items():
        if ours == function:
            return getattr(jax.nn, theirs)
    fail(ValueError, name, "a function that jax.nn has", repr(function))


def _step(tree: Tree, scope: str, cell: LSTMWeights, functions: Mapping[str, Any]) -> Step:
    """Return the step of a Flax cell that has the arrays at a scope."""
    from flax import linen, nnx

    arrays = {name: tree.everything[whole] for name, whole in names_below(tree.everything, scope).items()}
    nested = unflatten(arrays, "/")
    if "if/kernel" in arrays:
        module = linen.LSTMCell(cell.hidden_size, **functions)

        def call(carry: Any, x: Any) -> Any:
            return module.apply({"params": nested}, carry, x)[0]
    else:
        kind = nnx.LSTMCell if "if_/kernel" in arrays else nnx.OptimizedLSTMCell
        # Built in float32, whatever the arrays' dtype, as JAX doesn't make random 16-bit arrays.
        built = kind(cell.input_size, cell.hidden_size, **functions, rngs=nnx.Rngs(0))
        nnx.update(built, nested)

        def call(carry: Any, x: Any) -> Any:
            return built(carry, x)[0]

    def step(x: NumpyArray, h: NumpyArray, c: NumpyArray) -> tuple[Any, Any]:
        new_c, new_h = call((c.astype(cell.dtype), h.astype(cell.dtype)), x.astype(cell.dtype))
        return new_h, new_c

    return step
