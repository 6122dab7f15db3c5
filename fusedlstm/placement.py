"""Placed: the base of a cell and an LSTM, with their backend and device."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, Generic

from fusedlstm.arrays import dtypes
from fusedlstm.state import State
from fusedlstm.validation.subclasses import check_plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType, ModuleType

    import numpy as np

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.base import Backend, CellEngine, TrainingEngine
    from fusedlstm.owner_states import OwnerStates
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.weights import LSTMWeights


class Placed(Generic[State]):
    """Weights on a backend: the base of LSTMCell and LSTM."""

    _backend: Backend
    _is_cell: bool  # a cell's state is one LSTMState, not a tuple
    _maker: str  # the name of the function that makes arrays, for messages
    _weights: LSTMWeights | StackedWeights

    @property
    def _engines(self) -> Sequence[CellEngine]:
        """The engines of all layers, with their current weights."""
        raise NotImplementedError

    @property
    def _layers_of_weights(self) -> StackedWeights:
        """The weights of all layers. A cell is one layer."""
        raise NotImplementedError

    @functools.cached_property
    def _training(self) -> TrainingEngine:
        """The engine for gradients. It keeps its memory between calls.

        Raises:
            NotImplementedError: the backend has none.
        """
        return self._backend.training_engine(self._layers_of_weights)

    def _owner_states(self, backend: Backend | None = None, maker: str = "") -> OwnerStates:
        """Return the OwnerStates of this object, for arrays of `backend` if it is given."""
        from fusedlstm.owner_states import OwnerStates

        return OwnerStates(
            self._backend if backend is None else backend,
            self._layers_of_weights,
            is_single=self._is_cell,
            maker=maker or self._maker,
        )

    def _exchanged(self, weights: StackedWeights) -> tuple[CellEngine, ...]:
        """Return engines with other weights of the same form. If this raises, the engines keep their weights.

        NumPy makes new engines. On a GPU this overwrites, piece by piece, memory that graphs and pools share. Steps
        raise until all pieces are written.

        Raises:
            RuntimeError: on a GPU, this thread is in the middle of a call that reads the weights.
        """
        engines, old = self._engines, self._layers_of_weights
        if self._backend.name != "numpy" and self._is_in_a_call():
            raise RuntimeError(
                f"this {type(self).__name__} is in the middle of a call in this thread, and a signal handler, a "
                "finalizer or a callback called set_weights: on a GPU that overwrites weights, so call it afterwards"
            )
        try:
            return _with_weights(engines, weights)
        except BaseException:
            _with_weights(engines, old)
            raise

    def _is_in_a_call(self) -> bool:
        """Return whether this thread is in a method of this object, or of one of its pools or Steppers.

        This looks at the thread's frames, because recording each call would cost time.
        """
        frame: FrameType | None = sys._getframe(3)  # the caller of `set_weights`
        while frame is not None:
            if frame.f_globals.get("__name__", "").startswith("fusedlstm."):
                user = frame.f_locals.get("self")
                if self in (user, getattr(user, "_cell", None), getattr(user, "_owner", None)):
                    return True
            frame = frame.f_back
        return False

    @property
    def backend(self) -> str:
        """ "numpy" or "cuda"."""
        return self._backend.name

    @property
    def device(self) -> str:
        """ "cpu", "cuda:0", ..."""
        return self._backend.device

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of x and h."""
        return self._weights.dtype

    @property
    def xp(self) -> ModuleType:
        """The module of the backend's arrays, numpy or cupy, for code that runs on both."""
        return self._backend.xp

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return `x` (an array of any library, or lists of numbers) as an array on this device.

        No other method moves or casts x or a state. An array with the right dtype and device is returned unchanged, or
        as a view if it belongs to another library.

        Args:
            x: real numbers.
            dtype: the array's dtype; None for that of the weights. For c beside 16-bit weights, use "float32".

        Raises:
            TypeError: `x` is complex or not numeric, requires grad, or holds more than numbers, such as a masked array.
        """
        check_plain("x", x)
        target = self.dtype if dtype is None else dtypes.resolve(dtype)
        return self._backend.asarray(x, target)


def _with_weights(engines: Sequence[CellEngine], weights: StackedWeights) -> tuple[CellEngine, ...]:
    """Return engines with other weights. Nothing may read weights while they are overwritten in place."""
    for engine in engines:
        engine.is_whole = False
    others = tuple(engine.with_weights(layer) for engine, layer in zip(engines, weights.layers, strict=True))
    for engine in (*engines, *others):
        engine.is_whole = True
    return others
