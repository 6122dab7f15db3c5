"""Checks that gradients can be computed for weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedlstm.arrays import dtypes
from fusedlstm.validation.arguments import fail
from fusedlstm.weights import ZONEOUTS

if TYPE_CHECKING:
    from fusedlstm.stacked import StackedWeights


def check_trainable(weights: StackedWeights) -> None:
    """Raise unless gradients can be computed: in float32 or float64, and without zoneout.

    Raises:
        TypeError: the weights have 16 bits.
        ValueError: a layer has zoneout.
    """
    if dtypes.state_dtype(weights.dtype) != weights.dtype:
        hint = 'Train in float32: use weights.astype("float32")'
        fail(TypeError, "weights", "dtype float32 or float64 for gradients", f"dtype {weights.dtype}", hint)
    for index, layer in enumerate(weights.layers):
        for name in ZONEOUTS:
            part = getattr(layer, name)
            if part:
                hint = f"Training with it needs random masks, and this is their expectation. Train with {name}=0"
                got = f"{name}={part}" + (f" in layers[{index}]" if len(weights.layers) > 1 else "")
                fail(ValueError, "weights", "no zoneout for gradients", got, hint)
