"""Flatten nested mappings of arrays, as frameworks keep parameters, so that a path becomes a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusedlstm.validation.arguments import describe_type, fail

LONGEST_NAME = 4096  # characters in an array's name; bounds the work on its parts
# A mapping in several places counts each time, so a few mappings may stand for any number of names.
_MOST_VALUES = 1_000_000
_MOST_REPETITION, _ALWAYS_VALUES, _ALWAYS_CHARACTERS = 64, 1 << 16, 1 << 20


def flatten(argument: str, tree: Mapping[Any, Any], separator: str) -> dict[str, Any]:
    """Flatten nested mappings: {"a": {"b": 1}} becomes {"a/b": 1}. A key may be a tuple: ("a", "b") becomes "a/b".

    Raises:
        ValueError: two keys give the same name; a mapping holds itself, or mappings repeat too often; a key can't be
            part of a name; a name is too long.
    """
    flattener = _Flattener(argument, separator)
    try:
        flattener.add(tree, "")
    except RecursionError:
        fail(ValueError, argument, "nested mappings", "deeper nesting than Python can follow")
    return flattener.flat


class _Flattener:
    """Joins paths to names. The work is proportional to the mappings' size."""

    def __init__(self, argument: str, separator: str) -> None:
        self.argument, self.separator = argument, separator
        self.flat: dict[str, Any] = {}
        self.known: dict[int, Mapping[Any, Any]] = {}  # the mappings seen; keeping them keeps their ids unique
        self.values = self.own_values = 0  # with and without repeated mappings
        self.characters = self.own_characters = 0  # of names; of keys, without repeated mappings

    def add(self, tree: Mapping[Any, Any], start: str) -> None:
        """Add a mapping's values. `start` is the beginning of their names."""
        is_new = id(tree) not in self.known
        self.known[id(tree)] = tree
        for key, value in tree.items():
            keys = key if isinstance(key, tuple) else (key,)
            name = self.name(start, keys)
            self.count(len(name), len(name) - len(start), is_new=is_new)
            if isinstance(value, Mapping):
                self.add(value, name + self.separator)
            elif name in self.flat:
                fail(ValueError, self.argument, "one value for each name", f"two for {name!r}")
            else:
                self.flat[name] = value

    def count(self, characters: int, own: int, *, is_new: bool) -> None:
        """Count a value and its name. Raise if repeated mappings make too many."""
        self.values += 1
        self.characters += characters
        if is_new:
            self.own_values += 1
            self.own_characters += own
        too_many = self.values > min(_MOST_VALUES, _ALWAYS_VALUES + _MOST_REPETITION * self.own_values)
        if too_many or self.characters > _ALWAYS_CHARACTERS + _MOST_REPETITION * self.own_characters:
            wanted = "nested mappings without many repetitions"
            fail(ValueError, self.argument, wanted, f"{self.values} names for {self.own_values} values")

    def name(self, start: str, keys: tuple[Any, ...]) -> str:
        """Return the name that consists of `start` and the keys after it."""
        if any(isinstance(key, (tuple, frozenset)) for key in keys):
            fail(ValueError, self.argument, "keys that are names, or tuples of names", "a tuple in a tuple, or a set")
        parts = [str(key) for key in keys]
        length = len(start) + sum(len(part) + len(self.separator) for part in parts) - len(self.separator)
        if length > LONGEST_NAME:
            got = f"one of {length}, {(start or parts[0])[:40]!r}..."
            fail(ValueError, self.argument, f"names of at most {LONGEST_NAME} characters", got)
        return start + self.separator.join(parts)


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
    """Return a prefix. Raise TypeError if it is not a string."""
    if not isinstance(prefix, str):
        fail(TypeError, "prefix", "a string", describe_type(prefix))
    return prefix


def scope_of(prefix: Any, separator: str) -> str:
    """Return the beginning of all names below a prefix: "a/" for "a" or "a/", and "" for ""."""
    prefix = check_prefix(prefix)
    return prefix if not prefix or prefix.endswith(separator) else f"{prefix}{separator}"


def names_below(names: Mapping[str, Any], scope: str) -> dict[str, str]:
    """Map names below a scope, without the scope, to whole names."""
    return {name[len(scope) :]: name for name in names if name.startswith(scope)}
