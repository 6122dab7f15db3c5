"""A layer's call as the autograd of another framework makes it: described by a str, and run on NumPy arrays.

Frameworks carry flat arrays, and a str with everything else about the layer. What the backward pass needs is one more
list of arrays, whose shapes are known before the call.
"""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fusedlstm.backends.select import choose
from fusedlstm.backends.sequence_run import SequenceRun
from fusedlstm.stacked import StackedWeights
from fusedlstm.state import LSTMState
from fusedlstm.validation.sequence import check_range
from fusedlstm.weights import checked_options, weights_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray


@dataclass(frozen=True)
class Layer:
    """Everything about a layer's call except its arrays.

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

    def saved_shapes(
        self, T: int, sizes: Sequence[tuple[int, int, int]], dtype: np.dtype[Any]
    ) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the shape and dtype of each array that a call saves.

        Args:
            T: the number of steps.
            sizes: B, P and N of each direction.
            dtype: the dtype of the arithmetic.
        """
        backend, shapes = choose("numpy"), []
        for (B, P, N), options in zip(sizes, self.options, strict=True):
            clips = options["proj_clip"] is not None
            shapes += backend.training_shapes((N, P), dtype, T, B, proj_clip=clips, every=self.every)
        return shapes


class LayerArrays(NamedTuple):
    """The arrays of a layer's call, of any framework.

    Attributes:
        xs: (T, B, I).
        states: h (B, P) and c (B, N) of each direction, in turn.
        weights: the arrays of each direction's `LSTMWeights`, in the order of `Layer.arrays`.
        reset_to: as `states`, of one row or B. Empty for zeros.
    """

    xs: Any
    states: Sequence[Any]
    weights: Sequence[Any]
    reset_to: Sequence[Any]


class LayerCall:
    """A call of a layer on arrays of one dtype, float32 or float64. They are read in place.

    Args:
        layer: the layer.
        arrays: NumPy arrays, in any order of memory.
        lengths: (B,) integers, or None.
        mask: (T, B) booleans, or None.
        is_first: (T, B) booleans, or None.
        threads: the most threads, if their number can be set; None for as many as NumPy's BLAS has.

    Raises:
        ValueError: a length is not from 0 to T.
    """

    def __init__(
        self,
        layer: Layer,
        arrays: LayerArrays,
        lengths: NumpyArray | None,
        mask: NumpyArray | None,
        is_first: NumpyArray | None,
        *,
        threads: int | None = None,
    ) -> None:
        self._layer, self._backend = layer, choose("numpy")
        self._weights = layer.weights([np.ascontiguousarray(each) for each in arrays.weights])
        self._engines = [self._backend.cell_engine(cell, "highest", threads=threads) for cell in self._weights.layers]
        T, B, _ = arrays.xs.shape
        if lengths is not None:
            check_range(lengths, T)
        dtype = arrays.xs.dtype
        self._run = SequenceRun(
            xs=arrays.xs,
            states=_states(arrays.states),
            outputs=np.empty((T, B, self._weights.output_size), dtype),
            finals=[
                LSTMState(h=np.empty((B, cell.output_size), dtype), c=np.empty((B, cell.hidden_size), dtype))
                for cell in self._weights.layers
            ],
            lengths=lengths,
            mask=mask,
            is_first=is_first,
            reset_to=_states(arrays.reset_to) or None,
            repeats=layer.repeats,
        )

    def forward(self, *, saves: bool) -> tuple[list[NumpyArray], list[NumpyArray]]:
        """Return the results, and what the backward pass needs if `saves` is set, in new arrays.

        The results are the outputs (T, B, width), and the final h and c of each direction.
        """
        run, saved = self._run, []
        if saves:
            engine = self._backend.training_engine(self._weights)
            saved = engine.forward(self._engines, run, every=self._layer.every)
        else:
            self._backend.sequence_engine(self._weights, self._engines).run(self._engines, run)
        return [run.outputs, *_flat(run.finals)], saved

    def backward(
        self,
        saved: Sequence[NumpyArray],
        d_outputs: NumpyArray | None,
        d_finals: Sequence[NumpyArray | None],
        wanted: Sequence[bool],
    ) -> list[Any]:
        """Return the gradients of xs, the states, the weights and reset_to, in new arrays.

        Args:
            saved: what `forward` saved.
            d_outputs: the gradient of the outputs, or None for zeros.
            d_finals: the gradients of h and c of each direction, or None for zeros.
            wanted: whether each gradient is wanted. Those of xs and of a direction's weights that aren't are None.
        """
        of_weights = iter(wanted[1 + len(d_finals) :])
        found = self._backend.training_engine(self._weights).backward(
            self._engines,
            self._run,
            saved,
            d_outputs,
            self._d_finals(d_finals),
            every=self._layer.every,
            wants_xs=wanted[0],
            wants_weights=[any(list(itertools.islice(of_weights, len(names)))) for names in self._layer.arrays],
        )
        gradients: list[Any] = [found.xs, *_flat(found.state)]
        for names, of_cell in zip(self._layer.arrays, found.weights, strict=True):
            gradients += [None if of_cell is None else getattr(of_cell, name) for name in names]
        return gradients + _flat(found.reset_to or ())

    def _d_finals(self, d_finals: Sequence[NumpyArray | None]) -> list[LSTMState] | None:
        """Return the gradients of the final states, or None if all are zeros."""
        if all(each is None for each in d_finals):
            return None
        finals = _flat(self._run.finals)
        return _states([np.zeros_like(f) if d is None else d for f, d in zip(finals, d_finals, strict=True)])


def _states(arrays: Sequence[NumpyArray]) -> list[LSTMState]:
    return [LSTMState(h=h, c=c) for h, c in zip(arrays[::2], arrays[1::2], strict=True)]


def _flat(states: Sequence[LSTMState]) -> list[NumpyArray]:
    return [part for state in states for part in (state.h, state.c)]
