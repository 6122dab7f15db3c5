"""What both modules share: parameters under PyTorch's names, their initial values, and conversions of weights."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.autograd.forward_ad import unpack_dual

from fusedlstm.arrays.host import to_host
from fusedlstm.convert.reading import read
from fusedlstm.convert.torch.layouts import LAYOUTS
from fusedlstm.convert.torch.writing import to_tensor
from fusedlstm.convert.writing import write
from fusedlstm.layer_call import Layer
from fusedlstm.state import LSTMState
from fusedlstm.torch.checks import check_module_dtype, check_parameter, check_place, state_dtype
from fusedlstm.torch.operator import check_no_transform
from fusedlstm.torch.operator import layer as run_layer
from fusedlstm.weights import DEFAULTS, LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fusedlstm.torch.checks import Flags
    from fusedlstm.torch.forms import CellForm

_NAMES = ("weight_ih", "weight_hh", "bias", "peephole", "weight_hr")  # of `LSTMWeights`, in the order of the operator


class Cells(torch.nn.Module):
    """A module with the parameters of some cells. Each cell's parameters have PyTorch's names and a suffix.

    Args:
        forms: the form of each cell.
        suffixes: the suffix of each cell's names.
        forget_bias: added to the initial values of the forget gates' biases.
        device: the parameters' device.
        dtype: the parameters' dtype.

    Attributes:
        suffixes: as given.
    """

    def __init__(
        self,
        forms: Sequence[CellForm],
        suffixes: Sequence[str],
        forget_bias: float,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_module_dtype("dtype", torch.get_default_dtype() if dtype is None else dtype)
        super().__init__()
        self._forms, self.suffixes, self._forget_bias = tuple(forms), tuple(suffixes), forget_bias
        self._shapes = tuple(form.shapes() for form in self._forms)
        for form, suffix in zip(self._forms, self.suffixes, strict=True):
            for name, shape in form.shapes().items():
                values = torch.empty(shape, device=device, dtype=dtype)
                self.register_parameter(name + suffix, torch.nn.Parameter(values))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new values as torch.nn.LSTM does: uniform in +-1/sqrt(N). Then add forget_bias."""
        for form, suffix in zip(self._forms, self.suffixes, strict=True):
            N, limit = form.hidden_size, 1 / math.sqrt(form.hidden_size)
            for name in form.shapes():
                torch.nn.init.uniform_(getattr(self, name + suffix), -limit, limit)
            if form.bias and self._forget_bias:
                with torch.no_grad():
                    getattr(self, "bias_ih" + suffix)[N : 2 * N] += self._forget_bias

    @property
    def _dtype(self) -> torch.dtype:
        """The dtype of xs and h. Raise unless the parameters have one that modules can have, and are on the CPU."""
        name = "weight_ih" + self.suffixes[0]
        weight = getattr(self, name)
        check_place(name, weight)
        check_module_dtype(name, weight.dtype)
        dtype: torch.dtype = weight.dtype
        return dtype

    def _load(self, cells: Sequence[LSTMWeights]) -> Self:
        """Copy the values of weights to the parameters, and return the module."""
        with torch.no_grad():
            for weights, suffix in zip(cells, self.suffixes, strict=True):
                arrays = write(LAYOUTS["torch"], dataclasses.replace(weights, peephole=None))
                if weights.peephole is not None:
                    arrays["peephole"] = weights.peephole.copy()
                for name, array in arrays.items():
                    getattr(self, name + suffix).copy_(to_tensor(array))
        return self

    def _weights_of(self, k: int) -> LSTMWeights:
        """Return a copy of a cell's weights."""
        form, suffix = self._forms[k], self.suffixes[k]
        arrays = {name: to_host(name, getattr(self, name + suffix).detach()) for name in form.shapes()}
        peephole = arrays.pop("peephole", None)
        ours: dict[str, Any] = read(LAYOUTS["torch"], "module", arrays)
        return LSTMWeights(**(ours | {"peephole": peephole}), **form.options)

    def _tensors(self, k: int) -> list[Tensor]:
        """Return the tensors of a cell in the order of the operator. Only the bias, a sum of two, is new.

        A program may have replaced parameters, so this checks them.
        """
        dtype, tensors = self._dtype, {}
        for name, shape in self._shapes[k].items():
            full = name + self.suffixes[k]
            tensors[name] = getattr(self, full)
            check_parameter(full, tensors[name], shape, dtype)
        if "bias_ih" in tensors:
            tensors["bias"] = tensors["bias_ih"] + tensors["bias_hh"]
        return [tensors[name] for name in _NAMES if name in tensors]

    def _described(self, cells: range, **attributes: Any) -> str:
        """Return a layer of some cells as JSON. The attributes are those of Layer, besides its arrays and options."""
        arrays = []
        for k in cells:
            form = self._forms[k]
            has = {"bias": form.bias, "peephole": form.peephole, "weight_hr": form.proj_size is not None}
            arrays.append(tuple(name for name in _NAMES if has.get(name, True)))
        options = tuple(dict(self._forms[k].options) for k in cells)
        return Layer(arrays=tuple(arrays), options=options, **attributes).to_json()

    def _run_layer(
        self,
        cells: range,
        described: str,
        xs: Tensor,
        states: Sequence[LSTMState] | None,
        flags: Flags,
        reset_to: Sequence[LSTMState] | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return a layer's outputs (T, B, width), and the final h and c of each of its cells.

        Args:
            cells: the numbers of the layer's cells.
            described: what `_described` returned.
            xs: (T, B, I).
            states: the states of all cells, or None for zeros.
            flags: lengths, mask and is_first of the operator.
            reset_to: the states to reset rows to, of all cells; None for zeros.
        """
        weights = [tensor for k in cells for tensor in self._tensors(k)]
        if states is None:
            given = self._zeros(cells, xs)
        else:
            given = [part for k in cells for part in (states[k].h, states[k].c)]
        resets = [] if reset_to is None else [part for k in cells for part in (reset_to[k].h, reset_to[k].c)]
        of_gradients = (xs, *given, *weights, *resets)
        if not torch.compiler.is_compiling():
            _check_no_tangents(of_gradients)
            check_no_transform()
        saves = torch.is_grad_enabled() and any(each.requires_grad for each in of_gradients)
        outputs, *rest = run_layer(xs, given, weights, *flags, resets, described, saves)
        return outputs, rest[: len(given)]

    def _zeros(self, cells: range, xs: Tensor) -> list[Tensor]:
        """Return h and c of zeros for each cell."""
        B, c_dtype, zeros = xs.shape[1], state_dtype(xs.dtype), []
        for k in cells:
            zeros += [xs.new_zeros(B, self._forms[k].output_size)]
            zeros += [xs.new_zeros(B, self._forms[k].hidden_size, dtype=c_dtype)]
        return zeros

    def _cast(self, value: Any, dtype: torch.dtype | None = None) -> Any:
        """Under autocast, return a tensor in a dtype; None for the module's. Return anything else unchanged."""
        if torch.is_autocast_enabled("cpu") and isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.to(self._dtype if dtype is None else dtype)
        return value

    def _cast_state(self, state: Any) -> Any:
        """Cast an LSTMState, as `_cast` does."""
        if torch.is_autocast_enabled("cpu") and isinstance(state, LSTMState):
            return LSTMState(h=self._cast(state.h), c=self._cast(state.c, state_dtype(self._dtype)))
        return state

    def _cast_states(self, states: Any) -> Any:
        """Cast a tuple of states, as `_cast` does."""
        return tuple(map(self._cast_state, states)) if isinstance(states, (tuple, list)) else states

    def _described_options(self) -> list[str]:
        """Return the first cell's options that aren't the default, for repr()."""
        form = self._forms[0]
        parts = ["peephole=True"] if form.peephole else []
        return parts + [f"{name}={value!r}" for name, value in form.options.items() if value != DEFAULTS.get(name)]


def _check_no_tangents(tensors: Sequence[Tensor]) -> None:
    """Raise NotImplementedError in forward mode, where PyTorch would take the tangents of results as zeros."""
    if any(unpack_dual(each).tangent is not None for each in tensors):  # type: ignore[no-untyped-call]
        raise NotImplementedError(
            "fusedlstm.torch has no derivatives in forward mode: use backward or torch.autograd.grad, or torch.nn.LSTM"
        )


def states_of(tensors: Sequence[Tensor]) -> tuple[LSTMState, ...]:
    """Return states from h and c of each, in turn."""
    return tuple(LSTMState(h=h, c=c) for h, c in zip(tensors[::2], tensors[1::2], strict=True))
