"""Compare converted weights with the framework that they come from, on random input."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fusedlstm.convert.running.model import ModelNotRunError, Tapped
from fusedlstm.convert.systems import BY_NAME
from fusedlstm.lstm import LSTM
from fusedlstm.state import LSTMState
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.stacked import StackedWeights

STEPS, ROWS = 6, 3
# The largest difference allowed for outputs and states of order 1. A framework rounds in other places than we do.
_TOLERANCE = {"float64": 1e-11, "float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-1}


_NO_GRAPH = "parameters have no graph"


@dataclass(frozen=True)
class Check:
    """The outcome of a comparison.

    Attributes:
        framework: the name and version of the framework.
        difference: the largest difference; infinite if shapes differ or a number is not finite.
        scale: the framework's largest number.
        tolerance: the difference allowed for numbers of order 1.
        around: why the model around the LSTM was not run; "" if the whole model ran.
    """

    framework: str
    difference: float
    scale: float
    tolerance: float
    around: str = ""

    @property
    def agrees(self) -> bool:
        """Whether all numbers agree. NaN never agrees."""
        return self.difference <= self.tolerance * max(1.0, self.scale)

    def __str__(self) -> str:
        verdict = "agrees" if self.agrees else "DIFFERS"
        how = "the LSTM alone" if self.around else "the whole model, and the LSTM alone"
        text = f"{self.framework} {verdict}: at most {self.difference:.1e} apart in numbers of up to {self.scale:.1e}"
        text = f"{text}, with random input to {how}"
        return f"{text}. The model around the LSTM was not checked: {self.around}" if self.around else text


def check(
    system: str,
    source: Any,
    name: Any,
    weights: LSTMWeights | StackedWeights,
    options: Mapping[str, Any],
    seed: int = 0,
) -> Check:
    """Compare weights with what the framework computes from the source itself.

    A model with a graph runs as a whole on random input, and our LSTM gets the same inputs as its LSTM. For every
    source the LSTM also runs alone, on random inputs and states.

    Args:
        system: the name of the source's system.
        source: what the weights were converted from: a path, or a mapping of arrays.
        name: the LSTM that was chosen there, or None.
        weights: the result.
        options: other arguments of the conversion.
        seed: the seed of the random input.

    Raises:
        ImportError: the framework is not installed.
        ValueError: the framework can't run the LSTM; the message says why.
    """
    framework = BY_NAME[system].framework
    if not framework:
        raise ValueError(f"no framework can run weights of {system}")
    running = importlib.import_module(f"fusedlstm.convert.running.{system}")
    pairs, around = [], _NO_GRAPH
    with _framework_errors(framework):
        pairs += _alone(running, source, name, weights, options, seed)
        if hasattr(running, "run_model"):
            try:
                pairs += _within(running.run_model(source, name, weights, options, seed), weights)
                around = ""
            except ModelNotRunError as error:
                around = str(error)
    if hasattr(running, "framework_of"):
        framework = running.framework_of(source, name, options)
    difference = max(_apart(ours, theirs) for ours, theirs in pairs)
    scale = max(float(np.abs(theirs).max(initial=0)) for _, theirs in pairs)
    return Check(_versioned(framework), difference, scale, _TOLERANCE[weights.dtype.name], around)


@contextlib.contextmanager
def _framework_errors(framework: str) -> Iterator[None]:
    """Turn any error of a framework, such as TensorFlow's for a cell that needs a GPU, into a ValueError."""
    try:
        yield
    except (ImportError, ValueError):
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"{framework} raised {type(error).__name__}: {first}") from error


_Pairs: TypeAlias = "list[tuple[NumpyArray, NumpyArray]]"  # ours and theirs


def _alone(
    running: Any,
    source: Any,
    name: Any,
    weights: LSTMWeights | StackedWeights,
    options: Mapping[str, Any],
    seed: int,
) -> _Pairs:
    """Run the LSTM alone from random states, and return what to compare."""
    xs, states = _inputs(weights, seed)
    outputs, finals = running.run(source, name, weights, xs, states, options)
    return _compared(weights, Tapped(xs, states, None, outputs, finals))


def _within(tapped: Tapped, weights: LSTMWeights | StackedWeights) -> _Pairs:
    """Return what to compare from a run of the whole model."""
    if tapped.outputs is None and all(part is None for final in tapped.finals for part in final):
        raise ModelNotRunError("the model uses none of the LSTM's outputs")
    return _compared(weights, tapped)


def _compared(weights: LSTMWeights | StackedWeights, theirs: Tapped) -> _Pairs:
    lstm = LSTM(weights, backend="numpy")
    wide = lstm.zero_state(0)[0].c.dtype
    states = tuple(LSTMState(h=h.astype(weights.dtype), c=c.astype(wide)) for h, c in theirs.states)
    outputs, finals = lstm(theirs.xs.astype(weights.dtype), states, lengths=theirs.lengths)
    ours = [outputs, *(part for state in finals for part in (state.h, state.c))]
    parts = [theirs.outputs, *(part for final in theirs.finals for part in final)]
    return [
        (np.asarray(a).astype(np.float64), np.asarray(b).astype(np.float64))
        for a, b in zip(ours, parts, strict=True)
        if b is not None
    ]


def _inputs(weights: LSTMWeights | StackedWeights, seed: int) -> tuple[NumpyArray, list[tuple[NumpyArray, NumpyArray]]]:
    """Return inputs (T, B, I) and one state for each layer and direction, random, in the weights' dtype."""
    rng = np.random.default_rng(seed)
    layers = (weights,) if isinstance(weights, LSTMWeights) else weights.layers
    xs = rng.normal(size=(STEPS, ROWS, weights.input_size)).astype(weights.dtype)
    states = [
        (
            rng.uniform(-1, 1, (ROWS, layer.output_size)).astype(weights.dtype),
            rng.normal(size=(ROWS, layer.hidden_size)).astype(weights.dtype),
        )
        for layer in layers
    ]
    return xs, states


def _apart(a: NumpyArray, b: NumpyArray) -> float:
    """Return the largest difference; infinite if shapes differ or it is not finite."""
    if a.shape != b.shape:
        return float("inf")
    difference = float(np.abs(a - b).max(initial=0))
    return difference if np.isfinite(difference) else float("inf")


def _versioned(module: str) -> str:
    version = getattr(importlib.import_module(module), "__version__", "")
    return f"{module} {version}".rstrip()
