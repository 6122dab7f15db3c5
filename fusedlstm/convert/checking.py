"""Whether converted weights give the numbers of the framework that they come from, on random input."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.lstm import LSTM
from fusedlstm.state import LSTMState
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusedlstm.dtypes import NumpyArray
    from fusedlstm.stacked import StackedWeights

FRAMEWORKS = {
    "equinox": "equinox",
    "flax": "flax",
    "haiku": "haiku",
    "keras": "keras",
    "onnx": "onnxruntime",
    "tf1": "tensorflow",
    "torch": "torch",
}
STEPS, ROWS = 6, 3
# How far outputs and states may be from the framework's, of values of order 1: it rounds elsewhere.
_TOLERANCE = {"float64": 1e-11, "float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-1}


@dataclass(frozen=True)
class Check:
    """The outcome of a comparison: the largest difference, of values as large as `scale`, and what is allowed."""

    framework: str
    difference: float
    scale: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether all numbers agree; NaN never does."""
        return self.difference <= self.tolerance * max(1.0, self.scale)

    def __str__(self) -> str:
        verdict = "agrees" if self.agrees else "DIFFERS"
        rows = f"{STEPS} steps of {ROWS} rows of random numbers"
        return f"{self.framework} {verdict}: at most {self.difference:.1e} apart in {rows} of up to {self.scale:.1e}"


def check(
    system: str,
    source: Any,
    name: Any,
    weights: LSTMWeights | StackedWeights,
    options: Mapping[str, Any],
    seed: int = 0,
) -> Check:
    """Return how far weights are from what the framework computes with the source itself, from random states on.

    Args:
        system: a name of FRAMEWORKS.
        source: what the weights were converted from: a path, or a mapping of arrays.
        name: the LSTM that was chosen there, or None.
        weights: the result.
        options: other arguments of the conversion.
        seed: of the input.

    Raises:
        ImportError: the framework is not installed.
        ValueError: there is none that can run it; the message says why.
    """
    if system not in FRAMEWORKS:
        raise ValueError(f"there is no framework to run weights of {system} with")
    xs, states = _inputs(weights, seed)
    running = importlib.import_module(f"fusedlstm.convert.running.{system}")
    try:
        theirs = _flat(*running.run(source, name, weights, xs, states, options))
    except (ImportError, ValueError):
        raise
    except Exception as error:  # a framework raises what it likes, such as TensorFlow of what wants a GPU
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"{FRAMEWORKS[system]} raised {type(error).__name__}: {first}") from error
    package = running.package(source, name, options) if system == "keras" else FRAMEWORKS[system]
    lstm = LSTM(weights, backend="numpy")
    wide = lstm.zero_state(0)[0].c.dtype
    outputs, finals = lstm(xs, tuple(LSTMState(h=h, c=c.astype(wide)) for h, c in states))
    ours = _flat(outputs, [(state.h, state.c) for state in finals])
    differences = [_apart(a, b) for a, b in zip(ours, theirs, strict=True)]
    scale = max(float(np.abs(a).max(initial=0)) for a in theirs)
    return Check(_versioned(package), max(differences), scale, _TOLERANCE[weights.dtype.name])


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


def _flat(outputs: NumpyArray, states: Sequence[tuple[NumpyArray, NumpyArray]]) -> list[NumpyArray]:
    return [np.asarray(a).astype(np.float64) for a in (outputs, *(part for state in states for part in state))]


def _apart(a: NumpyArray, b: NumpyArray) -> float:
    """Return the largest difference, infinite where shapes differ or one is no number."""
    if a.shape != b.shape:
        return float("inf")
    difference = float(np.abs(a - b).max(initial=0))
    return difference if np.isfinite(difference) else float("inf")


def _versioned(module: str) -> str:
    version = getattr(importlib.import_module(module), "__version__", "")
    return f"{module} {version}".rstrip()
