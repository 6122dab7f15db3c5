"""The classes of PyTorch's modules, by the names that callers vouch for."""

from __future__ import annotations

import re
import sys
from typing import Any

_MANGLED = re.compile(r"___torch_mangle_[0-9]+\.|^__torch__\.")


def is_module(thing: Any) -> bool:
    """Return whether a thing is a torch.nn.Module, without importing PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.nn.Module)


def is_scripted(thing: Any) -> bool:
    """Return whether a thing is a module of TorchScript."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.jit.ScriptModule)


def names_of(thing: Any) -> list[str]:
    """Return the names of a class, a function or an object's class, from the short one to the full one."""
    if not hasattr(thing, "__qualname__"):
        thing = type(thing)
    module = getattr(thing, "__module__", None) or ""
    return [thing.__name__, thing.__qualname__, f"{module}.{thing.__qualname__}".lstrip(".")]


def names_of_module(module: Any) -> list[str]:
    """Return the names of a module's class, from the short one to the full one. A script keeps those of its source."""
    if is_scripted(module):
        return names_of_script(str(module._c._type().qualified_name()))
    return names_of(type(module))


def names_of_script(name: str) -> list[str]:
    """Return the names of a class of TorchScript, from the short one to the full one, given TorchScript's own."""
    full = _MANGLED.sub("", name)
    return [full.rpartition(".")[2], full]
