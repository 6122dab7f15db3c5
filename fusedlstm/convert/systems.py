"""All systems: one record each, which stands with the system's code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedlstm.convert import chainer, coreml, cudnn, equinox, haiku, haste, mxnet, onednn, silero, sonnet, tflite
from fusedlstm.convert.flax.system import SYSTEM as FLAX
from fusedlstm.convert.keras.system import SYSTEM as KERAS
from fusedlstm.convert.onnx.system import SYSTEM as ONNX
from fusedlstm.convert.tf1.system import SYSTEM as TF1
from fusedlstm.convert.torch.system import SYSTEM as TORCH

if TYPE_CHECKING:
    from fusedlstm.convert.record import System

# A file belongs to the first system whose signs it has: names of arrays that tell more come first.
SYSTEMS: tuple[System, ...] = (
    TORCH,
    equinox.SYSTEM,
    haste.SYSTEM,
    KERAS,
    FLAX,
    haiku.SYSTEM,
    sonnet.SONNET1,
    sonnet.SONNET2,
    mxnet.SYSTEM,
    chainer.SYSTEM,
    TF1,
    tflite.SYSTEM,
    ONNX,
    cudnn.SYSTEM,
    onednn.SYSTEM,
    coreml.SYSTEM,
    silero.SYSTEM,
)
BY_NAME = {system.name: system for system in SYSTEMS}
