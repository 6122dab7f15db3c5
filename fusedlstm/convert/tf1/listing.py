"""List the cells in a checkpoint of TensorFlow 1, for users who need to name one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusedlstm import files
from fusedlstm.convert.cells import check_has_arrays
from fusedlstm.convert.reading import read
from fusedlstm.convert.tf1.cells import Cell, candidates
from fusedlstm.convert.tf1.variables import Variables
from fusedlstm.errors import WeightsFileError
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    import os


@dataclass(frozen=True)
class TF1Cell:
    """A possible LSTM cell among TensorFlow 1's variables.

    Attributes:
        scope: its scope, for `from_tf1`'s prefix.
        input_size: I, or None if the cell is refused.
        hidden_size: N, or None likewise.
        output_size: P, or None likewise.
        peephole: whether it has peepholes.
        coupled: whether its input gate is 1 - f.
        refused: why `from_tf1` refuses it; empty if it doesn't.
    """

    scope: str
    input_size: int | None
    hidden_size: int | None
    output_size: int | None
    peephole: bool
    coupled: bool
    refused: str = ""


def list_tf1(variables: Mapping[str, Any] | str | bytes | os.PathLike[str]) -> list[TF1Cell]:
    """Return the possible LSTM cells among variables, by scope. Dense layers of width 4N look like cells, too.

    Args:
        variables: a mapping or a path, as `from_tf1` takes them.

    Raises:
        TypeError, WeightsFileError, OSError, ImportError: as from_tf1.
    """
    with files.reading(variables):
        found = [_describe(cell) for cell in candidates(Variables.of(variables))]
        if not found and isinstance(variables, Mapping):
            check_has_arrays("variables", variables)
        return found


def _describe(cell: Cell) -> TF1Cell:
    has = bool(cell.peepholes()), cell.is_coupled
    try:
        cell.refuse_other_formulas()
        arrays: dict[str, Any] = read(cell.layout, "variables", cell.arrays(), full_name=cell.name)
        weights = LSTMWeights(**arrays)
    except WeightsFileError:
        raise
    except (TypeError, ValueError) as error:
        return TF1Cell(cell.scope, None, None, None, *has, str(error))
    return TF1Cell(cell.scope, weights.input_size, weights.hidden_size, weights.output_size, *has)
