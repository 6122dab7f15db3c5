"""Compute the weights that PyTorch's modules compute from other parameters, as they are at inference.

The parameters' names tell the parametrization. They can't tell everything: other code may use the same names for
a different formula, and parametrizations without parameters leave no trace in the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays.host import to_host
from fusedlstm.validation.arguments import check_dtype, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fusedlstm.arrays.dtypes import NumpyArray

_PARAMETRIZE = "Weights are computed from these: call torch.nn.utils.parametrize.remove_parametrizations(module, {!r})"
_WEIGHT_NORM = "weight_norm computes weights from these: call torch.nn.utils.remove_weight_norm(module, {!r})"
_SPECTRAL_NORM = "spectral_norm computes weights from these: call torch.nn.utils.remove_spectral_norm(module, {!r})"
_PRUNING = "Pruning computes weights from these: call torch.nn.utils.prune.remove(module, {!r})"
_DROPPED = "weight_raw is the weight of weight dropout: only the dropped copy may stand beside it"


@dataclass(frozen=True)
class Parametrization:
    """One way in which PyTorch or a wrapper stores a weight.

    Attributes:
        name: the name that errors use.
        parts: the suffixes that follow the weight's name; those that begin with "." are below "parametrizations".
        shaped: the part that has the weight's shape.
        compute: a function that takes the parts and returns the weight.
        exact: whether computing in the parts' own dtype gives PyTorch's bits. If not, compute in float64.
    """

    name: str
    parts: tuple[str, ...]
    shaped: str
    compute: Callable[..., NumpyArray]
    exact: bool = False


def _of_weight_norm(g: NumpyArray, v: NumpyArray) -> NumpyArray:
    """Return g v / |v|, where the norm is over the axes that g reduces."""
    if v.ndim != 2 or g.shape not in ((len(v), 1), (1, v.shape[1]), ()):
        raise ValueError(f"magnitudes {g.shape} for directions {v.shape}")
    axes = tuple(axis for axis in (0, 1) if g.ndim == 0 or g.shape[axis] != v.shape[axis])
    if g.shape == v.shape:  # one column, or one row
        axes = ()
    norm = np.sqrt(np.square(v).sum(axis=axes, keepdims=g.ndim > 0))
    return np.asarray(v * (g / norm))


def _of_spectral_norm(weight: NumpyArray, u: NumpyArray, v: NumpyArray) -> NumpyArray:
    """Return W / sigma, where sigma comes from the singular vectors kept for inference."""
    if weight.ndim != 2 or weight.shape[0] == weight.shape[1]:
        raise ValueError(f"weights {weight.shape}, whose shape doesn't tell which axis is dim")
    if (u.shape, v.shape) == (weight.shape[1:], weight.shape[:1]):  # dim=1
        u, v = v, u
    if (u.shape, v.shape) != (weight.shape[:1], weight.shape[1:]):
        raise ValueError(f"vectors {u.shape} and {v.shape} for weights {weight.shape}")
    return np.asarray(weight / (u @ (weight @ v)))


def _of_pruning(weight: NumpyArray, mask: NumpyArray) -> NumpyArray:
    if mask.shape != weight.shape:
        raise ValueError(f"a mask {mask.shape} for weights {weight.shape}")
    return np.asarray(mask.astype(weight.dtype) * weight)


PARAMETRIZATIONS = (
    Parametrization("plain", ("",), "", lambda weight: weight, exact=True),
    Parametrization("weight dropout", ("_raw",), "_raw", lambda weight: weight, exact=True),
    Parametrization("weight_norm", ("_g", "_v"), "_v", _of_weight_norm),
    Parametrization("weight_norm", (".original0", ".original1"), ".original1", _of_weight_norm),
    Parametrization("pruning", ("_orig", "_mask"), "_orig", _of_pruning, exact=True),
    Parametrization("spectral_norm", ("_orig", "_u", "_v"), "_orig", _of_spectral_norm),
    Parametrization("spectral_norm", (".original", ".0._u", ".0._v"), ".original", _of_spectral_norm),
)


def parametrization_of(parts: Collection[str]) -> Parametrization | None:
    """Return the parametrization of a weight with these parts; None if it is unknown.

    If there is a raw weight of weight dropout, its copy is ignored. The wrapper remakes the copy at every call, and a
    copy saved during training has zeros.
    """
    present = {part for part in parts if part or "_raw" not in parts}
    return next((kind for kind in PARAMETRIZATIONS if set(kind.parts) == present), None)


def hint_for(parts: Collection[str], name: str) -> str:
    """Return a hint about parts of an unknown parametrization, given the weight's name in its module."""
    if any(part.startswith(".") for part in parts):
        return _PARAMETRIZE.format(name)
    if "_raw" in parts:
        return _DROPPED
    hint = _WEIGHT_NORM if "_g" in parts else _SPECTRAL_NORM if {"_u", "_v"} & set(parts) else _PRUNING
    return hint.format(name)


def compute(kind: Parametrization, whole: str, parts: dict[str, Any], names: dict[str, str]) -> NumpyArray:
    """Return a weight in its own dtype.

    Args:
        kind: its parametrization.
        whole: its name, for errors.
        parts: the parameters that it is computed from, by the parametrization's parts.
        names: their names, for errors.

    Raises:
        TypeError: parts have different dtypes, or are not numbers.
        ValueError: the parts' shapes don't fit the parametrization.
    """
    arrays = {part: to_host(names[part], _detached(value)) for part, value in parts.items()}
    dtype = arrays[kind.shaped].dtype
    for part, array in arrays.items():
        if part != "_mask":
            check_dtype(names[part], array.dtype, dtype, f"that of {names[kind.shaped]}")
    try:
        with np.errstate(all="ignore"):  # like PyTorch, accept infinities, signalling NaNs and 0 / 0
            given = [arrays[part] if kind.exact else arrays[part].astype(np.float64) for part in kind.parts]
            return kind.compute(*given).astype(dtype, copy=False)
    except ValueError as error:
        fail(
            ValueError, whole, f"parameters of {kind.name}", str(error), hint_for(kind.parts, whole.rpartition(".")[2])
        )


def _detached(tensor: Any) -> Any:
    return tensor.detach() if hasattr(tensor, "detach") else tensor
