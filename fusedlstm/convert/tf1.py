"""TensorFlow 1's LSTM cells: the variables of a checkpoint -> LSTMWeights.

A cell's `kernel` is (I + P, 4N), rows [x; h], columns in the gate order i, g, f, o (TensorFlow calls g
"j"); `bias` is (4N,) in the same order and does not hold the forget bias, which the cell adds at every
step; peepholes are `w_i_diag`, `w_f_diag` and `w_o_diag` (N,); `projection/kernel` is (N, P).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.checks import check_real, check_shape, describe_type, fail
from fusedlstm.interop import to_host
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm.dtypes import NumpyArray

_PEEPHOLES = ("w_i_diag", "w_f_diag", "w_o_diag")  # in our order
_OURS_IN_THEIRS = (0, 2, 1, 3)  # i, f, g, o among their i, g, f, o
_NORMALISED = ("input", "transform", "forget", "output", "state")  # sub-scopes of the layer-normalised cells

# Scopes that TensorFlow itself gives to cells, and to what holds them.
_CELL = re.compile(r"(basic_|cudnn_compatible_)?lstm(_fused|_block)?_cell(_\d+)?")
_HOLDER = re.compile(r"(bidirectional_)?rnn(_\d+)?|multi_rnn_cell|cell_\d+|fw|bw")


def from_tf1(
    variables: Mapping[str, Any],
    prefix: str | None = None,
    forget_bias: float = 1.0,
    *,
    use_peepholes: bool | None = None,
    cell_clip: float | None = None,
    num_proj: int | None = None,
    proj_clip: float | None = None,
    activation: str | None = None,
) -> LSTMWeights:
    """Return the weights of one TensorFlow 1 LSTMCell, BasicLSTMCell, LSTMBlockCell or LSTMBlockFusedCell.

    The variables hold the arrays; the options, which are arguments of the cell in the program that made
    the checkpoint, are not in it and have the names and defaults they have there.

    Args:
        variables: names to arrays, as read from a checkpoint. Optimiser slots and other variables are
            ignored, and not read but for kernels and biases, whose shapes tell cells; an ending ":0" is
            dropped.
        prefix: the cell's scope, such as "rnn/lstm_cell". None finds the only cell there is.
        forget_bias: what the cell adds to the forget gate at every step; it goes into our bias. The
            default is the cells' own, 1.0.
        use_peepholes: whether the cell has them; None takes what the variables say.
        cell_clip: as the cell's; None for no clip.
        num_proj: P of the cell; None takes what the variables say.
        proj_clip: as the cell's; without a projection it has no effect there, and so none here.
        activation: the cell's, by name; None is its default, "tanh".

    Raises:
        TypeError: arrays of mixed or unsupported dtypes, `variables` no mapping, `prefix` no string.
        ValueError: no cell, several cells (all are listed), a cell with variables that this formula
            has no place for, wrong shapes, or options that disagree with the variables.
    """
    if not isinstance(variables, Mapping):
        fail(TypeError, "variables", "a mapping of names to arrays", describe_type(variables))
    if prefix is not None and not isinstance(prefix, str):
        fail(TypeError, "prefix", "the name of a scope, or None", describe_type(prefix))
    forget_bias = check_real("forget_bias", forget_bias)
    checkpoint = _Checkpoint(variables)
    cell = _Cell(checkpoint, _find_cell(checkpoint) if prefix is None else prefix.strip("/"))
    cell.refuse_other_formulas(forget_bias)
    kernel, bias = cell.read("kernel"), cell.read("bias")
    if kernel.ndim != 2 or kernel.shape[1] % 4 or kernel.shape[1] == 0:
        fail(ValueError, cell.name("kernel"), "shape (I + P, 4N)", f"shape {kernel.shape}")
    N = kernel.shape[1] // 4
    check_shape(cell.name("bias"), bias.shape, "4N", {"N": N})
    projection = cell.projection(N, num_proj)
    P = N if projection is None else projection.shape[1]
    I = kernel.shape[0] - P
    if I < 0:
        wanted = f"shape (I + P, 4N) with P = {P} rows for h at least"
        fail(ValueError, cell.name("kernel"), wanted, f"shape {kernel.shape}")
    rows = _reorder(kernel.T)
    bias = _reorder(bias)
    bias[N : 2 * N] += np.asarray(forget_bias, bias.dtype)
    return LSTMWeights(
        rows[:, :I],
        rows[:, I:],
        bias,
        cell.peephole(N, use_peepholes),
        None if projection is None else projection.T,
        cell_clip=cell_clip,
        proj_clip=None if projection is None else proj_clip,
        activation=activation or "tanh",
    )


def _reorder(blocks: NumpyArray) -> NumpyArray:
    """Return a copy with the four blocks of the first axis in the order i, f, g, o."""
    four = blocks.reshape(4, -1, *blocks.shape[1:])
    return four[list(_OURS_IN_THEIRS)].reshape(blocks.shape)


def _join(scope: str, name: str) -> str:
    return f"{scope}/{name}" if scope else name


class _Checkpoint:
    """Variables by name, each read when it is asked for: others may be huge, or no arrays of numbers."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables
        self._keys = {str(key).removesuffix(":0"): key for key in variables}

    def __contains__(self, name: str) -> bool:
        return name in self._keys

    def __iter__(self) -> Any:
        return iter(self._keys)

    def read(self, name: str) -> NumpyArray:
        return to_host(name, self._variables[self._keys[name]])

    def candidates(self) -> list[str]:
        """Return the scopes where a kernel and a bias of the widths of four gates stand."""
        scopes = (name.removesuffix("kernel").rstrip("/") for name in self if name.split("/")[-1] == "kernel")
        return sorted(scope for scope in scopes if self._looks_like_a_cell(scope))

    def _looks_like_a_cell(self, scope: str) -> bool:
        if _join(scope, "bias") not in self or _join(scope, "recurrent_kernel") in self:
            return False
        kernel, bias = (self.read(_join(scope, name)).shape for name in ("kernel", "bias"))
        return len(kernel) == 2 and len(bias) == 1 and kernel[1] == bias[0] > 0 and kernel[1] % 4 == 0

    def is_surely_a_cell(self, scope: str) -> bool:
        """Whether scopes that TensorFlow names, or variables that only an LSTM has, tell it from a dense layer."""
        *holders, last = scope.split("/")
        own = any(_join(scope, name) in self for name in (*_PEEPHOLES, "projection/kernel"))
        return own or bool(_CELL.fullmatch(last)) or any(_HOLDER.fullmatch(holder) for holder in holders)


def _find_cell(checkpoint: _Checkpoint) -> str:
    """Return the scope of the only LSTM cell among the variables, or raise and list what there is."""
    candidates = checkpoint.candidates()
    sure = [scope for scope in candidates if checkpoint.is_surely_a_cell(scope)]
    if len(sure) == 1:
        return sure[0]
    if candidates == [""]:
        return ""  # bare "kernel" and "bias": somebody picked them
    listed = ", ".join(map(repr, sure or candidates))
    if sure:
        fail(ValueError, "variables", "one LSTM cell", f"{len(sure)} of them", f"Give prefix= one of {listed}")
    if candidates:
        got = f"kernels that may be a cell's or a dense layer's: {listed}"
        fail(ValueError, "variables", "a scope that names an LSTM cell", got, "Give the cell's as prefix=")
    some = ", ".join(sorted(checkpoint)[:8]) or "none at all"
    fail(ValueError, "variables", "those of an LSTM cell (.../kernel and .../bias)", some, _other_names(checkpoint))


def _other_names(checkpoint: _Checkpoint) -> str:
    """Say what variables of other names may be, if it is known."""
    last = {name.split("/")[-1] for name in checkpoint}
    if "recurrent_kernel" in last:
        return _KERAS
    if {"weights", "biases"} <= last:
        return "Before TensorFlow 1.2 kernel and bias were called weights and biases: rename those of the cell"
    return ""


_KERAS = "A recurrent_kernel is Keras', whose gates are in our order: LSTMWeights(kernel.T, recurrent_kernel.T, bias)"


class _Cell:
    """The variables of one cell, below its scope; slots of an optimiser stand below them in turn."""

    def __init__(self, checkpoint: _Checkpoint, scope: str) -> None:
        self.checkpoint, self.scope = checkpoint, scope
        for name in ("kernel", "bias"):
            if name not in self:
                cells = checkpoint.candidates()
                hint = f"Cells may be at {', '.join(map(repr, cells))}" if cells else _other_names(checkpoint)
                fail(ValueError, "variables", f"one named {self.name(name)!r}", "none of that name", hint)

    def name(self, variable: str) -> str:
        return _join(self.scope, variable)

    def __contains__(self, variable: str) -> bool:
        return self.name(variable) in self.checkpoint

    def read(self, variable: str) -> NumpyArray:
        return self.checkpoint.read(self.name(variable))

    def refuse_other_formulas(self, forget_bias: float) -> None:
        """Raise for cells that store such variables too but compute another formula."""
        if "recurrent_kernel" in self:
            got = self.name("recurrent_kernel")
            fail(ValueError, "variables", "a TensorFlow 1 cell, with one kernel for x and h", got, _KERAS)
        normalised = [f"{part}/{kind}" for part in _NORMALISED for kind in ("gamma", "beta")]
        found = [self.name(variable) for variable in normalised if variable in self]
        if found:
            fail(ValueError, "variables", "a cell without layer normalisation", ", ".join(found))
        if self.scope.split("/")[-1].startswith("cudnn_compatible_lstm_cell") and forget_bias != 0:
            hint = "CudnnCompatibleLSTMCell adds none at run time: give forget_bias=0.0"
            fail(ValueError, "forget_bias", "0.0 for this cell", str(forget_bias), hint)

    def projection(self, N: int, num_proj: int | None) -> NumpyArray | None:
        """Return projection/kernel (N, P), or None; raise if `num_proj` says otherwise."""
        name = self.name("projection/kernel")
        if "projection/kernel" not in self:
            if num_proj is not None:
                fail(ValueError, "num_proj", f"None, as there is no {name}", str(num_proj))
            return None
        kernel = self.read("projection/kernel")
        if kernel.ndim != 2 or kernel.shape[0] != N:
            fail(ValueError, name, f"shape (N, P) = ({N}, P)", f"shape {kernel.shape}")
        if num_proj is not None and num_proj != kernel.shape[1]:
            fail(ValueError, "num_proj", f"{kernel.shape[1]}, the width of {name}", str(num_proj))
        return kernel

    def peephole(self, N: int, use_peepholes: bool | None) -> NumpyArray | None:
        """Return the peepholes (3, N), or None; raise if `use_peepholes` says otherwise."""
        there = [name for name in _PEEPHOLES if name in self]
        if use_peepholes is not None and bool(use_peepholes) != bool(there):
            got = f"{use_peepholes} with {', '.join(there) or 'no w_*_diag'}"
            fail(ValueError, "use_peepholes", f"{bool(there)}, as the variables say", got)
        if not there:
            return None
        missing = [self.name(name) for name in _PEEPHOLES if name not in self]
        if missing:
            fail(ValueError, "variables", f"all of {', '.join(_PEEPHOLES)}", f"no {', '.join(missing)}")
        rows = [self.read(name) for name in _PEEPHOLES]
        for name, row in zip(_PEEPHOLES, rows, strict=True):
            check_shape(self.name(name), row.shape, "N", {"N": N})
        return np.stack(rows)
