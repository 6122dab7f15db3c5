"""Write LSTMWeights as the arrays of a cell in some layout, and refuse what a layout has no place for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.validation.arguments import fail
from fusedlstm.weights import DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.layout import Layout, Names
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.weights import LSTMWeights


def write(layout: Layout, weights: LSTMWeights, *, forget_bias: float | None = None) -> dict[str, NumpyArray]:
    """Return new arrays of a cell in some layout, by the layout's names. `read` turns them back into the weights.

    If the layout has two biases, the first is the whole bias. The second is -0.0, which changes no bits when added. If
    the layout always has a bias, a missing one becomes zeros.

    Args:
        layout: the cell's layout.
        weights: the weights of a cell that the layout can hold: see `refuse`.
        forget_bias: what the cell will add to the forget gate at every step, and so is subtracted from its bias; None
            for its system's default.
    """
    forget_bias = layout.forget_bias if forget_bias is None else forget_bias
    N, arrays = weights.hidden_size, _Arrays(layout)
    if layout.weight_hh:
        arrays.put(layout.weight_ih, weights.weight_ih.reshape(4, N, weights.input_size))
        arrays.put(layout.weight_hh, weights.weight_hh.reshape(4, N, -1))
    else:
        arrays.put(layout.weight_ih, np.concatenate([weights.weight_ih, weights.weight_hh], 1).reshape(4, N, -1))
    for names, bias in zip(layout.biases, _biases(layout, weights, forget_bias), strict=False):
        arrays.put(names, bias)
    if weights.peephole is not None:
        arrays.put_peephole(weights.peephole)
    if weights.weight_hr is not None:
        hr = weights.weight_hr
        arrays.arrays[layout.weight_hr] = np.array(hr.T if layout.columns else hr, order="C")
    return arrays.arrays


def refuse_directions(weights: StackedWeights, system: str) -> None:
    """Raise ValueError unless all layers of a stack are forward, or all have both directions."""
    if not (weights.is_causal or weights.bidirectional):
        wanted = f"layers that are all 'forward' or all 'both', as {system} supports nothing else"
        fail(ValueError, "directions", wanted, ", ".join(map(repr, weights.directions)))


def _biases(layout: Layout, weights: LSTMWeights, forget_bias: float) -> list[NumpyArray]:
    """Return the biases of a layout, each (4, N)."""
    if weights.bias is None and not layout.has_bias and not forget_bias:
        return []
    shape = (4, weights.hidden_size)
    bias = np.zeros(shape, weights.dtype) if weights.bias is None else np.array(weights.bias).reshape(shape)
    if forget_bias:
        bias[1] -= np.asarray(forget_bias, bias.dtype)
    return [bias] + [np.full(shape, -0.0, bias.dtype) for _ in layout.biases[1:]]


class _Arrays:
    """Arrays by a layout's names."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.arrays: dict[str, NumpyArray] = {}

    def put(self, names: Names, blocks: NumpyArray) -> None:
        """Put blocks (4, N, ...) of i, f, g, o into the layout's arrays."""
        theirs = blocks[["ifgo".index(gate) for gate in self.layout.gates]]
        if isinstance(names, str):
            joined = theirs.swapaxes(0, 1) if self.layout.interleaved else theirs
            self.arrays[names] = self._oriented(joined.reshape(theirs.shape[0] * theirs.shape[1], *blocks.shape[2:]))
            return
        for name, block in zip(names, theirs, strict=True):
            self.arrays[name] = self._oriented(block)

    def _oriented(self, rows: NumpyArray) -> NumpyArray:
        return np.array(rows.T if self.layout.columns else rows, order="C")

    def put_peephole(self, peephole: NumpyArray) -> None:
        """Put peepholes (3, N), rows i, f, o, into the layout's arrays."""
        if isinstance(self.layout.peephole, str):
            rows = peephole[["ifo".index(gate) for gate in self.layout.peepholes]]
            self.arrays[self.layout.peephole] = rows.reshape(-1)
            return
        for name, row in zip(self.layout.peephole, peephole, strict=True):
            if name:
                self.arrays[name] = np.array(row)


def refuse(
    weights: LSTMWeights, system: str, places: Collection[str], reasons: Mapping[str, str] | None = None
) -> None:
    """Raise ValueError if weights have an option or array that another system lacks. The message names it.

    Args:
        weights: the weights of one cell.
        system: the system's name in the message.
        places: what the system has: names of options, "peephole" and "weight_hr".
        reasons: hints about options.
    """
    arrays = {name: getattr(weights, name) for name in ("peephole", "weight_hr")}
    for name, value in (arrays | weights.options()).items():
        default = DEFAULTS.get(name)
        if name in places or (value is default if default is None else value == default):
            continue
        got = f"shape {value.shape}" if name in arrays else repr(value)
        fail(ValueError, name, f"{default!r}, as {system} supports nothing else", got, (reasons or {}).get(name, ""))
