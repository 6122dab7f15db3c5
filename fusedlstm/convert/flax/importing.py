"""Convert Flax's parameters and nnx modules to LSTMWeights and StackedWeights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.cells import check_has_arrays
from fusedlstm.convert.flax.modules import check_module
from fusedlstm.convert.flax.tree import Tree
from fusedlstm.convert.foreign import check_names
from fusedlstm.stacked import StackedWeights

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fusedlstm.functions import Function
    from fusedlstm.stacked import EitherWeights


def from_flax(
    source: Any,
    prefix: str | Sequence[str | Sequence[str]] = "",
    *,
    activation: Function | None = None,
    gate_activation: Function | None = None,
    custom_classes: Collection[str] = (),
) -> EitherWeights:
    """Return the weights of Flax's LSTMCell or OptimizedLSTMCell, of an RNN or Bidirectional of them, or of layers.

    Inputs of an RNN are (B, T, I): use LSTM(weights, batch_first=True). A Bidirectional concatenates both directions'
    outputs by default. An nnx module that merges them in another way raises. Parameters don't show it, so the default
    is assumed. The log warns about an nnx RNN that runs in reverse: pass reverse=True to `LSTM.__call__`, which keeps
    outputs in the order of the inputs, like Flax's keep_order=True.

    Args:
        source: linen's variables or params; an nnx module, its State or its pure dict. Mappings are nested, or flat
            with tuples as keys, or with names that have slashes ("lstm/ii/kernel") or only dots ("lstm.ii.kernel").
        prefix: the path of the cell or layer in the source, such as "encoder/LSTMCell_0". A leading "params" may be
            left out. "" is the source itself, or else the only cell, RNN or Bidirectional in it. A sequence names
            layers from the bottom up. An element of it may be a pair of prefixes, for both directions of a layer,
            forward first.
        activation: the cell's activation_fn, by our name. It is read from an nnx module. Parameters don't hold it:
            for them None means Flax's default, "tanh".
        gate_activation: the cell's gate_fn, likewise; its default is "sigmoid".
        custom_classes: names of an nnx module's classes that compute the same as Flax's LSTMCell, RNN or
            Bidirectional.

    Returns:
        LSTMWeights for a cell; StackedWeights for an RNN, a Bidirectional or a sequence.

    Raises:
        TypeError: `source` is none of these; the arrays' dtypes are mixed or unsupported; `custom_classes` is not a
            sequence of strings.
        ValueError: there is no such cell, or it is of another kind; there are arrays that such a cell doesn't have;
            a module's function is unknown (pass it); a class has its own call and `custom_classes` doesn't name it; an
            RNN starts from a state other than zeros; a Bidirectional doesn't concatenate its outputs; an array has the
            wrong shape.
    """
    vouched = check_names(custom_classes)
    tree = Tree(source, activation, gate_activation)
    layers, is_cell = tree.find(prefix)
    scopes = [scope for layer in layers for scope in layer]
    for scope in scopes:
        tree.layout(scope)  # raises, and says what it is instead
    if tree.module is not None:
        check_module(tree, scopes, vouched)
    cells = [tree.cell(scope) for scope in scopes]
    return cells[0] if is_cell else StackedWeights(cells, bidirectional=len(layers[0]) == 2)


def list_flax(source: Any) -> list[tuple[str, int, int]]:
    """Return the cells that a source of `from_flax` holds: the prefix, I and N of each.

    Raises:
        TypeError: as from_flax.
    """
    tree = Tree(source)
    found = tree.cells()
    if not found and isinstance(source, Mapping):
        check_has_arrays("source", tree.everything)
    return found
