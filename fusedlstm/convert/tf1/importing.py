"""Convert the variables of TensorFlow 1's LSTM cells to LSTMWeights, or to StackedWeights for layers.

A cell's `kernel` is (I + P, 4N), with rows [x; h] and columns in the gate order i, g, f, o (TensorFlow calls g "j").
`bias` is (4N,) in the same order. It doesn't include the forget bias, which the cell adds at every step. Peepholes are
`w_i_diag`, `w_f_diag` and `w_o_diag` (N,). `projection/kernel` is (N, P).

A CoupledInputForgetGateLSTMCell has `W_0` (I + P, 3N) and `B` (3N,), with columns g, f, o, as i is 1 - f. Its peepholes
are `W_F_diag` and `W_O_diag`, and its projection is `W_P_0`. Shards add `W_1` ..., with further rows.

All are tested against TensorFlow 1.15.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusedlstm import files
from fusedlstm.convert.reading import read
from fusedlstm.convert.tf1.finding import find_cells
from fusedlstm.convert.tf1.variables import Variables
from fusedlstm.functions import check_function
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import check_bool, check_clip, check_real, describe_type, fail
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.tf1.cells import Cell
    from fusedlstm.functions import Function
    from fusedlstm.stacked import EitherWeights

# TensorFlow 1's functions are Keras 2's.
_MEANT: dict[str, Function] = {"hard_sigmoid": ("hard_sigmoid", 0.2, 0.5)}


def from_tf1(
    variables: Mapping[str, Any] | str | bytes | os.PathLike[str],
    prefix: str | None = None,
    forget_bias: float = 1.0,
    *,
    use_peepholes: bool | None = None,
    cell_clip: float | None = None,
    num_proj: int | None = None,
    proj_clip: float | None = None,
    activation: Function | None = None,
    residual: bool | Sequence[bool] = False,
) -> EitherWeights:
    """Return the weights of a TensorFlow 1 cell, or of layers or directions of cells.

    A cell is an LSTMCell, BasicLSTMCell, LSTMBlockCell, LSTMBlockFusedCell, CudnnCompatibleLSTMCell,
    CoupledInputForgetGateLSTMCell, or a LayerNormBasicLSTMCell with layer_norm=False. Layers are those of a
    MultiRNNCell (even of one cell), of a CudnnLSTM, of bidirectional_dynamic_rnn and of
    stack_bidirectional_dynamic_rnn.

    The variables hold only the arrays. The options are arguments of the cell in the program that made the checkpoint,
    with the same names and defaults. They apply to all layers. If options differ between layers, convert each layer by
    its prefix=, and join them: `StackedWeights([from_tf1(...), from_tf1(...)])`.

    Args:
        variables: arrays by name, as read from a checkpoint, or a path. A trailing ":0" is dropped. Optimiser slots and
            other layers are ignored. Other layers' kernels and biases are read, but only for their shapes. The path
            is that of a checkpoint ("model.ckpt-1000"), of a folder with one or of a SavedModel, which are read
            through TensorFlow; or that of a .npz file of variables, which doesn't need TensorFlow.
        prefix: the cell's scope, such as "rnn/lstm_cell", or a scope that holds only a cell or layers of cells. None
            finds the only cell or layers.
        forget_bias: what the cell adds to the forget gate at every step. It goes into our bias. The default, 1.0, is
            the cells' own in every version (LSTMCell added a fixed 1 before this was an argument). CudnnLSTM and
            CudnnCompatibleLSTMCell have 0.0.
        use_peepholes: whether the cell has peepholes; None for what the variables show.
        cell_clip: the cell's clip; None for no clip. In TensorFlow 0.x and 1.0, LSTMBlockCell clips c to 3.0, but has
            the same variables as an LSTMCell, which doesn't clip: pass 3.0 for it. LSTMBlockFusedCell clips to 3.0
            there by default, so None is refused in its scope, lstm_block_wrapper.
        num_proj: the cell's P; None for what the variables show.
        proj_clip: the cell's clip of the projection. Without a projection it has no effect.
        activation: the cell's activation, by name or in the form of LSTMWeights; None for its default, "tanh".
        residual: whether the cell is in a ResidualWrapper. For layers, one bool for all, or one for each layer.

    Returns:
        StackedWeights for layers or directions, or with `residual`; else LSTMWeights.

    Raises:
        TypeError: `variables` is neither a mapping nor a path; `prefix` is not a string; the arrays' dtypes are mixed
            or unsupported.
        ValueError: there is no cell, or several that don't form layers (the message lists them); a cell has variables
            that an LSTM doesn't have; a shape is wrong; an option disagrees with the variables.
        WeightsFileError: the file is damaged, or has no such cell. (For some damaged checkpoints, TensorFlow's own
            reader ends the whole process. Untrusted ones are safer as .npz.)
        OSError: the file can't be read.
        ImportError: it is a checkpoint, and TensorFlow is not installed. The message says how to do without it.
    """
    if prefix is not None and not isinstance(prefix, str):
        fail(TypeError, "prefix", "the name of a scope, or None", describe_type(prefix))
    if use_peepholes is not None:
        check_bool("use_peepholes", use_peepholes)
    options = _Options(
        check_real("forget_bias", forget_bias),
        use_peepholes,
        check_clip("cell_clip", cell_clip),
        num_proj,
        check_clip("proj_clip", proj_clip),
        check_function("activation", "tanh" if activation is None else _MEANT.get(str(activation), activation)),
    )
    with files.reading(variables):
        found = find_cells(Variables.of(variables), prefix)
        weights = [options.read(cell) for cell in found.cells]
        StackedWeights(weights, bidirectional=found.bidirectional)  # refuses sizes that don't fit together
    stacked = StackedWeights(weights, bidirectional=found.bidirectional, residual=residual)
    return stacked if found.are_layers or any(stacked.residual) else weights[0]


@dataclass(frozen=True)
class _Options:
    """The arguments of cells, which variables don't hold."""

    forget_bias: float
    use_peepholes: bool | None
    cell_clip: float | None
    num_proj: int | None
    proj_clip: float | None
    activation: Function

    def read(self, cell: Cell) -> LSTMWeights:
        """Return a cell's weights. Raise if its variables disagree with the options."""
        cell.refuse_other_formulas()
        self._check_forget_bias(cell)
        self._check_cell_clip(cell)
        self._check_peepholes(cell)
        given = cell.arrays()
        arrays: dict[str, Any] = read(
            cell.layout, "variables", given, forget_bias=self.forget_bias, full_name=cell.name
        )
        self._check_projection(cell, arrays["weight_hr"])
        return LSTMWeights(
            **arrays,
            cell_clip=self.cell_clip,
            proj_clip=None if arrays["weight_hr"] is None else self.proj_clip,
            activation=self.activation,
            coupled_gate="input" if cell.is_coupled else None,
        )

    def _check_forget_bias(self, cell: Cell) -> None:
        if cell.is_cudnn and self.forget_bias != 0:
            hint = "CudnnCompatibleLSTMCell adds none at run time: give forget_bias=0.0"
            fail(ValueError, "forget_bias", "0.0 for this cell", str(self.forget_bias), hint)

    def _check_cell_clip(self, cell: Cell) -> None:
        if cell.is_coupled and self.cell_clip is not None:
            wanted = "None, as a CoupledInputForgetGateLSTMCell has none"
            fail(ValueError, "cell_clip", wanted, str(self.cell_clip))
        if cell.is_block_wrapper and self.cell_clip is None:
            wanted = "a number, as TensorFlow 1.0's LSTMBlockFusedCell clips to 3.0 by default"
            fail(ValueError, "cell_clip", wanted, "None", "Pass 3.0, or math.inf if the program set it not to clip")

    def _check_peepholes(self, cell: Cell) -> None:
        there = cell.peepholes()
        if self.use_peepholes is not None and bool(self.use_peepholes) != bool(there):
            got = f"{self.use_peepholes} with {', '.join(there) or 'no w_*_diag'}"
            fail(ValueError, "use_peepholes", f"{bool(there)}, as the variables show", got)

    def _check_projection(self, cell: Cell, weight_hr: NumpyArray | None) -> None:
        name = cell.name(cell.layout.weight_hr)
        if self.num_proj is None:
            return
        if weight_hr is None:
            fail(ValueError, "num_proj", f"None, as there is no {name}", str(self.num_proj))
        if self.num_proj != weight_hr.shape[0]:
            fail(ValueError, "num_proj", f"{weight_hr.shape[0]}, the width of {name}", str(self.num_proj))
