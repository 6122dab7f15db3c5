"""A layer of a module: its description, and its passes in NumPy on the memory of tensors."""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fusedlstm.backends.numpy.recording import Record
from fusedlstm.backends.select import choose
from fusedlstm.backends.sequence_run import SequenceRun
from fusedlstm.stacked import StackedWeights
from fusedlstm.state import LSTMState
from fusedlstm.torch.forms import checked_options
from fusedlstm.validation.sequence import check_range
from fusedlstm.weights import weights_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fusedlstm.arrays.dtypes import NumpyArray


@dataclass(frozen=True)
class Layer:
    """Everything about a layer's call except its tensors.

    Attributes:
        direction: "forward", "backward" or "both".
        arrays: for each direction, the names of the arrays of its `LSTMWeights`.
        options: for each direction, the options of its `LSTMWeights`.
        residual: whether the layer's output is its h plus its input.
        repeats: whether the outputs of idle rows repeat the last ones, instead of being zeros.
        every: the number of steps between checkpoints; None to save the gates and c of every step.
    """

    direction: str
    arrays: tuple[tuple[str, ...], ...]
    options: tuple[dict[str, Any], ...]
    residual: bool = False
    repeats: bool = False
    every: int | None = None

    def to_json(self) -> str:
        """Return the description that `from_json` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    @functools.lru_cache(maxsize=256)
    def from_json(text: str) -> Layer:
        """Return the layer that `to_json` described."""
        parts = json.loads(text)
        arrays = tuple(map(tuple, parts.pop("arrays")))
        options = tuple(map(checked_options, parts.pop("options")))
        return Layer(arrays=arrays, options=options, **parts)

    def weights(self, arrays: Sequence[NumpyArray]) -> StackedWeights:
        """Return weights over arrays, without copies."""
        left, cells = iter(arrays), []
        for names, options in zip(self.arrays, self.options, strict=True):
            cells.append(weights_over({name: next(left) for name in names}, options))
        return StackedWeights(cells, directions=[self.direction], residual=[self.residual])

    def saved_like(self, states: Sequence[Tensor], T: int, B: int) -> list[Tensor]:
        """Return empty tensors like those that a call saves."""
        saved = []
        for h, c, options in zip(states[::2], states[1::2], self.options, strict=True):
            sizes, clips = (c.shape[1], h.shape[1]), options["proj_clip"] is not None
            of = np.dtype(str(c.dtype).removeprefix("torch."))
            for shape, dtype in Record.shapes(sizes, of, T, B, proj_clip=clips, every=self.every):
                saved.append(c.new_empty(shape, dtype=torch.bool if dtype == np.bool_ else c.dtype))
        return saved


class Work:
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
        self._layer, self._dtype, self._backend = layer, xs.dtype, choose("numpy")
        self._arguments = (xs, *states, *weights, *reset_to)
        self._weights = layer.weights([np.ascontiguousarray(_view(each)) for each in weights])
        self._engines = [self._backend.cell_engine(cell, "highest") for cell in self._weights.layers]
        by_time = _view(xs)
        T, B, _ = by_time.shape
        steps = None if lengths is None else _view(lengths)
        if steps is not None:
            check_range(steps, T)
        dtype = by_time.dtype
        self._run = SequenceRun(
            xs=by_time,
            states=_pairs(states),
            outputs=np.empty((T, B, self._weights.output_size), dtype),
            finals=[
                LSTMState(h=np.empty((B, cell.output_size), dtype), c=np.empty((B, cell.hidden_size), dtype))
                for cell in self._weights.layers
            ],
            lengths=steps,
            mask=None if mask is None else _view(mask),
            is_first=None if is_first is None else _view(is_first),
            reset_to=_pairs(reset_to) or None,
            repeats=layer.repeats,
        )

    def forward(self, *, saves: bool) -> list[Tensor]:
        """Do the work of `operator.layer`."""
        run, saved = self._run, []
        if saves:
            engine = self._backend.training_engine(self._weights)
            saved = engine.forward(self._engines, run, every=self._layer.every)
        else:
            self._backend.sequence_engine(self._weights, self._engines).run(self._engines, run)
        results = [_tensor(run.outputs, self._dtype)]
        for final in run.finals:
            results += [_tensor(final.h, self._dtype), torch.from_numpy(final.c)]
        return [*results, *map(torch.from_numpy, saved)]

    def backward(
        self,
        saved: Sequence[Tensor],
        d_outputs: Tensor | None,
        d_finals: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor]:
        """Do the work of `operator.layer_backward`."""
        rest = iter(wanted[1 + len(d_finals) :])
        found = self._backend.training_engine(self._weights).backward(
            self._engines,
            self._run,
            list(map(_view, saved)),
            None if d_outputs is None else _view(d_outputs),
            self._d_finals(d_finals),
            every=self._layer.every,
            wants_xs=wanted[0],
            wants_weights=[any(list(itertools.islice(rest, len(names)))) for names in self._layer.arrays],
        )
        gradients_of_all: list[Any] = [found.xs, *_flat(found.state)]
        for names, gradients in zip(self._layer.arrays, found.weights, strict=True):
            gradients_of_all += [None if gradients is None else getattr(gradients, name) for name in names]
        gradients_of_all += _flat(found.reset_to or ())
        chosen = zip(self._arguments, gradients_of_all, wanted, strict=True)
        return [_tensor(array, argument.dtype) for argument, array, is_wanted in chosen if is_wanted]

    def _d_finals(self, d_finals: Sequence[Tensor | None]) -> list[LSTMState] | None:
        """Return the gradients of the final states, or None if all are zeros."""
        if all(each is None for each in d_finals):
            return None
        finals = _flat(self._run.finals)
        made = [np.zeros_like(f) if d is None else _view(d) for f, d in zip(finals, d_finals, strict=True)]
        return [LSTMState(h=h, c=c) for h, c in zip(made[::2], made[1::2], strict=True)]


def _view(tensor: Tensor) -> NumpyArray:
    """Return the memory of a tensor, in float32 if it has 16 bits."""
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.to(torch.float32)
    array: NumpyArray = tensor.detach().numpy()
    return array


def _tensor(array: NumpyArray, dtype: torch.dtype) -> Tensor:
    """Return a contiguous tensor of this dtype, over the array's memory if possible."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)


def _pairs(tensors: Sequence[Tensor]) -> list[LSTMState]:
    views = list(map(_view, tensors))
    return [LSTMState(h=h, c=c) for h, c in zip(views[::2], views[1::2], strict=True)]


def _flat(states: Sequence[LSTMState]) -> list[NumpyArray]:
    return [part for state in states for part in (state.h, state.c)]
