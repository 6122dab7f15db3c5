"""TensorFlow 1's LSTM cells: the variables of a checkpoint -> LSTMWeights.

A cell's `kernel` is (I + P, 4N), rows [x; h], columns in the gate order i, g, f, o (TensorFlow calls g
"j"); `bias` is (4N,) in the same order and does not hold the forget bias, which the cell adds at every
step; peepholes are `w_i_diag`, `w_f_diag` and `w_o_diag` (N,); `projection/kernel` is (N, P).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.checks import check_shape, fail
from fusedlstm.interop import to_host
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.dtypes import Array, NumpyArray

_PEEPHOLES = ("w_i_diag", "w_f_diag", "w_o_diag")  # in our order
_OURS_IN_THEIRS = (0, 2, 1, 3)  # i, f, g, o among their i, g, f, o


def from_tf1(
    variables: Mapping[str, Array],
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
        variables: names to arrays, as read from a checkpoint. Other variables and optimiser slots are
            ignored; an ending ":0" is dropped.
        prefix: the cell's scope, such as "rnn/lstm_cell". None finds the only cell there is.
        forget_bias: what the cell adds to the forget gate at every step; it goes into our bias. The
            default is the cells' own, 1.0.
        use_peepholes: whether the cell has them; None takes what the variables say.
        cell_clip: as the cell's; None for no clip.
        num_proj: P of the cell; None takes what the variables say.
        proj_clip: as the cell's; without a projection it has no effect there, and so none here.
        activation: the cell's, by name; None is its default, "tanh".

    Raises:
        TypeError: arrays of mixed or unsupported dtypes.
        ValueError: no cell, several cells (all are listed), a cell with variables that this formula
            has no place for, wrong shapes, or options that disagree with the variables.
    """
    named = {name.removesuffix(":0"): value for name, value in variables.items()}
    scope = _find_cell(named) if prefix is None else prefix.strip("/")
    cell = _variables_of(named, scope)
    _refuse_other_cells(scope, named, forget_bias)
    kernel = to_host(_join(scope, "kernel"), cell["kernel"])
    bias = to_host(_join(scope, "bias"), cell["bias"])
    if kernel.ndim != 2 or kernel.shape[1] % 4 or kernel.shape[1] == 0:
        fail(ValueError, _join(scope, "kernel"), "shape (I + P, 4N)", f"shape {kernel.shape}")
    N = kernel.shape[1] // 4
    check_shape(_join(scope, "bias"), bias.shape, "4N", {"N": N})
    projection = _projection(scope, cell, N, num_proj)
    P = N if projection is None else projection.shape[1]
    I = kernel.shape[0] - P
    if I < 0:
        wanted = f"shape (I + P, 4N) with P = {P} rows for h at least"
        fail(ValueError, _join(scope, "kernel"), wanted, f"shape {kernel.shape}")
    rows = _reorder(kernel.T)
    bias = _reorder(bias)
    bias[N : 2 * N] += np.asarray(forget_bias, bias.dtype)
    return LSTMWeights(
        rows[:, :I],
        rows[:, I:],
        bias,
        _peephole(scope, cell, N, use_peepholes),
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


def _find_cell(named: Mapping[str, Array]) -> str:
    """Return the scope of the only LSTM cell among the variables, or raise and list what there is."""
    cells = _candidates(named)
    sure = [scope for scope in cells if _is_surely_a_cell(named, scope)]
    if len(sure) == 1:
        return sure[0]
    if cells == [""] and not sure:
        return ""  # bare "kernel" and "bias": somebody picked them
    listed = ", ".join(map(repr, sure or cells))
    if sure:
        fail(ValueError, "variables", "one LSTM cell", f"{len(sure)} of them", f"Give prefix= one of {listed}")
    if cells:
        got = f"kernels that may be a cell's or a dense layer's: {listed}"
        fail(ValueError, "variables", "a scope that names an LSTM cell", got, "Give the cell's as prefix=")
    some = ", ".join(sorted(named)[:8]) or "none at all"
    fail(ValueError, "variables", "those of an LSTM cell (.../kernel and .../bias)", some)


def _candidates(named: Mapping[str, Array]) -> list[str]:
    """Return the scopes where a kernel and a bias of the widths of four gates stand."""
    scopes = (name.removesuffix("kernel").rstrip("/") for name in named if name.split("/")[-1] == "kernel")
    return sorted(scope for scope in scopes if _looks_like_a_cell(named, scope))


def _looks_like_a_cell(named: Mapping[str, Array], scope: str) -> bool:
    kernel, bias = np.shape(named[_join(scope, "kernel")]), np.shape(named.get(_join(scope, "bias"), 0))
    return len(kernel) == 2 and len(bias) == 1 and kernel[1] == bias[0] and kernel[1] % 4 == 0


def _is_surely_a_cell(named: Mapping[str, Array], scope: str) -> bool:
    """Whether its name, or variables that only an LSTM has, tell it from a dense layer."""
    own = (*_PEEPHOLES, "projection/kernel")
    return "lstm" in scope.rsplit("/", maxsplit=1)[-1].lower() or any(_join(scope, name) in named for name in own)


def _variables_of(named: Mapping[str, Array], scope: str) -> dict[str, Array]:
    """Return the cell's variables by their last names; slots of an optimiser stand below them and stay out."""
    known = ("kernel", "bias", *_PEEPHOLES, "projection/kernel")
    cell = {name: named[_join(scope, name)] for name in known if _join(scope, name) in named}
    for name in ("kernel", "bias"):
        if name not in cell:
            cells = _candidates(named)
            hint = f"Cells may be at {', '.join(map(repr, cells))}" if cells else ""
            fail(ValueError, "variables", f"one named {_join(scope, name)!r}", "none of that name", hint)
    return cell


def _refuse_other_cells(scope: str, named: Mapping[str, Array], forget_bias: float) -> None:
    """Raise for cells of TensorFlow that store such variables too but compute another formula."""
    normalised = [n for n in named if n.startswith(_join(scope, "")) and n.split("/")[-1] in ("gamma", "beta")]
    if normalised:
        fail(
            ValueError,
            scope or "variables",
            "a cell without layer normalisation",
            ", ".join(sorted(normalised)),
        )
    if scope.rsplit("/", maxsplit=1)[-1] == "cudnn_compatible_lstm_cell" and forget_bias != 0:
        hint = "CudnnCompatibleLSTMCell adds none at run time: give forget_bias=0.0"
        fail(ValueError, "forget_bias", "0.0 for this cell", str(forget_bias), hint)


def _projection(scope: str, cell: Mapping[str, Array], N: int, num_proj: int | None) -> NumpyArray | None:
    name = _join(scope, "projection/kernel")
    found = cell.get("projection/kernel")
    if found is None:
        if num_proj is not None:
            fail(ValueError, "num_proj", f"None, as there is no {name}", str(num_proj))
        return None
    kernel = to_host(name, found)
    if kernel.ndim != 2 or kernel.shape[0] != N:
        fail(ValueError, name, f"shape (N, P) = ({N}, P)", f"shape {kernel.shape}")
    if num_proj is not None and num_proj != kernel.shape[1]:
        fail(ValueError, "num_proj", f"{kernel.shape[1]}, the width of {name}", str(num_proj))
    return kernel


def _peephole(scope: str, cell: Mapping[str, Array], N: int, use_peepholes: bool | None) -> NumpyArray | None:
    there = [name for name in _PEEPHOLES if name in cell]
    if use_peepholes is False or not there:
        if bool(use_peepholes) != bool(there):
            got = ", ".join(there) or "no w_*_diag"
            fail(
                ValueError,
                "use_peepholes",
                f"{bool(there)}, as the variables say",
                f"{use_peepholes} with {got}",
            )
        return None
    rows = []
    for name in _PEEPHOLES:
        if name not in cell:
            fail(ValueError, "variables", f"all of {', '.join(_PEEPHOLES)}", f"no {_join(scope, name)}")
        row = to_host(_join(scope, name), cell[name])
        check_shape(_join(scope, name), row.shape, "N", {"N": N})
        rows.append(row)
    return np.stack(rows)
