"""Equinox's nn.LSTMCell -> LSTMWeights.

Its weight_ih (4N, I), weight_hh (4N, N) and one bias (4N,), or None, are ours, in the gate order i, f, g, o. Checked by
numbers of Equinox 0.13.8.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Any

from fusedlstm.convert.foreign import check_names, refuse_foreign
from fusedlstm.convert.layouts import LAYOUTS
from fusedlstm.convert.reading import read, refuse_unknown
from fusedlstm.convert.trees import flatten, names_below, scope_of
from fusedlstm.validation.arguments import fail
from fusedlstm.weights import LSTMWeights

_LAYOUT = "equinox"


def from_equinox(source: Any, prefix: str = "", *, custom_classes: Collection[str] = ()) -> LSTMWeights:
    """Return the weights of an equinox.nn.LSTMCell.

    Args:
        source: the module, one that holds it, or a mapping of names ("weight_ih", ...) to arrays, nested or flat
            with dots. A cell with use_bias=False has no bias, or None.
        prefix: the cell's place in the source, such as "encoder.cell" or "cells.0".
        custom_classes: names of your own classes that compute the same as LSTMCell.

    Raises:
        TypeError: the arrays' dtypes are mixed or unsupported; `prefix` is not a string; `custom_classes` is not a
            sequence of strings.
        ValueError: there is no cell, or one of another kind; a class has its own call and `custom_classes` doesn't
            name it; there are arrays that an LSTMCell doesn't have; an array has the wrong shape.
    """
    arrays = arrays_of(source, prefix, check_names(custom_classes))

    def full_name(name: str) -> str:
        return scope_of(prefix, ".") + name

    refuse_unknown(LAYOUTS[_LAYOUT], "source", arrays, full_name=full_name)
    ours: dict[str, Any] = read(LAYOUTS[_LAYOUT], "source", arrays, full_name=full_name)
    return LSTMWeights(**ours)


def arrays_of(source: Any, prefix: str, vouched: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return the arrays of a cell, by name.

    Raises:
        TypeError, ValueError: as from_equinox.
    """
    scope = scope_of(prefix, ".")
    if isinstance(source, Mapping):
        flat = flatten("source", source, ".")
        arrays = {name: flat[whole] for name, whole in names_below(flat, scope).items() if flat[whole] is not None}
    else:
        arrays = _arrays_of_module(_follow(source, prefix), prefix, vouched)
    if "bias_n" in arrays:
        fail(ValueError, "source", "an LSTMCell", "a GRUCell, which has a bias_n")
    if "bias_hh" in arrays:
        hint = "torch.nn.LSTMCell has two biases: use from_torch"
        fail(ValueError, "source", "the arrays of an LSTMCell alone", "bias_hh", hint)
    return arrays


def _arrays_of_module(cell: Any, prefix: str, vouched: frozenset[str]) -> dict[str, Any]:
    names = (*LAYOUTS[_LAYOUT].names(), "bias_n")
    arrays = {name: array for name in names if (array := getattr(cell, name, None)) is not None}
    equinox = sys.modules.get("equinox")
    if arrays and "bias_n" not in arrays:
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
