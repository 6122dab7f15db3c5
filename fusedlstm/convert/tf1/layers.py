"""Recognise layers and directions of TensorFlow 1's cells, by the scopes that hold them.

    MultiRNNCell                      .../multi_rnn_cell/cell_0/lstm_cell, .../multi_rnn_cell/cell_1/lstm_cell ...
    bidirectional_dynamic_rnn         .../fw/lstm_cell, .../bw/lstm_cell
    stack_bidirectional_dynamic_rnn   .../cell_0/bidirectional_rnn/fw/lstm_cell ..., and without bidirectional_rnn/
                                      if it is static and was given a scope

These are the names that 1.15 gives. Wrappers for dropout and residuals have no scopes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WAYS = ("fw", "bw")


@dataclass(frozen=True)
class _ScopePattern:
    """How TensorFlow names the scopes of stacked cells.

    `holder` matches the scopes below the root that must contain nothing else.
    """

    what: str
    scope: re.Pattern[str]
    holder: str
    is_bidirectional: bool


_SCOPE_PATTERNS = (
    _ScopePattern(
        "a stack_bidirectional_dynamic_rnn",
        re.compile(r"(?P<root>(?:.*/)?)cell_(?P<layer>\d+)/(?:bidirectional_rnn/)?(?P<way>fw|bw)/[^/]+"),
        r"cell_\d+/",
        is_bidirectional=True,
    ),
    _ScopePattern(
        "a MultiRNNCell",
        re.compile(r"(?P<root>(?:.*/)?multi_rnn_cell(?:_\d+)?/)cell_(?P<layer>\d+)/[^/]+"),
        "",
        is_bidirectional=False,
    ),
    _ScopePattern(
        "a bidirectional_dynamic_rnn",
        re.compile(r"(?P<root>(?:.*/)?)(?P<way>fw|bw)/[^/]+"),
        r"(?:fw|bw)/",
        is_bidirectional=True,
    ),
)
_ONE = "For one cell, give its scope as prefix="
_STACK_IN_A_DIRECTION = re.compile(r"(?P<root>(?:.*/)?)(?P<way>fw|bw)/multi_rnn_cell/cell_\d+/[^/]+")


@dataclass(frozen=True)
class CellStack:
    """The scopes of all cells, at index layer * D + direction, where D is 2 with both directions, else 1."""

    scopes: tuple[str, ...]
    bidirectional: bool


def arrange(scopes: Sequence[str], names: Iterable[str], prefix: str) -> CellStack | None:
    """Return the stack that the cells form, or None if they aren't one complete stack.

    Args:
        scopes: the scopes of the cells.
        names: the names of all variables.
        prefix: the scope that the user named. Only names below it count: a cell_1 that the user named is a cell.

    Raises:
        ValueError: layers are missing, or are not LSTM cells, or each direction has its own layers.
    """
    if not scopes:
        return None
    for pattern in _SCOPE_PATTERNS:
        matches = [pattern.scope.fullmatch(scope) for scope in scopes]
        found = [match for match in matches if match and match.end("root") >= len(f"{prefix}/" if prefix else "")]
        if len({match["root"] for match in found}) == 1 and len(found) == len(scopes):
            return _whole(pattern, found, names)
    _refuse_layers_in_directions(scopes)
    return None


def _whole(pattern: _ScopePattern, cells: Sequence[re.Match[str]], names: Iterable[str]) -> CellStack | None:
    root = cells[0]["root"]
    at = {_place(match): match[0] for match in cells}
    if len(at) < len(cells):
        return None  # two cells in one place
    number = 1 + max(layer for layer, _ in at)
    ways = 2 if pattern.is_bidirectional else 1
    # Stop at a number that must be missing, as the highest may be any number.
    wanted = [(layer, way) for layer in range(min(number, len(at) + 1)) for way in range(ways)]
    missing = [place for place in wanted if place not in at]
    if missing and len(cells) == 1:
        return None  # only one of the stack's cells was given
    if missing:
        got = f"none in {', '.join(_scope_of(pattern, root, *place) for place in missing)}"
        fail(ValueError, "variables", f"an LSTM cell for each layer of {pattern.what} at {root!r}", got, _ONE)
    _refuse_others(pattern, root, tuple(at.values()), names)
    return CellStack(tuple(at[place] for place in wanted), pattern.is_bidirectional)


def _place(match: re.Match[str]) -> tuple[int, int]:
    """Return a cell's layer and direction."""
    parts = match.groupdict()
    return int(parts.get("layer") or 0), _WAYS.index(parts.get("way") or "fw")


def _scope_of(pattern: _ScopePattern, root: str, layer: int, way: int) -> str:
    cell = f"cell_{layer}" if "layer" in pattern.scope.groupindex else ""
    return root + "/".join(part for part in (cell, _WAYS[way] if pattern.is_bidirectional else "") if part)


def _refuse_others(pattern: _ScopePattern, root: str, scopes: tuple[str, ...], names: Iterable[str]) -> None:
    """Raise if there is something else where the cells are, such as a cell of another kind or attention."""
    within = re.compile(re.escape(root) + pattern.holder)
    known = set(scopes)
    others = sorted(name for name in names if within.match(name) and known.isdisjoint(_scopes_around(name)))
    if others:
        fail(
            ValueError,
            "variables",
            f"nothing but LSTM cells in {pattern.what} at {root!r}",
            ", ".join(others[:4]),
            _ONE,
        )


def _scopes_around(name: str) -> list[str]:
    """Return the scopes that a name is in."""
    return [name[: slash.start()] for slash in re.finditer("/", name)]


def _refuse_layers_in_directions(scopes: Sequence[str]) -> None:
    """Raise for a bidirectional_dynamic_rnn of MultiRNNCells."""
    matches = [_STACK_IN_A_DIRECTION.fullmatch(scope) for scope in scopes]
    ways = {(match["root"], match["way"]) for match in matches if match}
    if all(matches) and len(ways) == 2 and len({root for root, _ in ways}) == 1:
        each = " and ".join(f"prefix={root + way!r}" for root, way in sorted(ways, key=lambda at: _WAYS.index(at[1])))
        hint = (
            "Each has its own StackedWeights: import both, run one LSTM with reverse=True, and join their outputs. "
            f"Give {each}"
        )
        wanted = "layers whose directions see each other's outputs, as in a StackedWeights"
        fail(ValueError, "variables", wanted, "a MultiRNNCell for each direction", hint)
