"""Read cells from arrays by name: helpers for the systems that store plain arrays."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays.host import to_host
from fusedlstm.convert.reading import read, refuse_unknown
from fusedlstm.convert.states import is_array
from fusedlstm.convert.trees import flatten, names_below
from fusedlstm.validation.advice import fail_source
from fusedlstm.validation.arguments import describe_type, fail
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm.convert.layout import Layout


def flat_arrays(argument: str, value: Any, *, converts: bool = True) -> dict[str, Any]:
    """Flatten nested mappings of names to arrays, with "/" in names. `converts` is as in `advice.fail_source`."""
    if not isinstance(value, Mapping):
        fail_source(argument, "a mapping of names to arrays", value, converts=converts)
    return flatten(argument, value, "/")


def check_has_arrays(argument: str, values: Mapping[str, Any]) -> None:
    """Raise TypeError if there are values and none is an array."""
    if values and not any(map(is_array, values.values())):
        name, value = next(iter(values.items()))
        fail(TypeError, argument, "arrays among its values", f"{describe_type(value)} at {name!r}")


def elements(argument: str, wanted: str, value: Any) -> list[Any]:
    """Return an iterable's elements. Raise TypeError for a mapping, a path or something that isn't iterable."""
    if isinstance(value, (Mapping, str, bytes, os.PathLike)) or not np.iterable(value):
        fail_source(argument, wanted, value)
    return list(value)


def check_array_like(name: str, value: Any, shape: str) -> None:
    """Raise TypeError unless a required argument is an array, or lists that make one."""
    if not (is_array(value) or isinstance(value, (list, tuple))):
        fail_source(name, f"an array {shape}", value)


def below(
    argument: str, params: Mapping[str, Any], scope: str, separator: str, marker: str
) -> tuple[dict[str, Any], str]:
    """Return the arrays in a scope, by their names below it, and the scope. Raise ValueError if `marker` is missing."""
    if scope + marker not in params:
        have = ", ".join(sorted(params)[:8]) or "none"
        pattern = re.compile(rf"(|.*?[{separator}.])(?:[lr]\d+_)?{marker}")
        found = sorted({match[1] for name in params if (match := pattern.fullmatch(name))})
        hint = f"Give prefix= one of {', '.join(map(repr, found))}" if found else ""
        fail(ValueError, argument, f"an array named {scope + marker!r}", have, hint)
    return {name: params[whole] for name, whole in names_below(params, scope).items()}, scope


def refuse_names(argument: str, arrays: Mapping[str, Any], scope: str, pattern: str, reason: str) -> None:
    """Raise if the name of an array in the scope matches the pattern."""
    found = sorted(scope + name for name in arrays if re.fullmatch(pattern, name))
    if found:
        fail(ValueError, argument, "the arrays of a plain LSTM", ", ".join(found[:4]), reason)


def cell_weights(
    layout: Layout,
    argument: str,
    arrays: Mapping[str, Any],
    start: str,
    end: str = "",
    *,
    forget_bias: float | None = None,
    **options: Any,
) -> LSTMWeights:
    """Return the weights of a cell with arrays in a layout. Errors name an array by `start`, its name and `end`.

    Raises:
        TypeError: the arrays' dtypes are mixed or unsupported.
        ValueError: an array has the wrong shape or is missing, or the layout doesn't have it.
    """

    def full_name(name: str) -> str:
        return start + name + end

    refuse_unknown(layout, argument, arrays, full_name=full_name)
    ours: dict[str, Any] = read(layout, argument, arrays, forget_bias=forget_bias, full_name=full_name)
    return LSTMWeights(**ours, **options)


def refuse_state(argument: str, states: Mapping[str, Any]) -> None:
    """Raise if an array of a system's initial state is not zero, as weights have no place for a state."""
    for name, value in states.items():
        if value is not None and np.any(to_host(name, value)):
            hint = "Weights hold no state: leave it out here, and pass it to the LSTM as its initial state"
            fail(ValueError, argument, f"zeros or no initial state in {name}", "other numbers", hint)
