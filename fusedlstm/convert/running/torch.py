"""What PyTorch itself computes of a file of its parameters."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.convert.torch.files import open_parameters
from fusedlstm.convert.torch.parameters import PARAMETER, only_prefix, to_tensor
from fusedlstm.convert.trees import names_below, scope_of
from fusedlstm.interop import to_host
from fusedlstm.stacked import StackedWeights

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from fusedlstm.convert.running.steps import Results, States
    from fusedlstm.dtypes import NumpyArray
    from fusedlstm.weights import LSTMWeights


def run(
    source: str | os.PathLike[str],
    name: str | None,
    weights: LSTMWeights | StackedWeights,
    xs: NumpyArray,
    states: States,
    options: Mapping[str, Any],
) -> Results:
    """Return the outputs and final states of a torch.nn.LSTM or LSTMCell that has loaded a file's own tensors.

    Args:
        source: the file.
        name: the prefix, or None.
        weights: what from_torch made of it, for sizes.
        xs: (T, B, I).
        states: (h (B, P), c (B, N)) of each layer and direction.
        options: what else went to from_torch: layer, reverse.

    Raises:
        ImportError: PyTorch is not installed.
    """
    import torch

    parameters = open_parameters(source)
    names = names_below(parameters, scope_of(only_prefix(parameters) if name is None else name, "."))
    tensors = {key: _tensor(parameters[whole]) for key, whole in names.items() if PARAMETER.fullmatch(key)}
    layer = options.get("layer")
    if layer is not None:  # that direction of that layer alone
        end = f"_l{layer}_reverse" if options.get("reverse") else f"_l{layer}"
        tensors = {key.removesuffix(end) + "_l0": tensor for key, tensor in tensors.items() if key.endswith(end)}
    cells = weights.layers if isinstance(weights, StackedWeights) else (weights,)
    sizes: dict[str, Any] = {
        "input_size": cells[0].input_size,
        "hidden_size": cells[0].hidden_size,
        "bias": cells[0].bias is not None,
        "dtype": next(iter(tensors.values())).dtype,
    }
    is_cell = "weight_ih" in tensors
    module: Any
    if is_cell:
        module = torch.nn.LSTMCell(**sizes)
    else:
        bidirectional = isinstance(weights, StackedWeights) and weights.bidirectional
        layers = len(cells) // (2 if bidirectional else 1)
        module = torch.nn.LSTM(
            **sizes, num_layers=layers, bidirectional=bidirectional, proj_size=cells[0].proj_size or 0
        )
    module.load_state_dict(tensors, strict=True)
    x = _tensor(xs).to(sizes["dtype"])
    h, c = (_tensor(np.stack([state[k] for state in states])).to(sizes["dtype"]) for k in (0, 1))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which of its libraries PyTorch uses
        outputs, h, c = _steps(module, x, h, c) if is_cell else _flat(module(x, (h, c)))
    h, c = to_host("h", h), to_host("c", c)
    return to_host("outputs", outputs), list(zip(h, c, strict=True))


def _tensor(value: Any) -> Any:
    """Return a tensor of a tensor, or of an array, which may be read-only."""
    return value if hasattr(value, "detach") else to_tensor(np.array(value, order="C"))


def _flat(result: Any) -> tuple[Any, Any, Any]:
    outputs, (h, c) = result
    return outputs, h, c


def _steps(cell: Any, xs: Any, hs: Any, cs: Any) -> tuple[Any, Any, Any]:
    """Return what an LSTMCell gives, a step at a time, in the form of an LSTM."""
    import torch

    (h,), (c,), outputs = hs, cs, []
    for x in xs:
        h, c = cell(x, (h, c))
        outputs.append(h)
    return torch.stack(outputs), h[None], c[None]
