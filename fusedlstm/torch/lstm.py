"""fusedlstm.torch.LSTM: layers and directions through whole sequences, as a PyTorch module."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Self

import torch

from fusedlstm import directions as ways
from fusedlstm.backends.sequence_run import MASKED_OUTPUTS
from fusedlstm.functions import check_part
from fusedlstm.stacked import StackedWeights, check_residual
from fusedlstm.torch.checks import check_all_flags, check_input, check_states
from fusedlstm.torch.forms import (
    CellForm,
    check_directions,
    check_forget_bias,
    check_residual_sizes,
    forms_of_layers,
)
from fusedlstm.torch.modules import Cells, states_of
from fusedlstm.validation.arguments import check_bool, check_choice, check_size, fail
from fusedlstm.validation.weights import as_layers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from torch import Tensor

    from fusedlstm.state import LSTMState
    from fusedlstm.weights import CellOptions, LSTMWeights


class LSTM(Cells):
    """Layers of LSTM cells as a torch.nn.Module, with resets, lengths and the options of `fusedlstm.LSTMWeights`.

    Arguments up to `dtype`, the parameters' names and their initial values are those of torch.nn.LSTM. So state_dicts
    load in either direction. Calls take and return states by name, and compute the formula, as `fusedlstm.LSTM` does on
    NumPy. If a tensor or the module is not on the CPU, a call raises ValueError.

    Gradients flow through outputs, states and `reset_to`, but not across resets. At the corners of clips and functions
    they are TensorFlow's: a clip passes the gradient up to and at its limit. Second derivatives, forward mode and
    torch.func's transforms raise NotImplementedError. torch.compile, torch.export and autocast work: under autocast, xs
    and states are converted to the module's dtype. Use torch.utils.checkpoint with use_reentrant=False, as its other
    form drops the gradients of final states.

    A call uses at most as many threads as `torch.get_num_threads` returns, if NumPy's BLAS is an OpenBLAS whose threads
    can be limited.

    A 16-bit module's c is float32, as in `fusedlstm.LSTM`. Its arithmetic is float32, on copies of its weights.

    Args:
        input_size: I.
        hidden_size: N.
        num_layers: the number of layers.
        bias: whether cells have biases, bias_ih and bias_hh.
        batch_first: whether sequences are (B, T, I), outputs (B, T, width) and masks (B, T).
        dropout: the fraction of a layer's outputs that is dropped in training, for all layers but the top one.
        bidirectional: whether each layer has both directions.
        proj_size: P, or 0 or None for no projection.
        device: the parameters' device.
        dtype: the parameters' dtype: float64, float32, bfloat16 or float16.
        directions: "forward", "backward" or "both" for each layer, instead of `bidirectional`. Names of backward
            cells' parameters end in _reverse.
        residual: whether a layer's output is its h plus its input: a bool for all layers, or one for each layer.
        peephole: whether cells have peepholes: parameters peephole_l0 (3, N), rows i, f, o, and so on.
        forget_bias: added to the initial values of the forget gates' biases.
        checkpoint_every: the number of steps between checkpoints. A call then saves h of every step, but c only at
            checkpoints. Its backward pass takes the steps in between again. None saves h, c and the gates of every
            step, and so do exported programs.
        options: cell_clip, proj_clip, activation, output_activation, gate_activation, gate_clip and coupled_gate, as in
            `fusedlstm.LSTMWeights`.

    Raises:
        TypeError, ValueError: an argument is wrong, or a zoneout is not 0. Training with zoneout needs random masks,
            which this module doesn't have.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int | None = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        directions: Sequence[str] | None = None,
        residual: bool | Sequence[bool] = False,
        peephole: bool = False,
        forget_bias: float = 0.0,
        checkpoint_every: int | None = None,
        **options: Unpack[CellOptions],
    ) -> None:
        ways_of_layers = check_directions(directions, num_layers, bidirectional)
        sizes = input_size, hidden_size, proj_size
        self._build(
            forms_of_layers(ways_of_layers, sizes, bias=bias, peephole=peephole, options=dict(options)),
            ways_of_layers,
            residual=residual,
            batch_first=batch_first,
            dropout=dropout,
            forget_bias=forget_bias,
            checkpoint_every=checkpoint_every,
            device=device,
            dtype=dtype,
        )

    def _build(
        self,
        forms: Sequence[CellForm],
        directions: Sequence[str],
        *,
        residual: Any = False,
        batch_first: Any = False,
        dropout: Any = 0.0,
        forget_bias: Any = 0.0,
        checkpoint_every: Any = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Do the work of __init__ for cells of any forms."""
        check_bool("batch_first", batch_first)
        suffixes = [
            f"_l{layer}_reverse" if backward else f"_l{layer}"
            for layer, direction in enumerate(directions)
            for backward in ways.backward_of([direction])
        ]
        slices = ways.slices_of(directions)
        added = check_residual(residual, len(slices))
        for which, is_residual in zip(slices, added, strict=True):
            check_residual_sizes(forms[which], is_residual=is_residual)
        dropped = check_part("dropout", dropout)
        every = None if checkpoint_every is None else check_size("checkpoint_every", checkpoint_every, 1)
        super().__init__(forms, suffixes, check_forget_bias(forget_bias, forms), device, dtype)
        first = forms[0]
        self.input_size, self.hidden_size, self.proj_size = first.input_size, first.hidden_size, first.proj_size or 0
        self.num_layers, self.bias = len(slices), first.bias
        self.batch_first, self.dropout = batch_first, dropped
        self.directions, self.residual = tuple(directions), added
        self.bidirectional = set(directions) == {ways.BOTH}
        self._cells = [range(which.start, which.stop) for which in slices]
        self.checkpoint_every = every

    @property
    def checkpoint_every(self) -> int | None:
        """The number of steps between checkpoints, or None. Set it for the next calls."""
        return self._every

    @checkpoint_every.setter
    def checkpoint_every(self, every: int | None) -> None:
        self._every = None if every is None else check_size("checkpoint_every", every, 1)
        self._layers = [self._described_each_way(layer) for layer in range(self.num_layers)]

    def _described_each_way(self, layer: int) -> dict[tuple[bool, ...], str]:
        """Return a layer as JSON, by whether a call is reversed, repeats the last outputs, and is exported."""
        return {
            (reverse, repeats, exports): self._described(
                self._cells[layer],
                direction=ways.BACKWARD if reverse else self.directions[layer],
                residual=self.residual[layer],
                repeats=repeats,
                every=None if exports else self._every,  # a number of checkpoints would fix T
            )
            for reverse, repeats, exports in itertools.product((False, True), repeat=3)
        }

    @classmethod
    def from_weights(
        cls,
        weights: StackedWeights | LSTMWeights,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        checkpoint_every: int | None = None,
    ) -> Self:
        """Return a module on the CPU whose parameters are copies of weights. Its layers may differ in everything.

        `bias_ih` is the weights' bias, and `bias_hh` is -0.0.

        Args:
            weights: a StackedWeights, or an LSTMWeights for a single layer.
            batch_first: as in the class.
            dropout: as in the class.
            checkpoint_every: as in the class.

        Raises:
            TypeError: `weights` is not a StackedWeights or an LSTMWeights, or a flag is not a bool.
            ValueError: a zoneout is not 0, or another argument is wrong.
        """
        stacked = as_layers(weights)
        forms, dtype = [CellForm.of(cell) for cell in stacked.layers], getattr(torch, stacked.dtype.name)
        options = {"batch_first": batch_first, "dropout": dropout, "checkpoint_every": checkpoint_every}
        module = cls.__new__(cls)
        LSTM._build(module, forms, stacked.directions, residual=stacked.residual, dtype=dtype, **options)
        return module._load(stacked.layers)

    def to_weights(self) -> StackedWeights:
        """Return a copy of the parameters, with the options, as the weights of a `fusedlstm.LSTM`.

        `set_weights` takes it to update an LSTM while the module trains. Dropout isn't part of it.
        """
        cells = [self._weights_of(k) for k in range(len(self.suffixes))]
        return StackedWeights(cells, directions=self.directions, residual=self.residual)

    def zero_state(self, batch: int) -> tuple[LSTMState, ...]:
        """Return states of zeros for `batch` rows, one for each layer and direction."""
        B = check_size("batch", batch, 0)
        zeros = self._zeros(range(len(self.suffixes)), torch.empty(0, B, dtype=self._dtype))
        return states_of(zeros)

    def forward(
        self,
        xs: Tensor,
        state: Sequence[LSTMState] | None = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        is_first: Any = None,
        reset_to: Sequence[LSTMState] | None = None,
        reverse: bool = False,
        masked_outputs: str = "zero",
    ) -> tuple[Tensor, tuple[LSTMState, ...]]:
        """Run whole sequences, and return the top layer's outputs and the final states.

        Arguments and results are those of `fusedlstm.LSTM`, as tensors. Shapes here are time-major. With `batch_first`
        the first two axes of xs, mask, is_first and the outputs are swapped.

        Args:
            xs: (T, B, I) in the module's dtype, with any strides. T and B may be 0.
            state: for each layer and direction, h (B, P) and c (B, N); None for zeros.
            lengths: (B,) integers from 0 to T: row b takes only its first lengths[b] steps.
            mask: (T, B) booleans, instead of lengths: row b takes step t if mask[t, b] is True, and otherwise keeps its
                state.
            is_first: (T, B) booleans: True means that step t begins a new sequence in row b. The state is reset before
                step t, or after it in a backward direction. No gradient flows across a reset.
            reset_to: the state to reset rows to, one for each layer and direction, with one row or B; None for zeros.
                Gradients flow to it.
            reverse: whether every layer runs from the last step to the first, if all are forward.
            masked_outputs: the outputs of steps that a row does not take: "zero", or "last" for the last output.

        Returns:
            The outputs (T, B, width), and the final state of each layer and direction.

        Raises:
            TypeError: an argument has the wrong kind or dtype.
            ValueError: an argument has the wrong shape, or is not on the CPU, or `reverse` is set and a layer reads
                backward already. Or a length is below 0 or above T, or both lengths and a mask are given.
        """
        check_choice("masked_outputs", masked_outputs, MASKED_OUTPUTS)
        self._check_reverse(reverse)
        xs, state, reset_to = self._cast(xs), self._cast_states(state), self._cast_states(reset_to)
        letters = "B T" if self.batch_first else "T B"
        hint = "A single sequence (T, I) is a batch of one" if isinstance(xs, torch.Tensor) and xs.dim() == 2 else ""
        check_input("xs", xs, self._dtype, f"{letters} I", self.input_size, hint)
        xs = self._by_time(xs)
        T, B, _ = xs.shape
        if state is not None:
            check_states("state", state, self._forms, self._dtype, B)
        if reset_to is not None:
            check_states("reset_to", reset_to, self._forms, self._dtype, B, may_be_one_row=True)
            if is_first is None:
                fail(ValueError, "reset_to", "None without is_first, which marks the rows to reset", "states")
        lengths, mask, is_first = check_all_flags(lengths, mask, is_first, letters, {"T": T, "B": B})
        flags = lengths, *(None if each is None else self._by_time(each) for each in (mask, is_first))
        finals: list[Tensor] = []
        for layer, cells in enumerate(self._cells):
            if layer and self.dropout:
                xs = torch.nn.functional.dropout(xs, self.dropout, self.training)
            is_top = layer == self.num_layers - 1
            way = reverse, masked_outputs == "last" and is_top, torch.compiler.is_exporting()
            xs, last = self._run_layer(cells, self._layers[layer][way], xs, state, flags, reset_to)
            finals += last
        return self._by_time(xs), states_of(finals)

    def _check_reverse(self, reverse: Any) -> None:
        check_bool("reverse", reverse)
        if reverse and set(self.directions) != {ways.FORWARD}:
            fail(ValueError, "reverse", f"False with {ways.as_argument(self.directions)}", "True")

    def _by_time(self, tensor: Tensor) -> Tensor:
        """Swap the first two axes of a tensor if the module is batch_first."""
        return tensor.transpose(0, 1) if self.batch_first else tensor

    def extra_repr(self) -> str:
        """Return what repr() shows in brackets."""
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += [f"num_layers={self.num_layers}"] if self.num_layers > 1 else []
        parts += [ways.as_argument(self.directions)] if set(self.directions) != {ways.FORWARD} else []
        parts += [f"residual={True if all(self.residual) else list(self.residual)}"] if any(self.residual) else []
        names = "bias", "batch_first", "dropout", "proj_size", "checkpoint_every"
        parts += [f"{n}={getattr(self, n)!r}" for n in names if getattr(self, n) not in (None, 0, n == "bias")]
        return ", ".join([*parts, *self._described_options()])
