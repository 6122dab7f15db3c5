"""OnBackend: what a cell and an LSTM say of the place where they run, and how data gets there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm import dtypes
from fusedlstm.subclasses import check_plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    import numpy as np

    from fusedlstm.backends import Backend, StepPlan
    from fusedlstm.dtypes import Array
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.state_form import StateForm
    from fusedlstm.stepper import Stepper
    from fusedlstm.weights import LSTMWeights


class OnBackend:
    """Weights on a backend."""

    _backend: Backend
    _is_cell: bool  # whose state is one LSTMState, and not a tuple
    _maker: str  # what makes an array of something else, in messages
    _weights: LSTMWeights | StackedWeights

    @property
    def _plans(self) -> Sequence[StepPlan]:
        """The plans of all layers, with the weights that they have by now."""
        raise NotImplementedError

    @property
    def _layers_of_weights(self) -> StackedWeights:
        """The weights as those of layers, which a cell's are one of."""
        raise NotImplementedError

    def _state_form(self, backend: Backend | None = None, maker: str = "") -> StateForm:
        """Return what its states are like, in arrays of another backend where one is given."""
        from fusedlstm.state_form import StateForm

        return StateForm(
            self._backend if backend is None else backend,
            self._layers_of_weights,
            is_single=self._is_cell,
            maker=maker or self._maker,
        )

    def stepper(self, batch: int, *, reset_to: Any = None, host: bool = False, like: Any = None) -> Stepper:
        """Return a Stepper: a batch of B rows in buffers of their own, for steps that cost nothing but their work.

        Arguments and errors are `Stepper`'s.
        """
        from fusedlstm.stepper import Stepper

        return Stepper(self, batch, reset_to=reset_to, host=host, like=like)

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
            TypeError: complex numbers, no numbers, a tensor that requires grad, or a masked array or another one that
                means more than its numbers.
        """
        check_plain("x", x)
        target = self.dtype if dtype is None else dtypes.resolve(dtype)
        return self._backend.asarray(x, target)
