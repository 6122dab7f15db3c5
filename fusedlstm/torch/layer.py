"""The passes of a layer on the memory of tensors."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from fusedlstm.backends.numpy.blas import why_threads_are_fixed
from fusedlstm.backends.numpy.thread_limit import at_most
from fusedlstm.layer_call import Layer, LayerArrays, LayerCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fusedlstm.arrays.dtypes import NumpyArray


class TensorCall:
    """A call of an operator, on NumPy views of its tensors. 16-bit tensors are converted to float32.

    The arguments are those of `operator.layer`.
    """

    def __init__(
        self,
        layer: Layer,
        xs: Tensor,
        states: Sequence[Tensor],
        weights: Sequence[Tensor],
        lengths: Tensor | None,
        mask: Tensor | None,
        is_first: Tensor | None,
        reset_to: Sequence[Tensor],
    ) -> None:
        self._dtype, self._arguments = xs.dtype, (xs, *states, *weights, *reset_to)
        lists = (list(map(_view, each)) for each in (states, weights, reset_to))
        flags = (None if each is None else _view(each) for each in (lengths, mask, is_first))
        # Without this, NumPy's threads would crowd processes where torch.set_num_threads says how many to use.
        self._call = LayerCall(layer, LayerArrays(_view(xs), *lists), *flags, threads=_threads())

    def forward(self, *, saves: bool) -> list[Tensor]:
        """Do the work of `operator.layer`."""
        (outputs, *finals), saved = self._call.forward(saves=saves)
        results = [_tensor(outputs, self._dtype)]
        for h, c in zip(finals[::2], finals[1::2], strict=True):
            results += [_tensor(h, self._dtype), torch.from_numpy(c)]
        return [*results, *map(torch.from_numpy, saved)]

    def backward(
        self,
        saved: Sequence[Tensor],
        d_outputs: Tensor | None,
        d_finals: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor]:
        """Do the work of `operator.layer_backward`."""
        d_results = (None if each is None else _view(each) for each in (d_outputs, *d_finals))
        gradients = self._call.backward(list(map(_view, saved)), next(d_results), list(d_results), wanted)
        chosen = zip(self._arguments, gradients, wanted, strict=True)
        return [_tensor(array, argument.dtype) for argument, array, is_wanted in chosen if is_wanted]


def saved_like(layer: Layer, xs: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    """Return empty tensors like those that a call saves."""
    c = states[1]
    sizes = [(h.shape[0], h.shape[1], c.shape[1]) for h, c in zip(states[::2], states[1::2], strict=True)]
    shapes = layer.saved_shapes(xs.shape[0], sizes, np.dtype(str(c.dtype).removeprefix("torch.")))
    return [c.new_empty(shape, dtype=torch.bool if dtype == np.bool_ else c.dtype) for shape, dtype in shapes]


def _threads() -> int | None:
    """Return how many threads a call may use: as many as PyTorch's own. None if NumPy's BLAS has no more anyway."""
    most = torch.get_num_threads()
    own = at_most(None)
    return most if own is not None and most < own and _can_limit() else None


@functools.cache
def _can_limit() -> bool:
    return why_threads_are_fixed() is None


def _view(tensor: Tensor) -> NumpyArray:
    """Return the memory of a tensor, in float32 if it has 16 bits."""
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.to(torch.float32)
    array: NumpyArray = tensor.detach().numpy()
    return array


def _tensor(array: NumpyArray, dtype: torch.dtype) -> Tensor:
    """Return a contiguous tensor of this dtype, over the array's memory if possible."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)
