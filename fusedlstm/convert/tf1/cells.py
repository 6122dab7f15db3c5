"""Find the LSTM cells among a program's variables, by the names and shapes that TensorFlow 1 gives them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.convert.layout import Layout, all_names
from fusedlstm.convert.tf1.layouts import LAYOUTS
from fusedlstm.convert.tf1.others import KERAS, is_old_cell, other_cell, other_names
from fusedlstm.convert.tf1.variables import Variables, join
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray

_NORMALISED = ("input", "transform", "forget", "output", "state")  # sub-scopes of the layer-normalised cells

# Scopes that TensorFlow itself gives to cells, and to what holds them.
_CELL = re.compile(
    r"((basic_|cudnn_compatible_|layer_norm_|layer_norm_basic_)?lstm(_fused|_block)?_cell"
    r"|coupled_input_forget_gate_lstm_cell|lstm_block_wrapper)(_\d+)?"
)
_SHARD = re.compile(r"W_(P_)?\d+(/|$)")  # of a CoupledInputForgetGateLSTMCell
_COUNTERS = ("global_step", "beta1_power", "beta2_power")  # of a program, not of a layer
_HOLDER = re.compile(r"(bidirectional_)?rnn(_\d+)?|multi_rnn_cell|cell_\d+|fw|bw")


@dataclass(frozen=True)
class Cell:
    """The variables of one cell, below its scope. An optimiser's slots are below the variables in turn."""

    variables: Variables
    scope: str

    def name(self, variable: str) -> str:
        """Return a variable's full name."""
        return join(self.scope, variable)

    def __contains__(self, variable: str) -> bool:
        return self.name(variable) in self.variables

    @property
    def has_kernel(self) -> bool:
        """Whether the scope has a kernel, of a cell or of another layer."""
        return "kernel" in self or "W_0" in self

    @property
    def is_coupled(self) -> bool:
        """Whether this is a CoupledInputForgetGateLSTMCell. W_0 is the first part of its kernel."""
        return "W_0" in self and "kernel" not in self and not is_old_cell(self.scope)

    @property
    def layout(self) -> Layout:
        """The layout of its arrays."""
        return LAYOUTS["tf1_coupled" if self.is_coupled else "tf1"]

    @property
    def is_cudnn(self) -> bool:
        """Whether this adds no forget bias, like CudnnCompatibleLSTMCell. CudnnLSTM is saved under the same names."""
        return self.scope.split("/")[-1].startswith("cudnn_compatible_lstm_cell")

    @property
    def is_block_wrapper(self) -> bool:
        """Return whether this is TensorFlow 1.0's LSTMBlockFusedCell, whose scope had this name."""
        return self.scope.split("/")[-1].startswith("lstm_block_wrapper")

    def peepholes(self) -> list[str]:
        """Return the names of the layout's peepholes that the cell has."""
        return [name for name in all_names(self.layout.peephole) if name and name in self]

    def arrays(self) -> dict[str, NumpyArray]:
        """Return the layout's variables by name."""
        layout = self.layout
        names = [*all_names(layout.weight_ih), *map(str, layout.biases), *self.peepholes(), layout.weight_hr]
        return {name: self._whole(name) for name in names if name in self}

    def _whole(self, name: str) -> NumpyArray:
        """Return a variable. W_0 and W_P_0 get the rows of W_1, W_P_1 ..., one for each shard, appended."""
        names = [self.name(name)]
        while name.endswith("_0") and (following := self.name(f"{name[:-1]}{len(names)}")) in self.variables:
            names.append(following)
        parts = [self.variables.read(each) for each in names]
        for each, part in zip(names[1:], parts[1:], strict=True):
            if part.ndim != 2 or part.shape[1:] != parts[0].shape[1:]:
                fail(ValueError, each, f"rows like those of {names[0]}, {parts[0].shape}", f"shape {part.shape}")
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def looks_right(self) -> bool:
        """Whether the kernel and bias are as wide as a cell's gates, or the cell is layer-normalised."""
        kernel, bias, gates = ("W_0", "B", 3) if self.is_coupled else ("kernel", "bias", 4)
        if kernel not in self or "recurrent_kernel" in self or other_cell(self.variables, self.scope):
            return False
        shape = self.variables.shape(self.name(kernel))
        if len(shape) != 2 or shape[1] % gates or not shape[1]:
            return False
        if self.normalising():
            return True
        return bias in self and self.variables.shape(self.name(bias)) == shape[1:]

    def is_surely_an_lstm(self) -> bool:
        """Whether scopes that TensorFlow names, or variables that only an LSTM has, tell it from a dense layer."""
        *holders, last = self.scope.split("/")
        own = self.peepholes() or self.layout.weight_hr in self or self.normalising()
        return bool(own or _CELL.fullmatch(last) or any(_HOLDER.fullmatch(holder) for holder in holders))

    def normalising(self) -> list[str]:
        """Return the variables that normalise the gates."""
        names = [f"{part}/{kind}" for part in _NORMALISED for kind in ("gamma", "beta")]
        return [self.name(name) for name in names if name in self]

    def unknown(self) -> list[str]:
        """Return variables in a cell's scope that an LSTM cell doesn't have and that may change its formula.

        An optimiser's slots, below the cell's own variables, are allowed. A scope that TensorFlow named holds nothing
        else. In a scope that the user named, other layers have their own scopes. So only variables directly in it, or
        in `projection`, count.
        """
        own, is_alone = self.layout.names(), bool(_CELL.fullmatch(self.scope.split("/")[-1]))
        found = []
        for name in self.variables.below(self.scope):
            if name in own or any(name.startswith(f"{known}/") for known in own) or _SHARD.match(name):
                continue
            if is_alone or name.startswith("projection/") or not ("/" in name or name in _COUNTERS):
                found.append(self.name(name))
        return sorted(found)

    def refuse_other_formulas(self) -> None:
        """Raise unless this is an LSTM cell. Cells of other kinds may have similar variables."""
        if "recurrent_kernel" in self:
            got = self.name("recurrent_kernel")
            fail(ValueError, "variables", "a TensorFlow 1 cell, with one kernel for x and h", got, KERAS)
        if found := self.normalising():
            hint = "It normalises its gates at every step, which changes the formula"
            fail(ValueError, "variables", "a cell without layer normalisation", ", ".join(found), hint)
        if other := other_cell(self.variables, self.scope):
            fail(ValueError, "variables", "an LSTM cell", f"{other!r}, a cell of another kind")
        for name in ("W_0", "B") if self.is_coupled else ("kernel", "bias"):
            if name not in self:
                cells = [cell.scope for cell in candidates(self.variables)]
                hint = f"Cells may be at {', '.join(map(repr, cells))}" if cells else other_names(self.variables)
                fail(ValueError, "variables", f"a variable named {self.name(name)!r}", "none of that name", hint)
        if unknown := self.unknown():
            hint = "An LSTM cell doesn't have them: leave them out if they don't change what it computes"
            fail(ValueError, "variables", "the variables of an LSTM cell alone", ", ".join(unknown[:4]), hint)


def candidates(variables: Variables, prefix: str = "") -> list[Cell]:
    """Return the possible cells in or below a scope."""
    scopes = sorted({*variables.scopes_of("kernel"), *variables.scopes_of("W_0")})
    cells = [Cell(variables, scope) for scope in scopes if is_below(scope, prefix)]
    return [cell for cell in cells if cell.looks_right()]


def is_below(scope: str, prefix: str) -> bool:
    """Whether a scope is `prefix` or below it."""
    return not prefix or scope == prefix or scope.startswith(f"{prefix}/")
