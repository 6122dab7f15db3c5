"""Find the LSTMs among PyTorch's parameters, and describe them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.torch.files import shape_of
from fusedlstm.convert.torch.parametrizations import parametrization_of
from fusedlstm.convert.torch.scopes import PARAMETER, Parts, Scopes
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_LISTED = 8


@dataclass(frozen=True)
class TorchLSTM:
    """An LSTM or LSTMCell in a state_dict.

    Attributes:
        prefix: the prefix of its parameters' names.
        num_layers: None for an LSTMCell.
        bidirectional: whether it has both directions.
        input_size: I; None if its parameters are not plain.
        hidden_size: N; None if its parameters are not plain.
        proj_size: P, or None without a projection.
    """

    prefix: str
    num_layers: int | None
    bidirectional: bool
    input_size: int | None
    hidden_size: int | None
    proj_size: int | None = None

    def __str__(self) -> str:
        if self.hidden_size is None:
            return f"{self.prefix!r} (not plain)"
        sizes = f"I={self.input_size}, N={self.hidden_size}" + (f", P={self.proj_size}" if self.proj_size else "")
        if self.num_layers is None:
            return f"{self.prefix!r} (an LSTMCell, {sizes})"
        directions = ", both directions" if self.bidirectional else ""
        return f"{self.prefix!r} (LSTM, layers: {self.num_layers}{directions}, {sizes})"


def only_scope(everything: Mapping[str, Any]) -> str:
    """Return the prefix of the only LSTM. If there is none, return "", so that reading it fails with a clear error.

    Raises:
        ValueError: there are several, even if they are copies of one.
    """
    scopes = Scopes.of(everything)
    found = [scope for scope in scopes.lstms if not _is_other_cell(everything, scopes, scope)] or scopes.lstms
    if len(found) > 1:
        listed = [str(_describe(everything, scopes, scope)) for scope in found[: _MOST_LISTED + 1]]
        fail(
            ValueError,
            "source",
            "one LSTM, or prefix= to choose",
            f"{len(found)}",
            f"Give prefix= one of {some_of(listed)}",
        )
    return found[0] if found else ""


def find_lstms(everything: Mapping[str, Any]) -> list[TorchLSTM]:
    """Return the LSTMs among a model's parameters, sorted by prefix."""
    scopes = Scopes.of(everything)
    found = [scope for scope in scopes.lstms if not _is_other_cell(everything, scopes, scope)]
    return [_describe(everything, scopes, scope) for scope in found]


def some_of(found: list[str]) -> str:
    """Return the first few descriptions, joined."""
    more = ", ..." if len(found) > _MOST_LISTED else ""
    return ", ".join(found[:_MOST_LISTED]) + more


def _describe(everything: Mapping[str, Any], scopes: Scopes, scope: str) -> TorchLSTM:
    parts = scopes.parts_of(scope)
    of_layers = [match.groups() for name in parts if (match := PARAMETER.fullmatch(name)) and match[2]]
    suffix = "_l0" if of_layers else ""
    shape = shape_of_parameter(everything, parts, "weight_ih" + suffix)
    rows, columns = shape if len(shape) == 2 else (None, None)
    return TorchLSTM(
        scope,
        max(int(number) + 1 for _, number, _ in of_layers) if of_layers else None,
        any(backward for _, _, backward in of_layers),
        columns,
        None if rows is None else rows // 4,
        next(iter(shape_of_parameter(everything, parts, "weight_hr" + suffix)), None),
    )


def shape_of_parameter(everything: Mapping[str, Any], parts: Parts, name: str) -> tuple[int, ...]:
    """Return the shape of a parameter of any parametrization; () if it is unknown."""
    own = parts.get(name, {})
    kind = parametrization_of(own)
    return shape_of(everything, own[kind.shaped]) if kind is not None else ()


def _is_other_cell(everything: Mapping[str, Any], scopes: Scopes, scope: str) -> bool:
    """Return whether the shapes are those of an RNN or GRU, whose parameters have the same names."""
    own = scopes.own.get(scope, {})
    for suffix in ("_l0", ""):
        shape = shape_of_parameter(everything, own, "weight_hh" + suffix)
        if len(shape) == 2 and f"weight_hr{suffix}" not in own:
            return shape[0] in (shape[1], 3 * shape[1])
    return False
