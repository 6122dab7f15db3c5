"""fusedlstm.torch.LSTMCell: one step of a cell, as a PyTorch module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch

from fusedlstm.torch.checks import check_flags, check_input, check_state
from fusedlstm.torch.forms import CellForm, check_forget_bias
from fusedlstm.torch.modules import Cells, states_of
from fusedlstm.validation.arguments import check_size, fail
from fusedlstm.validation.weights import check_one_layer

if TYPE_CHECKING:
    from typing import Unpack

    from torch import Tensor

    from fusedlstm.state import LSTMState
    from fusedlstm.weights import CellOptions, LSTMWeights


class LSTMCell(Cells):
    """One step of an LSTM as a torch.nn.Module, with resets and the options of `fusedlstm.LSTMWeights`.

    Parameters and their initial values are those of torch.nn.LSTMCell, so state_dicts load in either direction.
    `fusedlstm.torch.LSTM` documents what both modules share, and runs whole sequences in one call.

    Args:
        input_size: I.
        hidden_size: N.
        bias: whether the cell has biases, bias_ih and bias_hh.
        device: the parameters' device.
        dtype: the parameters' dtype: float64, float32, bfloat16 or float16.
        proj_size: P, or 0 or None for no projection.
        peephole: whether the cell has a parameter peephole (3, N), rows i, f, o.
        forget_bias: added to the initial values of the forget gate's bias.
        options: cell_clip, proj_clip, activation, output_activation, gate_activation, gate_clip and coupled_gate, as in
            `fusedlstm.LSTMWeights`.

    Raises:
        TypeError, ValueError: an argument is wrong, or a zoneout is not 0.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        proj_size: int | None = 0,
        peephole: bool = False,
        forget_bias: float = 0.0,
        **options: Unpack[CellOptions],
    ) -> None:
        form = CellForm.make(
            "LSTMCell", input_size, hidden_size, proj_size, bias=bias, peephole=peephole, options=dict(options)
        )
        self._build(form, forget_bias, device, dtype)

    def _build(self, form: CellForm, forget_bias: Any, device: Any, dtype: torch.dtype | None) -> None:
        """Do the work of __init__."""
        super().__init__([form], [""], check_forget_bias(forget_bias, [form]), device, dtype)
        self.input_size, self.hidden_size, self.bias = form.input_size, form.hidden_size, form.bias
        self.proj_size = form.proj_size or 0
        self._layer = self._described(range(1), direction="forward")

    @classmethod
    def from_weights(cls, weights: LSTMWeights) -> Self:
        """Return a module on the CPU whose parameters are copies of weights.

        `bias_ih` is the weights' bias, and `bias_hh` is -0.0.

        Raises:
            TypeError: `weights` is not an LSTMWeights.
            ValueError: a zoneout is not 0.
        """
        check_one_layer(weights)
        module = cls.__new__(cls)
        LSTMCell._build(module, CellForm.of(weights), 0.0, None, getattr(torch, weights.dtype.name))
        return module._load([weights])

    def to_weights(self) -> LSTMWeights:
        """Return a copy of the parameters, with the options, as the weights of a `fusedlstm.LSTMCell`.

        `set_weights` takes it to update a cell while the module trains.
        """
        return self._weights_of(0)

    def zero_state(self, batch: int) -> LSTMState:
        """Return a state of zeros for `batch` rows."""
        zeros = self._zeros(range(1), torch.empty(0, check_size("batch", batch, 0), dtype=self._dtype))
        return states_of(zeros)[0]

    def forward(
        self,
        x: Tensor,
        state: LSTMState | None = None,
        *,
        is_first: Any = None,
        reset_to: LSTMState | None = None,
    ) -> LSTMState:
        """Return the state after one step; its `.h` is the output.

        Args:
            x: (B, I) in the module's dtype, with any strides. B may be 0.
            state: h (B, P) and c (B, N); None for zeros.
            is_first: (B,) booleans: True marks a row that begins a new sequence. Its state is reset before this step,
                and no gradient flows to the old state.
            reset_to: the state to reset those rows to, with one row or B; None for zeros. Gradients flow to it.

        Raises:
            TypeError: an argument has the wrong kind or dtype.
            ValueError: an argument has the wrong shape, or is not on the CPU.
        """
        x, state, reset_to = self._cast(x), self._cast_state(state), self._cast_state(reset_to)
        check_input("x", x, self._dtype, "B I", self.input_size, "For one row, use x[None]. For a sequence, use LSTM")
        (form,), (B, _), dtype = self._forms, x.shape, self._dtype
        if state is not None:
            check_state("state", state, form, dtype, B, may_be_one_row=False)
        if reset_to is not None:
            check_state("reset_to", reset_to, form, dtype, B, may_be_one_row=True)
            if is_first is None:
                fail(ValueError, "reset_to", "None without is_first, which marks the rows to reset", "a state")
        if is_first is not None:
            wanted = "booleans, True for the rows to reset before this step"
            is_first = check_flags("is_first", is_first, "B", {"B": B}, wanted)[None]
        given = None if state is None else [state]
        resets = None if reset_to is None else [reset_to]
        flags = (None, None, is_first)
        outputs, finals = self._run_layer(range(1), self._layer, x[None], given, flags, resets)
        del outputs  # also in finals
        return states_of(finals)[0]

    def extra_repr(self) -> str:
        """Return what repr() shows in brackets."""
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += ["bias=False"] if not self.bias else []
        parts += [f"proj_size={self.proj_size}"] if self.proj_size else []
        return ", ".join([*parts, *self._described_options()])
