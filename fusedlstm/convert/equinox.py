"""Convert the weights and states of Equinox's nn.LSTMCell.

Its weight_ih (4N, I), weight_hh (4N, N) and bias (4N,) or None are laid out like ours, in the gate order i, f, g, o.
Tested against Equinox 0.13.8.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.cells import cell_weights
from fusedlstm.convert.foreign import check_names, refuse_foreign
from fusedlstm.convert.layout import Layout
from fusedlstm.convert.record import Signs, System
from fusedlstm.convert.states import Pairs, from_pairs, to_pairs
from fusedlstm.convert.trees import flatten, names_below, scope_of
from fusedlstm.validation.advice import refuse_foreign_source
from fusedlstm.validation.arguments import describe_type, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.state import EitherState, LSTMState
    from fusedlstm.weights import LSTMWeights

_WANTED = "an equinox.nn.LSTMCell, a module that holds one, or a mapping of names to arrays"
_INSIDE = "To convert a cell inside a module, pass its path as prefix="
# Unchanged since 0.1.
LAYOUTS = {
    "equinox": Layout(gates="ifgo", columns=False, weight_ih="weight_ih", weight_hh="weight_hh", biases=("bias",)),
}

# (h, c), or a tuple of pairs for several cells.
PAIRS = Pairs("hc", tuple)


def from_equinox(source: Any, prefix: str = "", *, custom_classes: Collection[str] = ()) -> LSTMWeights:
    """Return the weights of an equinox.nn.LSTMCell.

    Args:
        source: the module, a module that holds it, or a mapping of names ("weight_ih", ...) to arrays. The mapping is
            nested, or flat with dots. With use_bias=False the bias is missing or None.
        prefix: the cell's place in the source, such as "encoder.cell" or "cells.0". "" is the source itself, or else
            the only cell in it.
        custom_classes: names of your own classes that compute the same as LSTMCell.

    Raises:
        TypeError: `source` is none of these; the arrays' dtypes are mixed or unsupported; `prefix` is not a string;
            `custom_classes` is not a sequence of strings.
        ValueError: there is no cell, or it is of another kind; a class has its own call and `custom_classes` doesn't
            name it; there are arrays that an LSTMCell doesn't have; an array has the wrong shape.
    """
    arrays = arrays_of(source, prefix, check_names(custom_classes))
    return cell_weights(LAYOUTS["equinox"], "source", arrays, scope_of(prefix, "."))


def arrays_of(source: Any, prefix: str, vouched: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return the arrays of a cell, by name.

    Raises:
        TypeError, ValueError: as from_equinox.
    """
    scope = scope_of(prefix, ".")
    if isinstance(source, Mapping):
        flat = flatten("source", source, ".")
        found = [] if scope else cells_in(flat)
        scope = scope or _only(found, ".")
        if len(found) > 1 and "" not in found:
            fail(ValueError, "source", "one LSTMCell, or prefix= to choose", str(len(found)), _choose(found))
        arrays = {name: flat[whole] for name, whole in names_below(flat, scope).items() if flat[whole] is not None}
    else:
        refuse_foreign_source("source", _WANTED, source, "from_equinox")  # or _follow would blame the prefix
        found = [] if prefix else cells_in(source)
        prefix = prefix or _only(found, "")
        cell = _follow(source, prefix)
        refuse_foreign_source("source", _WANTED, cell, "from_equinox")
        arrays = _arrays_of_module(cell, prefix, vouched, found)
    if "bias_n" in arrays:
        fail(ValueError, "source", "an LSTMCell", "a GRUCell, which has a bias_n")
    if "bias_hh" in arrays:
        hint = "torch.nn.LSTMCell has two biases: use from_torch"
        fail(ValueError, "source", "the arrays of an LSTMCell alone", "bias_hh", hint)
    return arrays


def cells_in(source: Any) -> list[str]:
    """Return the places of the LSTMCells in a module, or in a flat mapping of its arrays; "" is the source itself."""
    if isinstance(source, Mapping):
        scopes = [name.removesuffix("weight_ih") for name in source if f".{name}".endswith(".weight_ih")]
        return sorted(scope.removesuffix(".") for scope in scopes if f"{scope}bias_n" not in source)
    equinox, jax = sys.modules.get("equinox"), sys.modules.get("jax")  # an Equinox module has imported both
    if equinox is None or jax is None:
        return []
    leaves, _ = jax.tree_util.tree_flatten_with_path(source, is_leaf=lambda one: isinstance(one, equinox.nn.LSTMCell))
    paths = [path for path, leaf in leaves if isinstance(leaf, equinox.nn.LSTMCell)]
    return [".".join(str(getattr(key, "name", getattr(key, "idx", key))) for key in path) for path in paths]


def _only(found: Sequence[str], end: str) -> str:
    """Return the only place, and `end` after it; "" if there are several or none."""
    return found[0] + (end if found[0] else "") if len(found) == 1 else ""


def _choose(found: Sequence[str]) -> str:
    return f"Give prefix= one of {', '.join(map(repr, found[:8]))}"


def _arrays_of_module(cell: Any, prefix: str, vouched: frozenset[str], found: Sequence[str]) -> dict[str, Any]:
    names = (*LAYOUTS["equinox"].names(), "bias_n")
    arrays = {name: array for name in names if (array := getattr(cell, name, None)) is not None}
    if not arrays:
        got = describe_type(cell) + (f" at {prefix!r}" if prefix else "")
        fail(TypeError, "source", _WANTED, got, _choose(found) if found else _INSIDE)
    equinox = sys.modules.get("equinox")
    if "bias_n" not in arrays:
        bases = (equinox.nn.LSTMCell,) if equinox is not None else ()
        refuse_foreign("source", cell, prefix, bases, vouched)
    if not getattr(cell, "use_bias", True):
        arrays.pop("bias", None)  # the cell ignores it
    return arrays


def _follow(module: Any, path: str) -> Any:
    """Return what is at a path of attributes and indices."""
    for part in filter(None, path.split(".")):
        try:
            module = module[int(part)] if part.isdigit() else getattr(module, part)
        except (AttributeError, IndexError, TypeError) as error:
            fail(
                ValueError, "prefix", "a path of attributes and indices in source", repr(path), str(error).capitalize()
            )
    return module


def state_from_equinox(state: Any, *, dtype: Any = None) -> EitherState:
    """Convert states (h, c) of Equinox's LSTMCell under vmap to LSTMStates.

    The order is tested against Equinox 0.13.8. Arguments and errors are those of `state_from_flax`.

    Returns:
        An LSTMState, or a tuple of them for several states.
    """
    return from_pairs(state, PAIRS, dtype)


def state_to_equinox(state: LSTMState | Sequence[LSTMState]) -> tuple[Any, ...]:
    """Convert LSTMStates to states of Equinox's LSTMCell under vmap, in h's dtype.

    Returns:
        (h, c), or a tuple of pairs for several states.

    Raises:
        TypeError: `state` is neither an LSTMState nor a tuple or list of them; no cell has its dtypes.
        ValueError: `state` is empty; an array is not two-dimensional; batch sizes differ.
    """
    pair: tuple[Any, ...] = to_pairs(state, PAIRS)
    return pair


SYSTEM = System(
    name="equinox",
    layouts=LAYOUTS,
    read=from_equinox,
    others=(state_from_equinox, state_to_equinox),
    source="arrays",
    taken=lambda source: cells_in(flatten("source", source, ".")),
    signs=Signs(array=r"(.*\.)?weight_ih"),
    framework="equinox",
    pairs=PAIRS,
)
