"""Convert the weights and states of Haiku's hk.LSTM.

Its linear layer has b (4N,) and w (I + N, 4N), with rows [x; h] and columns in the gate order i, g, f, o. The cell adds
1 to the forget gate at every step. Tested against dm-haiku 0.0.17.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from fusedlstm.convert.cells import cell_weights
from fusedlstm.convert.layout import Layout
from fusedlstm.convert.record import Signs, System
from fusedlstm.convert.states import Pairs, from_pairs, to_pairs
from fusedlstm.convert.trees import flatten, names_below, scope_of
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.advice import fail_source
from fusedlstm.validation.arguments import describe_type, fail

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.state import EitherState, LSTMState
    from fusedlstm.weights import LSTMWeights

# The cell has added 1 to f since its first version.
LAYOUTS = {
    "haiku": Layout(gates="igfo", columns=True, weight_ih="w", biases=("b",), has_bias=True, forget_bias=1.0),
}

_OF_A_CELL = re.compile(r"((?:.*/)?lstm(?:_\d+)?)/linear/w")  # as Haiku names modules


@overload
def from_haiku(params: Mapping[Any, Any], prefix: str | None = None) -> LSTMWeights: ...


@overload
def from_haiku(params: Mapping[Any, Any], prefix: list[str] | tuple[str, ...]) -> StackedWeights: ...


def from_haiku(params: Mapping[Any, Any], prefix: str | Sequence[str] | None = None) -> LSTMWeights | StackedWeights:
    """Return the weights of an hk.LSTM, or of several.

    Parameters don't show what surrounds a core: a ResetCore, a residual connection or an initial state.

    Args:
        params: the result of init: {"lstm/linear": {"w": ..., "b": ...}, ...}.
        prefix: the module's name, such as "my_model/~/lstm_1". None finds the only LSTM with Haiku's default name. A
            sequence names layers from the bottom up, such as those of an hk.DeepRNN: ["lstm", "lstm_1"].

    Returns:
        LSTMWeights; StackedWeights if `prefix` is a sequence.

    Raises:
        TypeError: `params` is not a mapping; the arrays' dtypes are mixed or unsupported.
        ValueError: there is no LSTM, or there are several and no prefix (the message lists them); there are arrays that
            an hk.LSTM doesn't have; an array has the wrong shape.
    """
    found, is_one = find(params, prefix)
    cells = [cell_weights(LAYOUTS["haiku"], "params", arrays, scope) for scope, arrays in found]
    return cells[0] if is_one else StackedWeights(cells)


def find(params: Any, prefix: str | Sequence[str] | None) -> tuple[list[tuple[str, dict[str, Any]]], bool]:
    """Return the scope and arrays of each LSTM's linear layer, and whether `prefix` names a single LSTM.

    Raises:
        TypeError, ValueError: as from_haiku.
    """
    if not isinstance(params, Mapping):
        fail_source("params", "a mapping of modules' names to their arrays", params, converts=True)
    flat = flatten("params", params, "/")
    if prefix is None:
        found = sorted(match[1] for name in flat if (match := _OF_A_CELL.fullmatch(name)))
        if len(found) != 1:
            have = f"{len(found)} of them" if found else ", ".join(sorted(flat)[:8]) or "nothing"
            hint = f"Give prefix= one of {', '.join(map(repr, found))}, or a list for layers" if found else ""
            fail(ValueError, "params", "one hk.LSTM with Haiku's default name (lstm, lstm_1, ...)", have, hint)
        prefix = found[0]
    if isinstance(prefix, str):
        return [_linear(flat, prefix)], True
    if not isinstance(prefix, Sequence) or not prefix:
        fail(TypeError, "prefix", "a module's name, a non-empty sequence of names, or None", describe_type(prefix))
    return [_linear(flat, one) for one in prefix], False


def _linear(flat: Mapping[str, Any], prefix: str) -> tuple[str, dict[str, Any]]:
    """Return the scope and the arrays of an LSTM's linear layer."""
    scope = scope_of(prefix, "/")
    if not scope.endswith("linear/"):
        scope += "linear/"
    names = names_below(flat, scope)
    if not names:
        have = ", ".join(sorted(flat)[:8]) or "nothing"
        fail(ValueError, "params", f"an hk.LSTM's {scope + 'w'!r}", have)
    module, second = scope.removesuffix("linear/"), scope.removesuffix("/") + "_1/w"
    beside = names_below(flat, module).values() if module else {second} & set(flat)
    if others := sorted(set(beside) - set(names.values())):
        hint = "A VanillaRNN has two" if second in others else "An hk.LSTM has no other arrays"
        fail(ValueError, "params", "an hk.LSTM, which has one linear layer", ", ".join(map(repr, others[:4])), hint)
    return scope, {name: flat[names[name]] for name in names}


def _haiku_pair(parts: Iterable[Array]) -> Any:
    # Haiku's own class, as JAX requires the carry of a scan to keep its type.
    return importlib.import_module("haiku").LSTMState(*parts)


# LSTMState(hidden, cell), or a tuple of them for a DeepRNN.
PAIRS = Pairs("hc", _haiku_pair)


def state_from_haiku(state: Any, *, dtype: Any = None) -> EitherState:
    """Convert the states (hidden, cell) of Haiku's LSTM to LSTMStates. Sonnet's have the same fields.

    The order is tested against Haiku 0.0.17. Arguments and errors are those of `state_from_flax`.

    Returns:
        An LSTMState, or a tuple of them for several states.
    """
    return from_pairs(state, PAIRS, dtype)


def state_to_haiku(state: LSTMState | Sequence[LSTMState]) -> Any:
    """Convert LSTMStates to states of Haiku's LSTM, in h's dtype.

    Returns:
        Haiku's own LSTMState(hidden, cell), or a tuple of them for several states, as a DeepRNN takes it.

    Raises:
        ImportError: Haiku is not installed.
        TypeError: `state` is neither an LSTMState nor a tuple or list of them; no cell has its dtypes.
        ValueError: `state` is empty; an array is not two-dimensional; batch sizes differ.
    """
    return to_pairs(state, PAIRS)


SYSTEM = System(
    name="haiku",
    layouts=LAYOUTS,
    read=from_haiku,
    others=(state_from_haiku, state_to_haiku),
    source="arrays",
    takes_layers=True,
    signs=Signs(array=r"(.*/)?linear/w"),
    framework="haiku",
    pairs=PAIRS,
)
