"""Run a file's LSTM in PyTorch itself."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays.host import to_host
from fusedlstm.convert.torch.files import SavedParameters, open_parameters
from fusedlstm.convert.torch.listing import only_scope
from fusedlstm.convert.torch.parameters import suffix_of
from fusedlstm.convert.torch.parametrizations import Parametrization, parametrization_of
from fusedlstm.convert.torch.scopes import Scopes
from fusedlstm.convert.torch.writing import to_tensor
from fusedlstm.convert.trees import flatten, scope_of
from fusedlstm.stacked import StackedWeights

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.running.steps import Results, States
    from fusedlstm.weights import LSTMWeights


def run(
    source: str | os.PathLike[str],
    name: str | None,
    weights: LSTMWeights | StackedWeights,
    xs: NumpyArray,
    states: States,
    options: Mapping[str, Any],
) -> Results:
    """Return the outputs and final states of a torch.nn.LSTM or LSTMCell that has loaded a file's tensors.

    If the file has the parameters of weight_norm, spectral_norm or pruning, so does the module, and PyTorch computes
    the weights.

    Args:
        source: the file.
        name: the prefix, or None.
        weights: the result of from_torch, for sizes.
        xs: (T, B, I).
        states: (h (B, P), c (B, N)) of each layer and direction.
        options: the other arguments of from_torch: layer, reverse, zoneout.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: the LSTM's layers have zoneout, which PyTorch doesn't have.
    """
    import torch

    tensors, kinds = _tensors(source, name, options)
    cells = weights.layers if isinstance(weights, StackedWeights) else (weights,)
    sizes: dict[str, Any] = {
        "input_size": cells[0].input_size,
        "hidden_size": cells[0].hidden_size,
        "bias": cells[0].bias is not None,
        "dtype": next(iter(tensors.values())).dtype,
    }
    is_cell, zoneout = "weight_ih" in kinds, options.get("zoneout", 0.0)
    if zoneout and not is_cell:
        raise ValueError("a torch.nn.LSTM has no zoneout")
    module: Any
    if is_cell:
        module = torch.nn.LSTMCell(**sizes)
    else:
        bidirectional = isinstance(weights, StackedWeights) and weights.bidirectional
        layers = len(cells) // (2 if bidirectional else 1)
        module = torch.nn.LSTM(
            **sizes, num_layers=layers, bidirectional=bidirectional, proj_size=cells[0].proj_size or 0
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about deprecated functions, and PyTorch's choice of libraries
        for parameter, kind in kinds.items():
            _parametrize(module, parameter, kind, tensors)
        module.load_state_dict(tensors, strict=True)
        module.eval()
        x = _tensor(xs).to(sizes["dtype"])
        h, c = (_tensor(np.stack([state[k] for state in states])).to(sizes["dtype"]) for k in (0, 1))
        with torch.no_grad():
            outputs, h, c = _steps(module, x, h, c, zoneout) if is_cell else _flat(module(x, (h, c)))
    h, c = to_host("h", h), to_host("c", c)
    return to_host("outputs", outputs), list(zip(h, c, strict=True))


def _tensors(
    source: str | os.PathLike[str], name: str | None, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Parametrization]]:
    """Return the file's tensors by their names in a module of that LSTM alone, and each parameter's parametrization."""
    parameters = open_parameters(source)
    scope = only_scope(parameters) if name is None else scope_of(name, ".")
    if isinstance(parameters, SavedParameters) and parameters.is_plain:
        parameters = _loaded(parameters)  # PyTorch reads the file, so that the check shares little with our reader
    layer = options.get("layer")
    end = "" if layer is None else suffix_of(layer, backward=bool(options.get("reverse")))
    tensors, kinds = {}, {}
    for parameter, names in Scopes.of(parameters).parts_of(scope).items():
        kind = parametrization_of(names)
        if kind is None or not parameter.endswith(end):
            continue
        if end and parameter.removesuffix(end) not in ("weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh"):
            continue
        own = parameter.removesuffix(end) + "_l0" if end else parameter  # only that direction of that layer
        kinds[own] = kind
        for part in kind.parts:
            tensors[_own_name(own, part)] = _tensor(parameters[names[part]])
    return tensors, kinds


def _loaded(parameters: SavedParameters) -> Mapping[str, Any]:
    """Return the parameters that PyTorch's safe mode reads from a file that our reader has found harmless."""
    import torch

    with warnings.catch_warnings(), parameters.content.open() as file:
        warnings.simplefilter("ignore")
        return flatten("source", torch.load(file, weights_only=True, map_location="cpu"), ".")


def _own_name(parameter: str, part: str) -> str:
    """Return the name of a part of a parameter in a module's state_dict."""
    if part.startswith("."):
        return f"parametrizations.{parameter}{part}"
    return parameter if part == "_raw" else f"{parameter}{part}"


def _parametrize(module: Any, parameter: str, kind: Parametrization, tensors: Mapping[str, Any]) -> None:
    """Make a module compute a parameter in the same parametrization as the file's."""
    import torch
    from torch.nn.utils import parametrizations, prune

    first = tensors[_own_name(parameter, kind.parts[0])]
    if kind.name == "weight_norm":
        axes = [axis for axis, size in enumerate(first.shape) if size > 1]
        dim = None if first.ndim == 0 else axes[0] if axes else 0
        apply: Any = parametrizations.weight_norm if kind.parts[0].startswith(".") else torch.nn.utils.weight_norm
        apply(module, parameter, dim=dim)
    elif kind.name == "spectral_norm":
        u = tensors[_own_name(parameter, kind.parts[1])]
        apply = parametrizations.spectral_norm if kind.parts[0].startswith(".") else torch.nn.utils.spectral_norm
        apply(module, parameter, dim=0 if len(u) == len(first) else 1)
    elif kind.name == "pruning":
        apply = prune.custom_from_mask
        apply(module, parameter, tensors[_own_name(parameter, "_mask")])


def _tensor(value: Any) -> Any:
    """Return a tensor as it is, or a copy of an array as a tensor, as arrays may be read-only."""
    return value if hasattr(value, "detach") else to_tensor(np.array(value, order="C"))


def _flat(result: Any) -> tuple[Any, Any, Any]:
    outputs, (h, c) = result
    return outputs, h, c


def _steps(cell: Any, xs: Any, hs: Any, cs: Any, zoneout: float) -> tuple[Any, Any, Any]:
    """Run an LSTMCell with zoneout around it, and return results in the form of an LSTM's."""
    import torch

    (h,), (c,), outputs = hs, cs, []
    for x in xs:
        h_new, c_new = cell(x, (h, c))
        h, c = (zoneout * old + (1 - zoneout) * new for old, new in ((h, h_new), (c, c_new)))
        outputs.append(h)
    return torch.stack(outputs), h[None], c[None]
