"""Weights and states from other frameworks: one function each, proved by numbers that those frameworks computed."""

from fusedlstm.convert.chainer import from_chainer
from fusedlstm.convert.coreml import from_coreml
from fusedlstm.convert.cudnn import from_cudnn
from fusedlstm.convert.equinox import from_equinox, state_from_equinox, state_to_equinox
from fusedlstm.convert.flax.importing import from_flax, list_flax
from fusedlstm.convert.flax.states import state_from_flax, state_to_flax
from fusedlstm.convert.flax.writing import to_flax
from fusedlstm.convert.haiku import from_haiku, state_from_haiku, state_to_haiku
from fusedlstm.convert.haste import from_haste
from fusedlstm.convert.keras.files import list_keras
from fusedlstm.convert.keras.initial import initial_state_from_keras
from fusedlstm.convert.keras.objects import from_keras, to_keras
from fusedlstm.convert.keras.states import state_from_keras, state_to_keras
from fusedlstm.convert.mxnet import from_mxnet
from fusedlstm.convert.onednn import from_onednn
from fusedlstm.convert.onnx import from_onnx, list_onnx, state_from_onnx, to_onnx
from fusedlstm.convert.silero import state_from_silero, state_to_silero
from fusedlstm.convert.sonnet import from_sonnet1, from_sonnet2
from fusedlstm.convert.tf1.block import from_block_lstm, from_block_lstm_v2
from fusedlstm.convert.tf1.importing import from_tf1
from fusedlstm.convert.tf1.listing import list_tf1
from fusedlstm.convert.tf1.states import state_from_tf1, state_to_tf1
from fusedlstm.convert.tf1.writing import tf1_arguments, to_tf1
from fusedlstm.convert.tflite import from_tflite
from fusedlstm.convert.torch.parameters import from_torch, list_torch
from fusedlstm.convert.torch.states import state_from_torch, state_to_torch
from fusedlstm.convert.torch.writing import to_torch
from fusedlstm.help_text import break_signatures

__all__ = [
    "from_block_lstm",
    "from_block_lstm_v2",
    "from_chainer",
    "from_coreml",
    "from_cudnn",
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_haste",
    "from_keras",
    "from_mxnet",
    "from_onednn",
    "from_onnx",
    "from_sonnet1",
    "from_sonnet2",
    "from_tf1",
    "from_tflite",
    "from_torch",
    "initial_state_from_keras",
    "list_flax",
    "list_keras",
    "list_onnx",
    "list_tf1",
    "list_torch",
    "state_from_equinox",
    "state_from_flax",
    "state_from_haiku",
    "state_from_keras",
    "state_from_onnx",
    "state_from_silero",
    "state_from_tf1",
    "state_from_torch",
    "state_to_equinox",
    "state_to_flax",
    "state_to_haiku",
    "state_to_keras",
    "state_to_silero",
    "state_to_tf1",
    "state_to_torch",
    "tf1_arguments",
    "to_flax",
    "to_keras",
    "to_onnx",
    "to_tf1",
    "to_torch",
]

break_signatures(globals()[name] for name in __all__)
