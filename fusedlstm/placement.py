"""Placed: what a cell and an LSTM say of the place where they run, and how data gets there."""

from __future__ import annotations

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
    from fusedlstm.backends.base import Backend, CellEngine
    from fusedlstm.owner_states import OwnerStates
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.weights import LSTMWeights


class Placed(Generic[State]):
    """Weights on a backend, and the type of their states."""

    _backend: Backend
    _is_cell: bool  # whose state is one LSTMState, and not a tuple
    _maker: str  # what makes an array of something else, in messages
    _weights: LSTMWeights | StackedWeights

    @property
    def _engines(self) -> Sequence[CellEngine]:
        """The engines of all layers, with the weights that they have by now."""
        raise NotImplementedError

    @property
    def _layers_of_weights(self) -> StackedWeights:
        """The weights as those of layers, which a cell's are one of."""
        raise NotImplementedError

    def _owner_states(self, backend: Backend | None = None, maker: str = "") -> OwnerStates:
        """Return what its states are like, in arrays of another backend where one is given."""
        from fusedlstm.owner_states import OwnerStates

        return OwnerStates(
            self._backend if backend is None else backend,
            self._layers_of_weights,
            is_single=self._is_cell,
            maker=maker or self._maker,
        )

    def _exchanged(self, weights: StackedWeights) -> tuple[CellEngine, ...]:
        """Return the engines with other weights of the same form. If this raises, the engines keep their weights.

        On NumPy these are new engines. On a GPU this overwrites memory that they share with graphs and pools, piece by
        piece. Until all of it is done, steps raise.

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
        """Return whether this thread is in a method of this object, or of a pool or Stepper of it.

        The thread's frames tell, as recording each call would cost time.
        """
        frame: FrameType | None = sys._getframe(3)  # beyond `set_weights`
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

        This is where data moves and is cast; a call of the cell does neither. What has the dtype and
        is there already is returned as it is, or as a view where it is another library's.

        Args:
            x: real numbers.
            dtype: None for the cell's. c of a 16-bit cell takes "float32".

        Raises:
            TypeError: `x` is complex or not numbers, is a tensor that requires grad, or holds more than its numbers,
                such as a masked array.
        """
        check_plain("x", x)
        target = self.dtype if dtype is None else dtypes.resolve(dtype)
        return self._backend.asarray(x, target)


def _with_weights(engines: Sequence[CellEngine], weights: StackedWeights) -> tuple[CellEngine, ...]:
    """Return engines with other weights. If they are overwritten in place, nothing reads them in between."""
    for engine in engines:
        engine.is_whole = False
    others = tuple(engine.with_weights(layer) for engine, layer in zip(engines, weights.layers, strict=True))
    for engine in (*engines, *others):
        engine.is_whole = True
    return others
