"""Where among the names of a model's parameters there are LSTMs, and which parameters are theirs."""

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

# Of each parameter of an LSTM, such as weight_hh_l0, the names of its parts in the source, as of forms.py.
Parts: TypeAlias = "dict[str, dict[str, str]]"


@dataclass
class Scopes:
    """The LSTMs of a model, by what the names of their parameters begin with.

    Attributes:
        own: the parts of the parameters whose names begin so.
        lstms: those that are an LSTM's, sorted.
        wrappers: those that are not, and have raw weights of an LSTM below them.
    """

    own: dict[str, Parts] = field(default_factory=dict)
    lstms: list[str] = field(default_factory=list)
    wrappers: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, names: Iterable[str]) -> Scopes:
        """Return the LSTMs among these names."""
        found, lstms = cls(), set()
        for whole in names:
            if match := _DIRECT.fullmatch(whole) or _PARAMETRIZED.fullmatch(whole):
                scope, name, part = match.groups()
                found.own.setdefault(scope, {}).setdefault(name, {})[part] = whole
                lstms.add(scope)  # even of a bias alone, as a wrapper around it may have the rest
            elif match := _QUANTISED.fullmatch(whole):
                lstms.add(match[1])
        raw = {scope for scope in found.own if all(set(parts) == {_RAW} for parts in found.own[scope].values())}
        others = sorted(lstms - raw)
        found.wrappers = {scope for scope in raw if _has_below(others, scope, 1)}
        found.lstms = sorted(lstms - found.wrappers)
        return found

    def parts_of(self, scope: str) -> Parts:
        """Return the parts of an LSTM's parameters, with those that a wrapper around it keeps.

        Raises:
            ValueError: a wrapper's may be of several LSTMs.
        """
        parts = {name: dict(own) for name, own in self.own.get(scope, {}).items()}
        for wrapper in self._wrappers_of(scope):
            for name, own in self.own[wrapper].items():
                if _has_below(self.lstms, wrapper, 2) or _RAW in parts.get(name, {}):
                    raise ValueError(f"{own[_RAW]} may be of several LSTMs: give the state_dict of one alone")
                parts.setdefault(name, {})[_RAW] = own[_RAW]
        return parts

    def _wrappers_of(self, scope: str) -> list[str]:
        """Return the wrappers that an LSTM is below."""
        if not self.wrappers:
            return []
        dots = [at for at, character in enumerate(scope[:-1]) if character == "."]
        if len(dots) > _DEEPEST:
            raise ValueError(f"an LSTM is below {len(dots)} modules, which are at most {_DEEPEST}")
        above = [scope[: at + 1] for at in dots] + ([""] if scope else [])
        return [place for place in above if place in self.wrappers]


def _has_below(scopes: list[str], scope: str, count: int) -> bool:
    """Whether at least `count` of sorted scopes are below one."""
    at = bisect.bisect_right(scopes, scope)
    return len(scopes) >= at + count and scopes[at + count - 1].startswith(scope)
