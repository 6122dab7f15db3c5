"""fusedlstm: step trained LSTMs on many live sequences, on NVIDIA GPUs and in NumPy."""

from typing import TYPE_CHECKING, Any

import fusedlstm.cli.interrupts  # noqa: F401
from fusedlstm.backends.select import available_backends
from fusedlstm.cell import LSTMCell
from fusedlstm.errors import BackendUnavailableError, PoolFullError, WeightsFileError
from fusedlstm.help_text import break_signatures
from fusedlstm.lstm import LSTM
from fusedlstm.packing import pack_state, stack_states, unpack_state, unstack_states
from fusedlstm.pointwise import lstm_pointwise
from fusedlstm.pool import StatePool
from fusedlstm.stacked import StackedWeights, load_weights
from fusedlstm.state import LSTMState
from fusedlstm.stepper import Stepper
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm import convert

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "BackendUnavailableError",
    "LSTMCell",
    "LSTMState",
    "LSTMWeights",
    "PoolFullError",
    "StackedWeights",
    "StatePool",
    "Stepper",
    "WeightsFileError",
    "__version__",
    "available_backends",
    "convert",
    "load_weights",
    "lstm_pointwise",
    "pack_state",
    "stack_states",
    "unpack_state",
    "unstack_states",
]

break_signatures(globals().get(name) for name in __all__)


def __getattr__(name: str) -> Any:
    """Import fusedlstm.convert when it is first asked for: most programs have their weights."""
    if name == "convert":
        import importlib

        return importlib.import_module("fusedlstm.convert")
    raise AttributeError(f"module 'fusedlstm' has no attribute {name!r}")
