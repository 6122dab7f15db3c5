"""Break long signatures in help() into lines of one parameter each, as Python 3.13 does by itself."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WIDTH = 80  # columns of a screen
_MARGIN = 4  # the indent of methods in their class's help


class _BrokenSignature(inspect.Signature):
    def __str__(self) -> str:
        whole, parts = super().__str__(), list(self.parameters.values())
        text = str(inspect.Signature(parts))
        returns = whole.removeprefix(text)
        text = text.removesuffix(")").replace("(", "(\n    ", 1)
        for parameter in parts:
            text = text.replace(f", {parameter}", f",\n    {parameter}", 1)
        return text.replace(", *,", ",\n    *,", 1) + f"\n){returns}"


def break_signatures(public: Iterable[Any]) -> None:
    """Break the long signatures of functions and of classes' methods."""
    if sys.version_info >= (3, 13):
        return
    for each in public:
        width = _WIDTH - _MARGIN if isinstance(each, type) else _WIDTH
        for function, shown in _members(each):
            if inspect.isfunction(function) and "__signature__" not in vars(function):
                signature = inspect.signature(function)
                if len(shown) + len(str(signature)) > width:
                    parts = list(signature.parameters.values())
                    broken = _BrokenSignature(parts, return_annotation=signature.return_annotation)
                    vars(function)["__signature__"] = broken


def _members(public: Any) -> Iterator[tuple[Any, str]]:
    """Yield a function, or the members of a class and its bases in this package, each with its name in help().

    Wrappers such as classmethod are removed from members.
    """
    if not isinstance(public, type):
        yield public, getattr(public, "__name__", "")
        return
    for base in public.__mro__:
        if base.__module__.startswith("fusedlstm."):
            for name, member in vars(base).items():
                # help() also shows `__init__` under the class's name
                shown = max(name, base.__name__, key=len) if name == "__init__" else name
                yield getattr(member, "__func__", member), shown
