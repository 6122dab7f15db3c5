"""Check what an nnx module computes in and around its LSTM cells, which its parameters don't show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import log
from fusedlstm.convert.foreign import refuse_foreign
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.convert.flax.tree import Tree


def check_module(tree: Tree, cells: Sequence[str], vouched: frozenset[str]) -> None:
    """Refuse modules that compute what weights can't represent. Log a warning about an RNN that runs in reverse.

    Args:
        tree: the tree of a module, with the RNNs and Bidirectionals found on the way to the cells.
        cells: the scopes of the cells.
        vouched: names of classes that compute the same as Flax's own.

    Raises:
        ValueError: a class has its own call; an RNN starts from a state other than zeros; a Bidirectional doesn't
            concatenate its outputs.
    """
    from flax import nnx

    for scope in cells:
        cell = tree.part(scope)
        refuse_foreign("source", cell, scope, (nnx.LSTMCell, nnx.OptimizedLSTMCell), vouched)
        for name, part in vars(cell).items():
            if isinstance(part, nnx.Module) and f"{scope}{name}/kernel" in tree.everything:
                refuse_foreign("source", part, scope + name, (nnx.Linear,), vouched)
    for scope in tree.rnns:
        rnn = tree.part(scope)
        refuse_foreign("source", rnn, scope, (nnx.RNN,), vouched)
        _check_initial_state(scope, rnn.cell)
        if getattr(rnn, "reverse", False) and not _is_direction(tree, scope):
            log.warning("the RNN at %r reads in reverse, which weights don't record: use lstm(xs, reverse=True)", scope)
    for scope in tree.bidirectionals:
        both = tree.part(scope)
        refuse_foreign("source", both, scope, (nnx.Bidirectional,), vouched)
        if not _stands_side_by_side(both.merge_fn):
            wanted = "one that concatenates both directions' outputs, like jax.numpy.concatenate"
            fail(
                ValueError, f"merge_fn of {scope!r}", wanted, repr(both.merge_fn), "Convert each direction's cell alone"
            )


def _is_direction(tree: Tree, scope: str) -> bool:
    """Return whether an RNN is a direction of a Bidirectional, which itself reverses one of them."""
    return any(scope.startswith(both) for both in tree.bidirectionals)


def _check_initial_state(scope: str, cell: Any) -> None:
    """Raise if the carry_init of an RNN's cell makes an initial state other than zeros."""
    import jax

    make = getattr(cell, "carry_init", None)
    if make is not None and np.any(np.asarray(make(jax.random.key(0), (1, 3), np.dtype("float32")))):
        hint = f"Give prefix={scope + 'cell'!r}, and pass the state to LSTM.__call__"
        fail(ValueError, f"carry_init of {scope + 'cell'!r}", "None or one that makes zeros", repr(make), hint)


def _stands_side_by_side(merge: Callable[[Any, Any], Any]) -> bool:
    """Return whether a Bidirectional's merge_fn concatenates example values, as its default does."""
    import jax.numpy as jnp

    try:
        merged = np.asarray(merge(jnp.ones((1, 2)), jnp.zeros((1, 2))))
    except Exception:  # any function may be given: one that fails on these is not the default
        return False
    return np.array_equal(merged, [[1.0, 1.0, 0.0, 0.0]])
