"""How PyTorch's modules keep a weight that they compute of other parameters, and what it is at inference.

A form is told by the names that stand in for the weight's own. Names alone can't tell everything: what other code does
with parameters of the same names, and parametrizations without parameters of their own, leave no trace in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.checks import check_dtype, fail
from fusedlstm.interop import to_host

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fusedlstm.dtypes import NumpyArray

_PARAMETRIZE = "Call torch.nn.utils.parametrize.remove_parametrizations, which computes them"
_WEIGHT_NORM = "weight_norm computes weights of these: call torch.nn.utils.remove_weight_norm"
_OLD = "Weights are computed of these: call prune.remove, or remove_spectral_norm"
_DROPPED = "weight_raw is the weight of weight dropout, beside which there can only be its copy"


@dataclass(frozen=True)
class Form:
    """One way to keep a weight.

    Attributes:
        name: what PyTorch calls it.
        parts: what stands after the weight's name in those of its parts; "." is for one below "parametrizations".
        shaped: the part that has the weight's shape.
        compute: takes the parts, in float64 unless they are the result, and returns the weight.
        exact: whether the parts' own dtype gives PyTorch's own bits.
    """

    name: str
    parts: tuple[str, ...]
    shaped: str
    compute: Callable[..., NumpyArray]
    exact: bool = False


def _of_weight_norm(g: NumpyArray, v: NumpyArray) -> NumpyArray:
    """Return g v / |v|, whose norm is of the axes that g doesn't have."""
    if v.ndim != 2 or g.shape not in ((len(v), 1), (1, v.shape[1]), ()):
        raise ValueError(f"magnitudes {g.shape} of directions {v.shape}")
    axes = tuple(axis for axis in (0, 1) if g.ndim == 0 or g.shape[axis] != v.shape[axis])
    if g.shape == v.shape:  # one column, or one row
        axes = ()
    norm = np.sqrt(np.square(v).sum(axis=axes, keepdims=g.ndim > 0))
    return np.asarray(v * (g / norm))


def _of_spectral_norm(weight: NumpyArray, u: NumpyArray, v: NumpyArray) -> NumpyArray:
    """Return W / sigma, of the singular vectors that were kept for inference."""
    if weight.ndim != 2 or weight.shape[0] == weight.shape[1]:
        raise ValueError(f"weights {weight.shape}, which don't say which axis is dim")
    if (u.shape, v.shape) == (weight.shape[1:], weight.shape[:1]):  # dim=1
        u, v = v, u
    if (u.shape, v.shape) != (weight.shape[:1], weight.shape[1:]):
        raise ValueError(f"vectors {u.shape} and {v.shape} of weights {weight.shape}")
    return np.asarray(weight / (u @ (weight @ v)))


def _of_pruning(weight: NumpyArray, mask: NumpyArray) -> NumpyArray:
    if mask.shape != weight.shape:
        raise ValueError(f"a mask {mask.shape} of weights {weight.shape}")
    return np.asarray(mask.astype(weight.dtype) * weight)


FORMS = (
    Form("plain", ("",), "", lambda weight: weight, exact=True),
    Form("weight dropout", ("_raw",), "_raw", lambda weight: weight, exact=True),
    Form("weight_norm", ("_g", "_v"), "_v", _of_weight_norm),
    Form("weight_norm", (".original0", ".original1"), ".original1", _of_weight_norm),
    Form("pruning", ("_orig", "_mask"), "_orig", _of_pruning, exact=True),
    Form("spectral_norm", ("_orig", "_u", "_v"), "_orig", _of_spectral_norm),
    Form("spectral_norm", (".original", ".0._u", ".0._v"), ".original", _of_spectral_norm),
)


def form_of(parts: Collection[str]) -> Form | None:
    """Return the form of a weight of these parts; None if it is not known.

    Beside the raw weight of weight dropout its copy is not looked at: it was remade at every call, and has zeros in it
    where it was saved while training.
    """
    present = {part for part in parts if part or "_raw" not in parts}
    return next((form for form in FORMS if set(form.parts) == present), None)


def hint_for(parts: Collection[str]) -> str:
    """Return what to do about a weight of parts that are not known."""
    if any(part.startswith(".") for part in parts):
        return _PARAMETRIZE
    if "_raw" in parts:
        return _DROPPED
    return _WEIGHT_NORM if "_g" in parts else _OLD


def compute(form: Form, whole: str, parts: dict[str, Any], names: dict[str, str]) -> NumpyArray:
    """Return a weight in its own dtype.

    Args:
        form: its form.
        whole: its name, for errors.
        parts: the parameters it is computed of, by the form's parts.
        names: their names, for errors.

    Raises:
        TypeError: parts of different dtypes, or not of numbers.
        ValueError: parts whose shapes are not of the form.
    """
    arrays = {part: to_host(names[part], _detached(value)) for part, value in parts.items()}
    dtype = arrays[form.shaped].dtype
    for part, array in arrays.items():
        if part != "_mask":
            check_dtype(names[part], array.dtype, dtype, f"that of {names[form.shaped]}")
    given = [arrays[part] if form.exact else arrays[part].astype(np.float64) for part in form.parts]
    try:
        with np.errstate(all="ignore"):  # of infinities, and of zeros that are divided by zero, as in PyTorch
            return form.compute(*given).astype(dtype, copy=False)
    except ValueError as error:
        fail(ValueError, whole, f"parameters of {form.name}", str(error), hint_for(form.parts))


def _detached(tensor: Any) -> Any:
    return tensor.detach() if hasattr(tensor, "detach") else tensor
