"""Step trained LSTMs on many live sequences, on GPUs and in NumPy.

An LSTMCell or an LSTM takes weights, and steps states that you pass.

Weights, from a file or from another framework

    convert          importers by framework: see help(fusedlstm.convert)
    load_weights     read either class of weights from a file
    LSTMWeights      the arrays and options of one cell, for an LSTMCell
    StackedWeights   layers and directions of LSTMWeights, for an LSTM

Stepping

    LSTMCell         one cell: a call takes x and a state, returns a state
    LSTM             layers and directions, through sequences or by steps
    Stepper          a fixed batch in place; cell.stepper(B) makes one
    Sequencer        sequences in place; lstm.sequencer(T, B) makes one
    StatePool        sessions that come and go, of an LSTMCell or an LSTM
    lstm_pointwise   the rest of a step after a matmul of your own
    benchmark        time your steps on this machine, beside other libraries

Training on NumPy, with lstm.vjp and cell.vjp

    LSTMPullback     the backward pass of a call, which lstm.vjp returns
    LSTMGradients    what it returns: gradients of all that the call read
    CellPullback     the backward pass of a step, which cell.vjp returns
    CellGradients    what it returns
    WeightGradients  the gradients of one LSTMWeights, under its names

States, which you pass to a step and get back

    LSTMState        h and c of a cell, by name; for an LSTM a tuple of them
    pack_state       put h and c into one array, in the order that you name
    unpack_state     the reverse of pack_state
    stack_states     put the states of all layers into one, as PyTorch does
    unstack_states   the reverse of stack_states

Backends and errors

    available_backends        the backends that run here, cuda first
    BackendUnavailableError   the backend that you named can't run here
    OtherWeightsWarning       a StatePool loads states of other weights
    PoolFullError             a StatePool has too few free slots
    WeightsFileError          a file can't be used, such as a damaged one
"""

import fusedlstm.cli.interrupts  # noqa: F401

# isort: split
from typing import TYPE_CHECKING, Any

from fusedlstm.backends.select import available_backends
from fusedlstm.cell import LSTMCell
from fusedlstm.errors import BackendUnavailableError, OtherWeightsWarning, PoolFullError, WeightsFileError
from fusedlstm.gradients import CellGradients, LSTMGradients, WeightGradients
from fusedlstm.help_text import break_signatures
from fusedlstm.lstm import LSTM
from fusedlstm.packing import pack_state, stack_states, unpack_state, unstack_states
from fusedlstm.pointwise import lstm_pointwise
from fusedlstm.pool import StatePool
from fusedlstm.pullback import CellPullback, LSTMPullback
from fusedlstm.sequencer import Sequencer
from fusedlstm.stacked import StackedWeights, load_weights
from fusedlstm.state import LSTMState
from fusedlstm.stepper import Stepper
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm import convert
    from fusedlstm.bench.running import benchmark

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "BackendUnavailableError",
    "CellGradients",
    "CellPullback",
    "LSTMCell",
    "LSTMGradients",
    "LSTMPullback",
    "LSTMState",
    "LSTMWeights",
    "OtherWeightsWarning",
    "PoolFullError",
    "Sequencer",
    "StackedWeights",
    "StatePool",
    "Stepper",
    "WeightGradients",
    "WeightsFileError",
    "__version__",
    "available_backends",
    "benchmark",
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
    """Import fusedlstm.convert and fusedlstm.benchmark on first use, because most programs don't need them."""
    if name == "convert":
        import importlib

        return importlib.import_module("fusedlstm.convert")
    if name == "benchmark":
        from fusedlstm.bench.running import benchmark

        break_signatures([benchmark])
        return globals().setdefault(name, benchmark)
    raise AttributeError(f"module 'fusedlstm' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Include `convert` and `benchmark` before their import."""
    return sorted({*globals(), *__all__})
