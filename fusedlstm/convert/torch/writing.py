"""Convert LSTMWeights and StackedWeights to PyTorch's state_dicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.torch.layouts import LAYOUTS
from fusedlstm.convert.writing import refuse, refuse_directions, write
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import fail
from fusedlstm.validation.weights import check_weights

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.weights import LSTMWeights


def to_torch(weights: LSTMWeights | StackedWeights) -> dict[str, Any]:
    """Convert weights to the state_dict of a torch.nn.LSTMCell (LSTMWeights) or torch.nn.LSTM (StackedWeights).

    `from_torch` converts it back bit for bit: bias_ih is our bias, and bias_hh is -0.0.

    Args:
        weights: weights without options that PyTorch lacks. All layers and directions have the same N and P.

    Returns:
        CPU tensors in the weights' dtype, by name, for `load_state_dict`. Make the module with bias=False if the
        weights have no bias.

    Raises:
        TypeError: `weights` is neither an LSTMWeights nor a StackedWeights.
        ValueError: PyTorch can't represent the weights: peepholes, a clip, another function, a coupled gate, zoneout,
            residual layers, layers with different N, P or directions, backward layers, a bias in some layers only, or a
            projection of a single cell.
    """
    check_weights(weights)
    if isinstance(weights, StackedWeights):
        _check_uniform(weights)
        suffixes = [_suffix(k, backward=back) for k in range(weights.num_layers) for back in _directions(weights)]
        cells = dict(zip(suffixes, weights.layers, strict=True))
    else:
        cells = {"": weights}
    state_dict: dict[str, Any] = {}
    for suffix, cell in cells.items():
        if suffix:
            refuse(cell, "torch.nn.LSTM", ("weight_hr",))
        else:
            hint = "An LSTM has one: use to_torch(StackedWeights([weights]))"
            refuse(cell, "torch.nn.LSTMCell", (), {"weight_hr": hint})
        state_dict |= {name + suffix: to_tensor(array) for name, array in write(LAYOUTS["torch"], cell).items()}
    return state_dict


def _check_uniform(weights: StackedWeights) -> None:
    """Raise for layers that one torch.nn.LSTM can't have together."""
    refuse_directions(weights, "torch.nn.LSTM")
    if any(weights.residual):
        fail(ValueError, "residual", "False, as torch.nn.LSTM supports nothing else", repr(weights.residual))
    if weights.input_size == 0:
        fail(ValueError, "input_size", "at least 1, as torch.nn.LSTM requires", "0")
    first = weights.layers[0]
    if first.proj_size is not None and first.proj_size >= first.hidden_size:
        wanted = f"fewer rows than N = {first.hidden_size}, as torch.nn.LSTM projects to fewer"
        fail(ValueError, "weight_hr", wanted, str(first.proj_size))
    for index, cell in enumerate(weights.layers):
        for what in ("hidden_size", "proj_size"):
            wanted, got = getattr(first, what), getattr(cell, what)
            if got != wanted:
                fail(ValueError, f"layers[{index}]", f"{what} {wanted}, as torch.nn.LSTM has only one", str(got))
        if (cell.bias is None) != (first.bias is None):
            have = "a bias" if cell.bias is not None else "no bias"
            fail(ValueError, f"layers[{index}]", "a bias in all layers or in none, as in torch.nn.LSTM", have)


def to_tensor(array: NumpyArray) -> Any:
    """Return a CPU tensor that shares the memory of a writeable array."""
    import torch

    if array.dtype.name == "bfloat16":  # which PyTorch does not take from NumPy
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(array)


def _suffix(layer: int, *, backward: bool) -> str:
    """Return the suffix of a layer's parameters in one direction."""
    return f"_l{layer}_reverse" if backward else f"_l{layer}"


def _directions(weights: StackedWeights) -> tuple[bool, ...]:
    """Return, for each direction of a layer, whether it is the backward one."""
    return (False, True) if weights.bidirectional else (False,)
