"""Nested mappings of arrays, as frameworks keep parameters, by the names of their paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusedlstm.checks import describe_type, fail


def flatten(argument: str, tree: Mapping[Any, Any], separator: str) -> dict[str, Any]:
    """Return what is in nested mappings: {"a": {"b": 1}} is {"a/b": 1}. A key may be a tuple: ("a", "b") is "a/b".

    Raises:
        ValueError: two keys give one name, of which one would be lost; mappings that hold themselves.
    """
    flat: dict[str, Any] = {}
    try:
        _add(argument, flat, tree, "", separator)
    except RecursionError:
        fail(ValueError, argument, "nested mappings", "deeper ones than Python can follow")
    return flat


def _add(argument: str, flat: dict[str, Any], tree: Mapping[Any, Any], start: str, separator: str) -> None:
    for key, value in tree.items():
        name = start + (separator.join(map(str, key)) if isinstance(key, tuple) else str(key))
        if isinstance(value, Mapping):
            _add(argument, flat, value, name + separator, separator)
        elif name in flat:
            fail(ValueError, argument, "one value of each name", f"two of {name!r}")
        else:
            flat[name] = value


def unflatten(flat: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Return nested dicts: {"a/b": 1} is {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parts, last = name.split(separator)
        branch = tree
        for part in parts:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


def check_prefix(prefix: Any) -> str:
    """Return a prefix, or raise TypeError where it is no string."""
    if not isinstance(prefix, str):
        fail(TypeError, "prefix", "a string", describe_type(prefix))
    return prefix


def scope_of(prefix: Any, separator: str) -> str:
    """Return what the names below a prefix begin with: that of "a" and "a/" is "a/", that of "" is ""."""
    prefix = check_prefix(prefix)
    return prefix if not prefix or prefix.endswith(separator) else f"{prefix}{separator}"


def names_below(names: Mapping[str, Any], scope: str) -> dict[str, str]:
    """Return the names below a scope: without it, to whole."""
    return {name[len(scope) :]: name for name in names if name.startswith(scope)}
