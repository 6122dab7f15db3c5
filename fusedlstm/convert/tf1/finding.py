"""Find the cells that a caller means: those at a scope, or the only ones among the variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from fusedlstm.convert.tf1.cells import Cell, candidates
from fusedlstm.convert.tf1.layers import arrange
from fusedlstm.convert.tf1.others import other_names
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.convert.tf1.variables import Variables


@dataclass(frozen=True)
class Found:
    """Cells, at index layer * D + direction, where D is 2 with both directions, else 1.

    Attributes:
        cells: at least one.
        are_layers: whether their scopes are those of layers, even of a single one.
        bidirectional: whether there are both directions.
    """

    cells: tuple[Cell, ...]
    are_layers: bool = False
    bidirectional: bool = False


def find_cells(variables: Variables, prefix: str | None) -> Found:
    """Return the cells that the caller means.

    Args:
        variables: all variables.
        prefix: the scope of a cell, or a scope that holds a cell or layers; None for all variables.

    Raises:
        ValueError: there are no cells, or several that don't form layers. The message lists what there is.
    """
    prefix = None if prefix is None else prefix.strip("/")
    found = candidates(variables, prefix or "")
    if prefix is not None and (not found or Cell(variables, prefix).has_kernel):
        return Found((Cell(variables, prefix),))  # reading it says what is missing
    sure = [cell for cell in found if cell.is_surely_an_lstm()]
    if not sure and [cell.scope for cell in found] == [""]:
        return Found((found[0],))  # bare "kernel" and "bias": the caller picked them
    layers = arrange([cell.scope for cell in sure], variables, prefix or "")
    if layers is not None:
        cells = tuple(Cell(variables, scope) for scope in layers.scopes)
        return Found(cells, are_layers=True, bidirectional=layers.bidirectional)
    if len(sure) == 1:
        return Found((sure[0],))
    _refuse(variables, found, sure)


def _refuse(variables: Variables, found: Sequence[Cell], sure: Sequence[Cell]) -> NoReturn:
    listed = ", ".join(repr(cell.scope) for cell in found)
    if sure:
        choices = ", ".join(map(repr, _choices(variables, [cell.scope for cell in sure])))
        fail(ValueError, "variables", "one LSTM cell", f"{len(sure)} of them", f"Give prefix= one of {choices}")
    if found:
        got = f"kernels that may be a cell's or a dense layer's: {listed}"
        fail(ValueError, "variables", "a scope that names an LSTM cell", got, "Give the cell's scope as prefix=")
    some = ", ".join(sorted(variables)[:8]) or "none at all"
    fail(ValueError, "variables", "those of an LSTM cell (.../kernel and .../bias)", some, other_names(variables))


def _choices(variables: Variables, scopes: list[str]) -> list[str]:
    """Return the scopes of stacks, and of cells that are in none."""
    above = {scope.rsplit("/", k)[0] for scope in scopes for k in range(1, scope.count("/") + 1)}
    stacks = []
    for outer in sorted(above, key=len):
        inside = [scope for scope in scopes if scope.startswith(f"{outer}/")]
        if len(inside) > 1 and _is_stack(inside, variables, outer):
            stacks.append(max((each for each in above if all(s.startswith(f"{each}/") for s in inside)), key=len))
            scopes = [scope for scope in scopes if scope not in inside]
    return sorted(stacks + scopes)


def _is_stack(scopes: Sequence[str], variables: Variables, prefix: str) -> bool:
    try:
        return arrange(scopes, variables, prefix) is not None
    except ValueError:  # they are layers of several kinds
        return False
