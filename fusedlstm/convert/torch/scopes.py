"""Find the LSTMs among the names of a model's parameters, and the parameters of each."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME = r"(?:weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l[0-9]+(?:_reverse)?)?"
PARAMETER = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l([0-9]+)(_reverse)?)?")
_DIRECT = re.compile(rf"((?:.*\.)?)({_NAME})((?:_(?:raw|g|v|orig|mask|u))?)", re.DOTALL)
_PARAMETRIZED = re.compile(rf"((?:.*\.)?)parametrizations\.({_NAME})(\..+)", re.DOTALL)
_QUANTISED = re.compile(r"((?:.*\.)?)(?:_packed_weight_ih|_all_weight_values)(?:[._].*)?", re.DOTALL)
_RAW = "_raw"
_DEEPEST = 64

# Maps a parameter such as weight_hh_l0 to the source's names of its parts, keyed as in parametrizations.py.
Parts: TypeAlias = "dict[str, dict[str, str]]"


@dataclass
class Scopes:
    """The LSTMs of a model, by the prefix of their parameters' names: the scope.

    Attributes:
        own: the parts of the parameters in each scope.
        lstms: the scopes of LSTMs, sorted.
        wrappers: the scopes of modules that only keep the raw weights of LSTMs below them.
    """

    own: dict[str, Parts] = field(default_factory=dict)
    lstms: list[str] = field(default_factory=list)
    wrappers: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, names: Iterable[str]) -> Scopes:
        """Find the LSTMs among these names."""
        found, lstms = cls(), set()
        for whole in names:
            if match := _DIRECT.fullmatch(whole) or _PARAMETRIZED.fullmatch(whole):
                scope, name, part = match.groups()
                found.own.setdefault(scope, {}).setdefault(name, {})[part] = whole
                lstms.add(scope)  # even with only a bias, as a wrapper may keep the rest
            elif match := _QUANTISED.fullmatch(whole):
                lstms.add(match[1])
        raw = {scope for scope in found.own if all(set(parts) == {_RAW} for parts in found.own[scope].values())}
        others = sorted(lstms - raw)
        found.wrappers = {scope for scope in raw if _has_below(others, scope, 1)}
        found.lstms = sorted(lstms - found.wrappers)
        return found

    def parts_of(self, scope: str) -> Parts:
        """Return the parts of an LSTM's parameters, including those that a wrapper around it keeps.

        Raises:
            ValueError: a wrapper's parts may belong to several LSTMs.
        """
        parts = {name: dict(own) for name, own in self.own.get(scope, {}).items()}
        for wrapper in self._wrappers_of(scope):
            for name, own in self.own[wrapper].items():
                if _has_below(self.lstms, wrapper, 2) or _RAW in parts.get(name, {}):
                    raise ValueError(f"{own[_RAW]} may belong to several LSTMs: pass the state_dict of one")
                parts.setdefault(name, {})[_RAW] = own[_RAW]
        return parts

    def _wrappers_of(self, scope: str) -> list[str]:
        """Return the wrappers around an LSTM."""
        if not self.wrappers:
            return []
        dots = [at for at, character in enumerate(scope[:-1]) if character == "."]
        if len(dots) > _DEEPEST:
            raise ValueError(f"an LSTM is nested in {len(dots)} modules; at most {_DEEPEST} are supported")
        above = [scope[: at + 1] for at in dots] + ([""] if scope else [])
        return [place for place in above if place in self.wrappers]


def _has_below(scopes: list[str], scope: str, count: int) -> bool:
    """Return whether at least `count` of the sorted scopes are below `scope`."""
    at = bisect.bisect_right(scopes, scope)
    return len(scopes) >= at + count and scopes[at + count - 1].startswith(scope)
