"""Break long signatures in help() into lines of one parameter each, as Python 3.13 does by itself."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FunctionType

_WIDTH = 90  # most characters of a signature on one line, which leaves room for names and help()'s margin


class _BrokenSignature(inspect.Signature):
    def __str__(self) -> str:
        text = super().__str__().replace("(", "(\n    ", 1)
        for parameter in list(self.parameters.values())[1:]:
            text = text.replace(f", {parameter}", f",\n    {parameter}", 1)
        return text


def break_signatures(public: Iterable[Any]) -> None:
    """Break the long signatures of functions and of the methods of classes."""
    if sys.version_info >= (3, 13):
        return
    for each in public:
        for function in _methods(each) if isinstance(each, type) else (each,):
            if inspect.isfunction(function) and "__signature__" not in vars(function):
                signature = inspect.signature(function)
                if len(str(signature)) > _WIDTH:
                    parts = list(signature.parameters.values())
                    broken = _BrokenSignature(parts, return_annotation=signature.return_annotation)
                    vars(function)["__signature__"] = broken


def _methods(kind: type) -> Iterator[FunctionType | Any]:
    """Yield the members that a class and its bases in this package define, without wrappers."""
    for base in kind.__mro__:
        if base.__module__.startswith("fusedlstm."):
            for member in vars(base).values():
                yield getattr(member, "__func__", member)
