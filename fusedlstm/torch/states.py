"""Let PyTorch look into an LSTMState: `torch.export` takes and returns states, and `torch.load` reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree  # torch.export's own error says to use it

from fusedlstm.state import LSTMState, _restore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def register() -> None:
    """Register LSTMState. Call this once."""
    _pytree.register_pytree_node(
        LSTMState,
        lambda state: ([state.h, state.c], None),
        lambda parts, _: _state(parts),
        serialized_type_name="fusedlstm.LSTMState",
        flatten_with_keys_fn=_with_keys,
    )
    torch.serialization.add_safe_globals([_restore])  # what a pickled state calls; it only makes one again


def _state(parts: Iterable[Tensor]) -> LSTMState:
    h, c = parts
    return LSTMState(h=h, c=c)


def _with_keys(state: LSTMState) -> tuple[list[Any], None]:
    return [(_pytree.GetAttrKey("h"), state.h), (_pytree.GetAttrKey("c"), state.c)], None
