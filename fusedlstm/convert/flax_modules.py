"""What an nnx module computes around and within its LSTM cells, which its parameters don't say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import log
from fusedlstm.checks import fail
from fusedlstm.convert.foreign import refuse_foreign

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.convert.flax import Tree


def check_module(tree: Tree, cells: Sequence[str], vouched: frozenset[str]) -> None:
    """Refuse, or warn of, what modules do and weights don't say.

    Args:
        tree: of a module, with the RNNs and Bidirectionals that were found on the way to the cells.
        cells: the scopes of these.
        vouched: names of classes that compute what Flax's own do.

    Raises:
        ValueError: a class with a call of its own; an RNN that starts from another state than zeros; outputs of both
            directions that are merged otherwise than side by side.
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
            log.warning("the RNN of %r reads in reverse: use lstm(xs, reverse=True), as weights don't say", scope)
    for scope in tree.bidirectionals:
        both = tree.part(scope)
        refuse_foreign("source", both, scope, (nnx.Bidirectional,), vouched)
        if not _stands_side_by_side(both.merge_fn):
            wanted = "one that puts both directions' outputs side by side, as jax.numpy.concatenate"
            fail(ValueError, f"merge_fn of {scope!r}", wanted, repr(both.merge_fn), "Take each direction's cell apart")


def _is_direction(tree: Tree, scope: str) -> bool:
    """Whether an RNN is one of a Bidirectional's, which says itself how each reads."""
    return any(scope.startswith(both) for both in tree.bidirectionals)


def _check_initial_state(scope: str, cell: Any) -> None:
    """Raise if an RNN starts from what its cell's carry_init makes, and that is not zeros."""
    import jax

    make = getattr(cell, "carry_init", None)
    if make is not None and np.any(np.asarray(make(jax.random.key(0), (1, 3), np.dtype("float32")))):
        hint = f"Give prefix={scope + 'cell'!r}, and the state to LSTM.__call__"
        fail(ValueError, f"carry_init of {scope + 'cell'!r}", "None or one that makes zeros", repr(make), hint)


def _stands_side_by_side(merge: Callable[[Any, Any], Any]) -> bool:
    """Whether a Bidirectional's function of both outputs does what its default does: by its values."""
    import jax.numpy as jnp

    try:
        merged = np.asarray(merge(jnp.ones((1, 2)), jnp.zeros((1, 2))))
    except Exception:  # it may be anyone's: if it wants something else, it is not the default
        return False
    return np.array_equal(merged, [[1.0, 1.0, 0.0, 0.0]])
