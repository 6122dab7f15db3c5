"""Cases of hints, and the objects that they share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, StackedWeights, StatePool

I, N, T, B = 3, 4, 5, 2
FOLDER: dict[str, Path] = {}  # a temporary folder for each case


@dataclass
class Case:
    """A message with a hint, and a call that follows it.

    Attributes:
        gives: a call that raises the message, logs it, or returns it.
        does: a call that does what the message says.
        needs: a package that both need.
    """

    gives: Callable[[], Any]
    does: Callable[[], Any]
    needs: str = ""


def weights(**options):
    return LSTMWeights.random(I, N, seed=0, **options)


def layers(count=1, **options):
    return StackedWeights.random(I, N, count, seed=0, **options)


def cell(**options):
    return LSTMCell(weights(**options), backend="numpy")


def lstm(count=1, **options):
    return LSTM(layers(count, **options), backend="numpy")


def x(dtype="f"):
    return np.zeros((B, I), dtype)


def xs(dtype="f"):
    return np.zeros((T, B, I), dtype)


def state():
    return cell().zero_state(B)


def pairs():
    return lstm(2).zero_state(B)


def attempt(call):
    """Return the message of the error that a call raises."""
    with pytest.raises(Exception) as caught:
        call()
    return str(caught.value)


def pool():
    return StatePool(cell(), 4)


def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def pool_with(count):
    made = pool()
    made.allocate(count)
    return made
