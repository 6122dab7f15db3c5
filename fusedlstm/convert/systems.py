"""All systems. The record of each is next to its code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedlstm.convert.chainer import SYSTEM as CHAINER
from fusedlstm.convert.coreml import SYSTEM as COREML
from fusedlstm.convert.cudnn import SYSTEM as CUDNN
from fusedlstm.convert.equinox import SYSTEM as EQUINOX
from fusedlstm.convert.flax.system import SYSTEM as FLAX
from fusedlstm.convert.haiku import SYSTEM as HAIKU
from fusedlstm.convert.haste import SYSTEM as HASTE
from fusedlstm.convert.keras.system import SYSTEM as KERAS
from fusedlstm.convert.mxnet import SYSTEM as MXNET
from fusedlstm.convert.onednn import SYSTEM as ONEDNN
from fusedlstm.convert.onnx.system import SYSTEM as ONNX
from fusedlstm.convert.silero import SYSTEM as SILERO
from fusedlstm.convert.sonnet import SONNET1, SONNET2
from fusedlstm.convert.tf1.system import SYSTEM as TF1
from fusedlstm.convert.tflite import SYSTEM as TFLITE
from fusedlstm.convert.torch.system import SYSTEM as TORCH

if TYPE_CHECKING:
    from fusedlstm.convert.record import System

# A file belongs to the first system whose signs match, so systems with more specific array names come first.
SYSTEMS: tuple[System, ...] = (
    TORCH,
    EQUINOX,
    HASTE,
    KERAS,
    FLAX,
    HAIKU,
    SONNET1,
    SONNET2,
    MXNET,
    CHAINER,
    TF1,
    TFLITE,
    ONNX,
    CUDNN,
    ONEDNN,
    COREML,
    SILERO,
)
BY_NAME = {system.name: system for system in SYSTEMS}
