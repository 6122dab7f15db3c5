"""Name the right importer in an error about arrays of another system."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fusedlstm.convert.recognise import evidence
from fusedlstm.convert.systems import SYSTEMS
from fusedlstm.convert.trees import flatten
from fusedlstm.validation.advice import UNKNOWN_FRAMEWORK

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.convert.record import System

_P = ParamSpec("_P")
_R = TypeVar("_R")


def name_right_importer(importer: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return a function that adds a hint to an importer's errors, if the arrays' names are those of another system."""
    source = next(iter(inspect.signature(importer).parameters))

    @functools.wraps(importer)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return importer(*args, **kwargs)
        except (TypeError, ValueError) as error:
            _add_hint(error, importer.__name__, args[0] if args else kwargs.get(source))
            raise

    call.__module__ = "fusedlstm.convert"  # where pickle finds it
    return call


def _add_hint(error: Exception, importer: str, source: Any) -> None:
    message = str(error)
    if isinstance(source, Mapping) and error.args == (message,):
        right = _right_importers(importer, source)
        if right and right[0] not in message:
            hint = f"Arrays with such names are for fusedlstm.convert.{' or '.join(right)}"
            error.args = (f"{message.removesuffix(f'. {UNKNOWN_FRAMEWORK}')}. {hint}",)


def _right_importers(importer: str, source: Mapping[Any, Any]) -> list[str]:
    """Return the importers of the system that uses such names; none if it is unknown or the importer's own."""
    own = next(system for system in SYSTEMS if importer in _functions(system))
    for separator in "/.":
        try:
            names = flatten("source", source, separator)
        except Exception:  # such as of a mapping that reads a closed file
            return []
        found, telling = evidence(names)
        if found is not None:
            if own.read is not None and "prefix" in inspect.signature(own.read).parameters:
                telling = [name.rpartition(".")[2] for name in telling]
            is_own = found is own or any(layout.names().issuperset(telling) for layout in own.layouts.values())
            right = () if is_own else (found.name, *found.signs.alike)
            return [f"from_{name}" for name in right if name != own.name]
    return []


def _functions(system: System) -> list[str]:
    return [function.__name__ for function in (system.read, *system.others) if function is not None]
