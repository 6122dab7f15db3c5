"""Compare the objects of the package with the formula: one function for each kind of check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.arrays.host import to_host
from fusedlstm.backends.kernel_choice import SCAN
from fusedlstm.cell import LSTMCell
from fusedlstm.lstm import LSTM
from fusedlstm.pool import StatePool
from fusedlstm.selftest import reference
from fusedlstm.selftest.arithmetics import ARITHMETICS
from fusedlstm.selftest.cells import weights_of
from fusedlstm.selftest.checks import NUMPY
from fusedlstm.selftest.comparison import Comparison
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.selftest.checks import Check
    from fusedlstm.selftest.reference import Pair

_STEPS = 5  # of a sequence: a GPU takes four in one graph, and then one
_SEVERAL = 3.0  # the tolerance of several steps or layers, as a multiple of that of one


def run(check: Check) -> Comparison:
    """Run a check, and return its comparisons with the formula."""
    return {"cell": _cell, "sequence": _sequence, "stepper": _stepper, "pool": _pool}[check.kind](_Case(check))


class _Case:
    """A check's owner, and random inputs for it."""

    def __init__(self, check: Check) -> None:
        self.B, self.check, self.arithmetic = check.B, check, ARITHMETICS[check.arithmetic]
        self._rng = np.random.default_rng(0)
        weights = weights_of(check.form, self.arithmetic.dtype)
        self.is_cell = check.kind != "sequence" and not hasattr(weights, "layers")
        kernel = None if check.kernel == NUMPY else check.kernel
        make: Any = LSTMCell if self.is_cell else LSTM
        options = {"backend": check.device, "precision": self.arithmetic.precision, "kernel": kernel}
        self.owner: Any = make(weights, **options)
        self.weights = self.owner._layers_of_weights

    def x(self, *shape: int) -> NumpyArray:
        """Return random inputs, rounded to the dtype."""
        return self._rng.uniform(-1, 1, (*shape, self.weights.input_size)).astype(self.owner.dtype)

    def flags(self, *shape: int) -> NumpyArray:
        """Return flags of which about a third are set."""
        return self._rng.random(shape) < 0.3

    def integers(self, high: int) -> NumpyArray:
        """Return an integer from 0 to `high` for each row."""
        return self._rng.integers(0, high + 1, self.B)

    def shuffled(self, values: NumpyArray) -> NumpyArray:
        """Return the values in a random order."""
        return self._rng.permutation(values)

    def states(self, rows: int) -> list[LSTMState]:
        """Return random states of all layers, in host memory."""
        dtype = self.owner.dtype
        return [
            LSTMState(
                h=self._rng.uniform(-1, 1, (rows, layer.output_size)).astype(dtype),
                c=self._rng.uniform(-1, 1, (rows, layer.hidden_size)).astype(dtypes.state_dtype(dtype)),
            )
            for layer in self.weights.layers
        ]

    def resets(self) -> list[LSTMState] | None:
        """Return the states of one row to reset to; None for zeros."""
        return self.states(1) if self.check.to_state else None

    def given(self, states: Sequence[LSTMState] | None, *, host: bool = False) -> Any:
        """Return states as the owner takes them, on its device unless `host` is set."""
        if states is None:
            return None
        asarray = self.owner.asarray
        if not host:
            states = [LSTMState(h=asarray(each.h), c=asarray(each.c, each.c.dtype)) for each in states]
        return states[0] if self.is_cell else tuple(states)

    def taken(self, states: Any) -> list[LSTMState]:
        """Return the owner's states as a list."""
        return [states] if self.is_cell else list(states)

    def comparison(self) -> Comparison:
        """Return a new comparison."""
        several = self.check.kind == "sequence" or len(self.weights.layers) > 1
        return Comparison(self.arithmetic, _SEVERAL if several else 1)


def _pairs(states: Sequence[LSTMState]) -> list[Pair]:
    """Return copies in host memory, as a step may overwrite a state."""
    return [(np.array(to_host("h", state.h)), np.array(to_host("c", state.c))) for state in states]


def _cell(case: _Case) -> Comparison:
    """Step without resets, and then with resets, writing c in place."""
    found, resets = case.comparison(), case.resets()
    state = case.given(case.states(case.B))
    for is_first in (None, case.flags(case.B), case.flags(case.B)):
        x, before = case.x(case.B), _pairs([state])
        options: dict[str, Any] = {}
        if is_first is not None:
            out = LSTMState(h=case.owner.zero_state(case.B).h, c=state.c)
            options = {"is_first": is_first, "reset_to": case.given(resets), "out": out}
        state = case.owner(case.owner.asarray(x), state, **options)
        reset_pairs = None if resets is None else _pairs(resets)
        found.add_states([state], reference.step(case.weights, x, before, is_first, reset_pairs)[1])
    return found


def _sequence(case: _Case) -> Comparison:
    """Run whole sequences, and take one step. Then run sequences of several lengths, in a call and in a Sequencer.

    If there is one direction, these have resets. The Sequencer repeats the last outputs of rows that end.
    """
    found, resets, states = case.comparison(), case.resets(), case.states(case.B)
    xs, lengths = case.x(_STEPS, case.B), case.integers(_STEPS)
    is_first = case.flags(_STEPS, case.B) if case.weights.is_causal else None
    if case.check.kernel == SCAN and set(kernels := case.owner.kernels(_STEPS, case.B)) != {SCAN}:
        raise AssertionError(f"the LSTM has kernels {kernels} instead of {SCAN}")
    _whole_sequence(case, found, xs, states)
    options = {"lengths": lengths, "is_first": is_first, "reset_to": case.given(resets)}
    outputs, finals = case.owner(case.owner.asarray(xs), case.given(states), **options)
    reset_pairs = None if resets is None else _pairs(resets)
    wanted, pairs = reference.sequence(case.weights, xs, _pairs(states), lengths, is_first, reset_pairs)
    found.add(outputs, wanted)
    found.add_states(finals, pairs)
    _every_state(case, found, xs, states, options, outputs_and_finals=(wanted, pairs))
    flags = {} if is_first is None else {"is_first": is_first}
    about = {"lengths": True, "is_first": bool(flags), "reset_to": options["reset_to"] if flags else None}
    sequencer = case.owner.sequencer(_STEPS, case.B, masked_outputs="last", **about)
    sequencer.write(case.given(states))
    repeated = _repeated(wanted, lengths, case.weights.layers[-1].output_size)
    found.add(sequencer.run(case.owner.asarray(xs), lengths=lengths, **flags), repeated)
    found.add_states(case.taken(sequencer.read()), pairs)
    return found


def _whole_sequence(case: _Case, found: Comparison, xs: NumpyArray, states: Sequence[LSTMState]) -> None:
    """Take all steps without resets, and the first step alone if there is one direction."""
    outputs, finals = case.owner(case.owner.asarray(xs), case.given(states))
    wanted, pairs = reference.sequence(case.weights, xs, _pairs(states), np.full(case.B, _STEPS), None, None)
    found.add(outputs, wanted)
    found.add_states(finals, pairs)
    _every_state(case, found, xs, states, {}, outputs_and_finals=(wanted, pairs))
    if case.weights.is_causal:
        output, finals = case.owner.step(case.owner.asarray(xs[0]), case.given(states))
        wanted, pairs = reference.step(case.weights, xs[0], _pairs(states), None, None)
        found.add(output, wanted)
        found.add_states(finals, pairs)


def _every_state(
    case: _Case,
    found: Comparison,
    xs: NumpyArray,
    states: Sequence[LSTMState],
    options: dict[str, Any],
    *,
    outputs_and_finals: tuple[NumpyArray, list[Pair]],
) -> None:
    """Run a sequence that returns the state after every step, too. The one after the last step is the final state."""
    wanted, pairs = outputs_and_finals
    outputs, finals, cells = case.owner(case.owner.asarray(xs), case.given(states), **options, cells=True)
    found.add(outputs, wanted)
    found.add_states(finals, pairs)
    lasts = [0 if backward else -1 for backward in case.weights.backward]
    found.add_states([LSTMState(h=each.h[t], c=each.c[t]) for each, t in zip(cells, lasts, strict=True)], pairs)


def _repeated(outputs: NumpyArray, lengths: NumpyArray, P: int) -> NumpyArray:
    """Return outputs of which the forward direction's last ones are repeated. A backward direction ends with none."""
    outputs = outputs.copy()
    for row, length in enumerate(lengths):
        if length:
            outputs[length:, row, :P] = outputs[length - 1, row, :P]
    return outputs


def _stepper(case: _Case) -> Comparison:
    """Step without flags, with them, and after a `write`."""
    found, resets, host = case.comparison(), case.resets(), case.check.host
    stepper = case.owner.stepper(case.B, reset_to=case.given(resets), host=host)
    if case.check.kernel not in stepper.kernels:
        raise AssertionError(f"the Stepper has kernels {stepper.kernels} instead of {case.check.kernel}")
    reset_pairs = None if resets is None else _pairs(resets)
    for is_first in (None, case.flags(case.B), None, case.flags(case.B)):
        x, before = case.x(case.B), _pairs(case.taken(stepper.read()))
        output = stepper.step(x if host else case.owner.asarray(x), is_first)
        wanted, states = reference.step(case.weights, x, before, is_first, reset_pairs)
        found.add(output, wanted)
        found.add_states(case.taken(stepper.read()), states)
        if is_first is not None:
            stepper.write(case.given(case.states(case.B), host=host))
    return found


def _pool(case: _Case) -> Comparison:
    """Step shuffled slots with padding rows, without and with flags, and look at all slots."""
    found, asarray = case.comparison(), case.owner.asarray
    pool: Any = StatePool(case.owner, capacity=case.B + 9)
    pool.prepare(case.B)
    live = pool.allocate(case.B + 3)
    pool.release(live[:1])
    live = live[1:]
    pool.write(live, case.given(case.states(len(live))))
    for is_first in (None, case.flags(case.B), None):
        slots = case.shuffled(live)[: case.B]
        slots[case.flags(case.B)] = -1
        x, before = case.x(case.B), _pairs(case.taken(pool.read(live)))
        on_device = case.owner._backend.asarray(slots, np.dtype(np.int64))
        output = pool.step(asarray(x), slots if case.check.host else on_device, is_first=is_first, strict=True)
        stepped = np.flatnonzero(slots >= 0)
        places = np.searchsorted(np.sort(live), slots[stepped])
        order = np.argsort(live)[places]
        rows = [(h[order], c[order]) for h, c in before]
        flags = None if is_first is None else is_first[stepped]
        outputs, states = reference.step(case.weights, x[stepped], rows, flags, None)
        wanted = np.zeros((case.B, case.weights.output_size))
        wanted[stepped] = outputs
        found.add(output, wanted)
        after = [(h.astype(np.float64), c.astype(np.float64)) for h, c in before]
        for (h, c), (new_h, new_c) in zip(after, states, strict=True):
            h[order], c[order] = new_h, new_c
        found.add_states(case.taken(pool.read(live)), after)
    return found
