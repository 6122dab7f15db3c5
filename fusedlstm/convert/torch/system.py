"""PyTorch's record."""

from __future__ import annotations

from typing import Any

from fusedlstm.convert.record import Signs, System
from fusedlstm.convert.torch.layouts import LAYOUTS
from fusedlstm.convert.torch.parameters import from_torch, list_torch
from fusedlstm.convert.torch.states import PAIRS, state_from_torch, state_to_torch
from fusedlstm.convert.torch.writing import to_torch


def _prefixes(source: Any) -> list[str]:
    return [lstm.prefix for lstm in list_torch(source)]


SYSTEM = System(
    name="torch",
    layouts=LAYOUTS,
    read=from_torch,
    others=(list_torch, to_torch, state_from_torch, state_to_torch),
    source="path",
    taken=_prefixes,
    names_classes=True,  # of TorchScript
    signs=Signs(
        start=rb"\x80\x02",  # a pickle, of torch.save before PyTorch 1.6
        members=(r"(?s).*/data\.pkl|policy\.pth",),  # of torch.save and torch.jit.save, and of Stable-Baselines3
        array=r"(.*\.)?(weight|bias)_[ih]h_l\d+(_reverse)?|(.*\.)?bias_ih",
    ),
    framework="torch",
    pairs=PAIRS,
)
