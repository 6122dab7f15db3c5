"""Check that a PyTorch module computes an LSTM's formula, and compute its weights."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from fusedlstm.convert.torch.classes import is_module, is_scripted, names_of, names_of_module, names_of_script
from fusedlstm.convert.torch.scopes import PARAMETER
from fusedlstm.convert.torch.zoneout import has_zoneout, zoneout_around
from fusedlstm.validation.arguments import describe_type, fail

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN = ("torch.nn.modules.rnn.LSTM", "torch.nn.modules.rnn.LSTMCell")
# Attributes that compute a module's numbers. A subclass or an object may replace them.
_COMPUTES = (
    *("forward", "__call__", "_call_impl", "_wrapped_call_impl", "__getattr__", "__getattribute__"),
    *("permute_hidden", "_update_flat_weights", "_init_flat_weights"),
)
_WEIGHT_HOOKS = ("torch.nn.utils.weight_norm.WeightNorm", "torch.nn.utils.spectral_norm.SpectralNorm")
_PARAMETRIZED = "parametrizations."
_SCRIPT = "TorchScript of the class"


def _our_classes() -> tuple[type, ...]:
    """Return the classes of `fusedlstm.torch`, if the program has imported it."""
    ours = sys.modules.get("fusedlstm.torch")
    return () if ours is None else (ours.LSTM, ours.LSTMCell)


class Module:
    """The module that holds an LSTM's parameters.

    Args:
        source: the module that the caller gave.
        scope: the prefix of the LSTM's parameters in the source's state_dict.
    """

    def __init__(self, source: Any, scope: str) -> None:
        self.scope = scope
        self._path = [source]
        for part in filter(None, scope.split(".")):
            self._path.append(getattr(self._path[-1], part, None))
        self.found = self._path[-1]
        if self.found is None:
            got = f"{describe_type(source)}, which has no module {scope.removesuffix('.')!r}"
            fail(ValueError, "source", "a module whose state_dict has its modules' names", got, "Pass its state_dict()")

    @property
    def is_ours(self) -> bool:
        """Whether it is a module of `fusedlstm.torch`, which converts its own weights."""
        return isinstance(self.found, _our_classes())

    def check(self, custom_classes: frozenset[str]) -> None:
        """Raise ValueError unless the module is a torch.nn.LSTM or LSTMCell, or the caller vouches for it."""
        for kind, names, what in self._foreign():
            if custom_classes.isdisjoint(names):
                _refuse(self.scope, kind, names[-1], what)

    def zoneout(self, custom_classes: frozenset[str]) -> float | None:
        """Return the rate of a ZoneOutCell around the module; None without one. Raise ValueError if it isn't known."""
        return zoneout_around(self._path, custom_classes)

    def _foreign(self) -> list[tuple[str, list[str], str]]:
        """Return what may change the numbers, each as its kind, its names (the full one last) and a reason."""
        if is_scripted(self.found):
            return self._foreign_script()
        if not is_module(self.found):
            return [("an object of", names_of(type(self.found)), ", which is not a module")]
        return [*self._foreign_class(), *self._foreign_hooks()]

    def _foreign_script(self) -> list[tuple[str, list[str], str]]:
        """Return the class of a script unless it is plain. A script doesn't tell if a subclass had its own forward."""
        names = names_of_module(self.found)
        return [] if names[-1] in _PLAIN else [(_SCRIPT, names, "")]

    def _foreign_class(self) -> list[tuple[str, list[str], str]]:
        import torch
        from torch.nn.utils import parametrize

        kind = parametrize.type_before_parametrizations(self.found)
        bases = [base for base in (torch.nn.LSTM, torch.nn.LSTMCell, *_our_classes()) if issubclass(kind, base)]
        if not bases:
            return [("the class", names_of(kind), "")]
        names = [*_COMPUTES, *(name for name in dir(kind) if PARAMETER.fullmatch(name))]
        own = [name for name in names if getattr(kind, name, None) is not getattr(bases[0], name, None)]
        own += [name for name in _COMPUTES if name in vars(self.found)]
        return [("the class", names_of(kind), f", which has its own {own[0]}")] if own else []

    def _foreign_hooks(self) -> list[tuple[str, list[str], str]]:
        """Return the forward hooks, except those by which PyTorch computes weights."""
        hooks = [*self.found._forward_pre_hooks.values(), *self.found._forward_hooks.values()]
        return [("a module with the hook", names_of(hook), "") for hook in hooks if not _computes_weight(hook)]

    def computed(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state_dict with the weights that parametrizations compute, in place of their parameters.

        Raises:
            ValueError: a parametrization gives different weights at each call.
        """
        parametrizations = self._parametrizations()
        names = [name for name in parametrizations if PARAMETER.fullmatch(name)]
        if not names:
            return dict(state_dict)
        below = tuple(f"{self.scope}{_PARAMETRIZED}{name}." for name in names)
        plain = {name: value for name, value in state_dict.items() if not name.startswith(below)}
        return plain | {f"{self.scope}{name}": _evaluated(name, parametrizations[name]) for name in names}

    def _parametrizations(self) -> Any:
        if not is_module(self.found) or is_scripted(self.found):
            return {}
        return getattr(self.found, "parametrizations", {})

    def check_attributes(self, wanted: Mapping[str, Any]) -> None:
        """Raise ValueError if attributes that forward uses disagree with the parameters."""
        for name, value in wanted.items():
            got = getattr(self.found, name, value)
            if got != value:
                fail(ValueError, "source", f"{name} {value}, as in its parameters", str(got))
        self._check_flat_weights()

    def _check_flat_weights(self) -> None:
        """Raise if forward would use tensors other than the parameters, as after an assignment to _flat_weights."""
        if is_scripted(self.found) or self._parametrizations():
            return  # reading them computes weights, and in training changes the module
        flat = getattr(self.found, "_flat_weights", None) or ()
        names = getattr(self.found, "_flat_weights_names", ())
        updates = getattr(self.found, "_weights_have_changed", None)
        if updates is not None and updates():
            return  # forward will rebuild them
        for name, tensor in zip(names, flat, strict=False):
            own = self.found._parameters.get(name)
            if own is not None and tensor is not own:
                fail(ValueError, "source", "_flat_weights that are its parameters", f"another tensor for {name}")

    @property
    def batch_first(self) -> bool:
        """Return whether the batch is the first axis of the module's input."""
        return bool(getattr(self.found, "batch_first", False))


def check_script(classes: Mapping[str, str], scope: str, custom_classes: frozenset[str]) -> None:
    """Raise ValueError if a TorchScript file's LSTM is of another class, or in a class with zoneout.

    Args:
        classes: the classes of the file's modules by scope; none for files without classes.
        scope: the scope of the LSTM.
        custom_classes: names of classes that the caller vouches for.
    """
    for where, kind in classes.items():
        names = names_of_script(kind)
        if not custom_classes.isdisjoint(names):
            continue
        if where == scope and names[-1] not in _PLAIN:
            _refuse(scope, _SCRIPT, names[-1], "")
        if where != scope and scope.startswith(where) and has_zoneout(names):
            hint = "Pass zoneout=, and the state_dict() of torch.jit.load(path)"
            wanted = "an LSTM without zoneout, or an LSTMCell in a ZoneOutCell"
            fail(ValueError, "source", wanted, f"{_SCRIPT} {names[-1]}, which can't be tested", hint)


def _refuse(scope: str, kind: str, name: str, what: str) -> NoReturn:
    where = f" at {scope.removesuffix('.')!r}" if scope else ""
    hint = f"If it computes the formula of torch.nn.LSTM, pass custom_classes=[{name!r}]"
    fail(ValueError, "source", "a torch.nn.LSTM or LSTMCell", f"{kind} {name}{where}{what}", hint)


def _computes_weight(hook: Any) -> bool:
    """Return whether a hook is PyTorch's own and computes a weight: weight_norm, spectral_norm or pruning."""
    from torch.nn.utils import prune

    kind = type(hook)
    if f"{kind.__module__}.{kind.__name__}" in _WEIGHT_HOOKS:
        return True
    base = prune.BasePruningMethod
    replaced = [name for name in ("__call__", "apply_mask") if getattr(kind, name, None) is not getattr(base, name)]
    return isinstance(hook, base) and not replaced


def _evaluated(name: str, parametrization: Any) -> Any:
    """Return a weight as it is at inference. A copy computes it, as the module would change in training."""
    import torch

    with torch.no_grad():
        own = copy.deepcopy(parametrization).eval()
        first, second = own(), own()
    if not torch.equal(first.nan_to_num(), second.nan_to_num()):
        classes = ", ".join(type(one).__name__ for one in parametrization)
        fail(
            ValueError,
            "source",
            f"a parametrization of {name} that always gives the same weight",
            f"{classes}, which gives a different one at each call",
        )
    return first.detach()
