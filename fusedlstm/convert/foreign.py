"""Objects whose class computes something else than the framework's own class that it derives from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusedlstm.checks import describe_type, fail

# What computes a module's numbers, or its first state, and may be a subclass's own.
_COMPUTES = ("__call__", "__getattr__", "__getattribute__", "initialize_carry")


def check_names(custom_classes: Any) -> frozenset[str]:
    """Return the argument, or raise TypeError unless it is a sequence of strings."""
    is_sequence = isinstance(custom_classes, (Sequence, set, frozenset)) and not isinstance(custom_classes, str)
    if not is_sequence or not all(isinstance(name, str) for name in custom_classes):
        got = repr(custom_classes) if is_sequence else describe_type(custom_classes)
        fail(TypeError, "custom_classes", "a sequence of names of classes", got)
    return frozenset(custom_classes)


def refuse_foreign(source: str, found: Any, where: str, bases: tuple[type, ...], vouched: frozenset[str]) -> None:
    """Raise unless an object is of one of some classes, or of a subclass that computes what they do.

    Args:
        source: the name of the argument that it came from.
        found: the object.
        where: its place in that argument, for messages; may be empty.
        bases: the framework's own classes.
        vouched: names of classes, with their modules or without, that the caller says to compute the same.

    Raises:
        ValueError: naming the class.
    """
    kind = type(found)
    full = f"{kind.__module__}.{kind.__qualname__}"
    if _computes_as(kind, bases) or not vouched.isdisjoint((full, kind.__qualname__, kind.__name__)):
        return
    wanted = " or ".join(f"{base.__module__.partition('.')[0]}'s {base.__name__}" for base in bases)
    own = "with a call of its own" if issubclass(kind, bases) else "which is another class"
    at = f" at {where!r}" if where else ""
    hint = f"If it computes the same, give custom_classes=[{kind.__qualname__!r}]"
    fail(ValueError, source, wanted or "the framework's own class", f"{full}{at}, {own}", hint)


def _computes_as(kind: type, bases: tuple[type, ...]) -> bool:
    """Whether a class has what computes its numbers from one of the bases, or from what these have it from."""
    return any(
        issubclass(kind, base) and all(_definer(kind, name) is _definer(base, name) for name in _COMPUTES)
        for base in bases
    )


def _definer(kind: type, name: str) -> type | None:
    """Return the class that a class has an attribute from."""
    return next((each for each in kind.__mro__ if name in vars(each)), None)
