"""Classify held-out handwritten digits with an LSTM that was trained in PyTorch.

An image of 8 x 8 pixels is a sequence of 8 rows. All images are stepped as one batch, and each step takes and returns
h and c. `tests/train_digits.py` made the files. NOTICE names the data.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.cell import LSTMCell
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.state import LSTMState

_SECONDS = 0.5  # how long to time steps
_LEAST_ACCURACY = 0.95


@dataclass(frozen=True)
class Result:
    """The demo's results."""

    cell: LSTMCell
    images: int
    rows: int  # of pixels in an image, one for each step
    accuracy: float
    agreeing: int  # predictions equal to PyTorch's
    torch_version: str
    difference: float  # the largest difference of any h from float64
    steps_a_second: float

    @property
    def passed(self) -> bool:
        """Whether accuracy and predictions are as expected on every machine."""
        return self.accuracy > _LEAST_ACCURACY and self.agreeing == self.images

    def __str__(self) -> str:
        rows_a_second = self.steps_a_second * self.images
        return "\n".join(
            (
                f"{self.images} handwritten digits, {self.rows} rows of pixels each, stepped as one batch",
                f"cell                 {self.cell.weights!r}",
                f"backend              {self.cell.backend} ({self.cell.device})",
                f"accuracy             {self.accuracy:.2%} of the held-out images",
                f"agrees with PyTorch  {self.agreeing} of {self.images} predictions "
                f"(stored by torch {self.torch_version})",
                f"largest difference   {self.difference:.1e} of any h from float64",
                f"speed                {self.steps_a_second:,.0f} steps a second of {self.images} rows: "
                f"{rows_a_second / 1e6:.2f} million rows a second",
            )
        )


def run(backend: str | None = None) -> Result:
    """Classify the images on a backend and compare with PyTorch's stored predictions and with float64."""
    files = resources.files("fusedlstm.cli.demo")
    with resources.as_file(files / "digits_lstm.safetensors") as path:
        weights = LSTMWeights.load(path)
    with resources.as_file(files / "digits.npz") as path, np.load(path) as data:
        digits = {name: data[name] for name in data.files}
    pixels = digits["images"] / 16  # 0 to 1
    cell = LSTMCell(weights, backend=backend)
    exact = LSTMCell(weights.astype("float64"), backend="numpy")
    hs, exact_hs = _outputs(cell, pixels), _outputs(exact, pixels)
    logits = hs[-1] @ digits["head_weight"].T + digits["head_bias"]
    predictions = logits.argmax(axis=1)
    return Result(
        cell=cell,
        images=len(pixels),
        rows=pixels.shape[1],
        accuracy=float(np.mean(predictions == digits["labels"])),
        agreeing=int(np.sum(predictions == digits["torch_predictions"])),
        torch_version=str(digits["torch_version"]),
        difference=float(np.abs(hs - exact_hs).max()),
        steps_a_second=_speed(cell, pixels),
    )


def _pass(cell: LSTMCell, x: Any) -> list[LSTMState]:
    """Step through all rows of all images x (B, T, I). Return the state after each step."""
    state = cell.zero_state(len(x))
    states = []
    for t in range(x.shape[1]):
        state = cell(x[:, t], state)
        states.append(state)
    return states


def _outputs(cell: LSTMCell, pixels: NumpyArray) -> NumpyArray:
    """Return every h (T, B, N) in host memory."""
    return np.stack([state.to_numpy().h for state in _pass(cell, cell.asarray(pixels))])


def _speed(cell: LSTMCell, pixels: NumpyArray) -> float:
    """Return steps per second. Each pass copies its result to the host, so a GPU has finished it."""
    x = cell.asarray(pixels)
    passes, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _SECONDS:
        _pass(cell, x)[-1].to_numpy()
        passes += 1
    return float(passes * pixels.shape[1] / elapsed)
