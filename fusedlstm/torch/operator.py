"""The operators `fusedlstm::layer` and `fusedlstm::layer_backward`, as PyTorch's autograd and compiler see a layer.

Their arguments are flat: tensors, lists of tensors, and a str of JSON with everything else about the layer
(`fusedlstm.layer_call.Layer`). With `saves`, a call returns its results and then what its backward pass needs, so that
autograd keeps it, and torch.compile sees it. No result shares memory with an argument.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch

from fusedlstm.layer_call import Layer
from fusedlstm.torch.layer import TensorCall, saved_like

if TYPE_CHECKING:
    from torch import Tensor

_INPUTS = (
    "Tensor xs, Tensor[] states, Tensor[] weights, Tensor? lengths, Tensor? mask, Tensor? is_first, Tensor[] reset_to"
)
_GRADIENTS = "Tensor[] saved, Tensor? d_outputs, Tensor?[] d_finals"


@torch.library.custom_op(
    "fusedlstm::layer",
    mutates_args=(),
    device_types="cpu",
    schema=f"({_INPUTS}, str options, bool saves) -> Tensor[]",
)
def layer(
    xs: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    lengths: Tensor | None,
    mask: Tensor | None,
    is_first: Tensor | None,
    reset_to: list[Tensor],
    options: str,
    saves: bool,
) -> list[Tensor]:
    """Run a layer through a sequence. Return its outputs, then h and c of each direction, then what it saves.

    Args:
        xs: (T, B, I).
        states: h (B, P) and c (B, N) of each direction.
        weights: the arrays of `LSTMWeights`, without those that are None, of each direction.
        lengths: (B,), int64.
        mask: (T, B) booleans.
        is_first: (T, B) booleans.
        reset_to: as `states`, of one row or B. Empty for zeros.
        options: a Layer as JSON.
        saves: whether to save what the backward pass needs.

    Raises:
        ValueError: a length is not from 0 to T.
    """
    call = TensorCall(Layer.from_json(options), xs, states, weights, lengths, mask, is_first, reset_to)
    return call.forward(saves=saves)


@layer.register_fake
def _(*arguments: Any) -> list[Tensor]:
    xs, states, *_, options, saves = arguments
    T, B, _ = xs.shape
    outputs = xs.new_empty((T, B, sum(state.shape[1] for state in states[::2])))
    finals = [torch.empty_like(state, memory_format=torch.contiguous_format) for state in states]
    return [outputs, *finals, *(saved_like(Layer.from_json(options), xs, states) if saves else [])]


@torch.library.custom_op(
    "fusedlstm::layer_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"({_INPUTS}, {_GRADIENTS}, str options, bool[] wanted) -> Tensor[]",
)
def layer_backward(
    xs: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    lengths: Tensor | None,
    mask: Tensor | None,
    is_first: Tensor | None,
    reset_to: list[Tensor],
    saved: list[Tensor],
    d_outputs: Tensor | None,
    d_finals: list[Tensor | None],
    options: str,
    wanted: list[bool],
) -> list[Tensor]:
    """Return those gradients of a layer's arguments that are wanted.

    Args:
        xs: as in `layer`.
        states: as in `layer`.
        weights: as in `layer`.
        lengths: as in `layer`.
        mask: as in `layer`.
        is_first: as in `layer`.
        reset_to: as in `layer`.
        saved: what `layer` saved.
        d_outputs: the gradient of the outputs, or None for zeros.
        d_finals: the gradients of h and c of each direction, or None for zeros.
        options: as in `layer`.
        wanted: whether each gradient is wanted: of xs, the states, the weights, and reset_to.
    """
    call = TensorCall(Layer.from_json(options), xs, states, weights, lengths, mask, is_first, reset_to)
    return call.backward(saved, d_outputs, d_finals, wanted)


@layer_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    xs, states, weights, _, _, _, reset_to, *_, wanted = arguments
    return [
        torch.empty_like(each, memory_format=torch.contiguous_format)
        for each, is_wanted in zip((xs, *states, *weights, *reset_to), wanted, strict=True)
        if is_wanted
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    """Keep what the backward pass of `layer` needs."""
    xs, states, weights, lengths, mask, is_first, reset_to, ctx.options, saves = inputs
    saved = output[1 + len(states) :]
    ctx.counts, ctx.saves = (len(states), len(weights), len(reset_to)), saves
    ctx.set_materialize_grads(False)  # a gradient of zeros is None
    ctx.mark_non_differentiable(*saved)
    ctx.save_for_backward(xs, *states, *weights, *reset_to, lengths, mask, is_first, *saved)


def _take_back(ctx: Any, d_results: list[Tensor | None]) -> tuple[Any, ...]:
    """Return the gradients of the arguments of `layer`."""
    if not ctx.saves:  # modules save whenever an argument requires grad
        raise RuntimeError(
            "this program was exported without gradients: export it outside torch.no_grad(), with parameters that "
            "require grad"
        )
    xs, *rest = ctx.saved_tensors
    groups = []
    for count in ctx.counts:
        groups.append(rest[:count])
        rest = rest[count:]
    (states, weights, reset_to), (lengths, mask, is_first, *saved) = groups, rest
    wants_xs, wants_states, wants_weights, _, _, _, wants_reset, *_ = ctx.needs_input_grad
    wanted = [wants_xs], wants_states, wants_weights, wants_reset
    d_outputs, d_finals = d_results[0], d_results[1 : 1 + len(states)]
    found = iter(
        layer_backward(
            *(xs, states, weights, lengths, mask, is_first, reset_to, saved),
            *(d_outputs, d_finals, ctx.options, list(itertools.chain(*wanted))),
        )
    )
    (d_xs,), d_states, d_weights, d_reset = (
        [next(found) if is_wanted else None for is_wanted in each] for each in wanted
    )
    return d_xs, d_states, d_weights, None, None, None, d_reset, None, None


def check_no_transform() -> None:
    """Raise NotImplementedError under a transform of torch.func, where PyTorch's own error would mislead."""
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            "fusedlstm.torch doesn't work under torch.func's transforms, such as grad and vmap: call backward or "
            "torch.autograd.grad, or use torch.nn.LSTM"
        )


def _refuse(*_: Any) -> tuple[Any, ...]:
    raise NotImplementedError(
        "fusedlstm.torch has no second derivatives: call backward or torch.autograd.grad without create_graph=True, "
        "or use torch.nn.LSTM"
    )


layer.register_autograd(_take_back, setup_context=_keep)
layer_backward.register_autograd(_refuse)
