"""Equinox' nn.LSTMCell -> LSTMWeights.

Its weight_ih (4N, I), weight_hh (4N, N) and one bias (4N,), or None, are ours, in the gate order i, f, g, o. Checked by
numbers of Equinox 0.13.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusedlstm.checks import fail
from fusedlstm.convert.layouts import LAYOUTS
from fusedlstm.convert.reading import read
from fusedlstm.convert.trees import flatten, names_below, scope_of
from fusedlstm.weights import LSTMWeights

_NAMES = ("weight_ih", "weight_hh", "bias")


def from_equinox(source: Any, prefix: str = "") -> LSTMWeights:
    """Return the weights of an equinox.nn.LSTMCell.

    Args:
        source: the module, one that holds it, or a mapping of names ("weight_ih", ...) to arrays, nested or flat
            with dots. No bias, or None, is a cell with use_bias=False.
        prefix: where in it the cell is, such as "encoder.cell" or "cells.0".

    Raises:
        TypeError: arrays of mixed or unsupported dtypes, `prefix` no string.
        ValueError: no cell there, a cell of another kind, wrong shapes.
    """
    arrays = arrays_of(source, prefix)
    ours: dict[str, Any] = read(
        LAYOUTS["equinox"], "source", arrays, full_name=lambda name: scope_of(prefix, ".") + name
    )
    return LSTMWeights(**ours)


def arrays_of(source: Any, prefix: str) -> dict[str, Any]:
    """Return the arrays of a cell, by name.

    Raises:
        TypeError, ValueError: as from_equinox.
    """
    scope = scope_of(prefix, ".")
    if isinstance(source, Mapping):
        flat = flatten("source", source, ".")
        below = names_below(flat, scope)
        arrays = {name: flat[whole] for name, whole in below.items() if flat[whole] is not None and "." not in name}
    else:
        cell = _follow(source, prefix)
        names = (*_NAMES, "bias_n")
        arrays = {name: array for name in names if (array := getattr(cell, name, None)) is not None}
    if "bias_n" in arrays:
        fail(ValueError, "source", "an LSTMCell", "a GRUCell, which has a bias_n")
    unknown = sorted(set(arrays) - set(_NAMES))
    if unknown and "weight_ih" in arrays:
        hint = "torch.nn.LSTMCell has two biases: use from_torch" if "bias_hh" in arrays else ""
        fail(ValueError, "source", "the arrays of an LSTMCell alone", ", ".join(unknown[:4]), hint)
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
