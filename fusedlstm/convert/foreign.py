"""Refuse objects whose class may compute something other than the framework's own class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusedlstm.validation.arguments import describe_type, fail

# Attributes that compute a module's numbers or its initial state. A subclass may replace them.
_COMPUTES = ("__call__", "__getattr__", "__getattribute__", "initialize_carry")


def check_names(custom_classes: Any) -> frozenset[str]:
    """Return the names as a set. Raise TypeError unless they are a sequence of strings."""
    wanted = "a sequence of names of classes"
    is_sequence = isinstance(custom_classes, (Sequence, set, frozenset))
    if not is_sequence or isinstance(custom_classes, (str, bytes)):
        fail(TypeError, "custom_classes", wanted, describe_type(custom_classes))
    for name in custom_classes:
        if not isinstance(name, str):
            fail(TypeError, "custom_classes", wanted, f"{describe_type(name)} among them")
    return frozenset(custom_classes)


def refuse_foreign(source: str, found: Any, where: str, bases: tuple[type, ...], vouched: frozenset[str]) -> None:
    """Raise unless an object's class is one of the framework's own, or a subclass that computes the same.

    Args:
        source: the name of the argument that it came from.
        found: the object.
        where: its place in that argument, for messages; "" for the argument itself.
        bases: the framework's own classes.
        vouched: names of classes, with or without their modules, that the caller vouches for.

    Raises:
        ValueError: the class may compute something else. The message names it.
    """
    kind = type(found)
    full = f"{kind.__module__}.{kind.__qualname__}"
    if _computes_as(kind, bases) or not vouched.isdisjoint((full, kind.__qualname__, kind.__name__)):
        return
    wanted = " or ".join(f"{base.__module__.partition('.')[0]}'s {base.__name__}" for base in bases)
    own = "which has its own call" if issubclass(kind, bases) else "which is another class"
    at = f" at {where!r}" if where else ""
    hint = f"If it computes the same, pass custom_classes=[{kind.__qualname__!r}]"
    fail(ValueError, source, wanted or "the framework's own class", f"{full}{at}, {own}", hint)


def _computes_as(kind: type, bases: tuple[type, ...]) -> bool:
    """Return whether a class derives from one of the bases, and overrides nothing that computes its numbers."""
    return any(
        issubclass(kind, base) and all(_definer(kind, name) is _definer(base, name) for name in _COMPUTES)
        for base in bases
    )


def _definer(kind: type, name: str) -> type | None:
    """Return the class that defines an attribute of a class."""
    return next((each for each in kind.__mro__ if name in vars(each)), None)
