"""Convert weights and states of other frameworks.

A conversion is exact, or it raises. Pass weights to an LSTMCell or an LSTM.

PyTorch

    from_torch         weights of a module, a state_dict or a file
    list_torch         the LSTMs in such a source; from_torch takes a prefix
    to_torch           weights as a state_dict
    state_from_torch   (h, c), of a cell or of all layers
    state_to_torch     the reverse of state_from_torch

TensorFlow 1

    from_tf1             weights of variables or a checkpoint
    list_tf1             the cells in such a source; from_tf1 takes a scope
    to_tf1               weights as variables; cells take tf1_arguments
    tf1_arguments        arguments of the LSTMCell for such variables
    from_block_lstm      weights of LSTMBlockCell's or BlockLSTM's arguments
    from_block_lstm_v2   weights of BlockLSTMV2's arguments
    state_from_tf1       (c, h), or one packed array
    state_to_tf1         the reverse of state_from_tf1

Keras 3 and tf.keras

    from_keras                 weights of a layer, its arrays or a file
    list_keras                 the LSTMs in a file; from_keras takes a name
    to_keras                   weights as arrays for set_weights
    initial_state_from_keras   a model's constant initial state
    state_from_keras           [h, c], or those of both directions
    state_to_keras             the reverse of state_from_keras

ONNX

    from_onnx         weights of a model or its file
    list_onnx         the LSTMs in a model; from_onnx takes names
    to_onnx           weights as a model
    state_from_onnx   a model's constant initial state

Flax, linen and nnx

    from_flax         weights of parameters or an nnx module
    list_flax         the cells in such a source; from_flax takes a prefix
    to_flax           weights as parameters
    state_from_flax   (c, h)
    state_to_flax     the reverse of state_from_flax

Haiku

    from_haiku         weights of params
    state_from_haiku   an hk.LSTMState
    state_to_haiku     the reverse of state_from_haiku

Equinox

    from_equinox         weights of a module or its arrays
    state_from_equinox   (h, c)
    state_to_equinox     the reverse of state_from_equinox

Silero's VAD, whose weights from_torch or from_onnx reads

    state_from_silero   one array of h and c
    state_to_silero     the reverse of state_from_silero

Other systems, from arrays

    from_chainer   L.LSTM, L.StatelessLSTM, L.NStepLSTM and L.NStepBiLSTM
    from_coreml    Core ML's operation lstm
    from_cudnn     cuDNN's linear layers
    from_haste     haste's LSTM
    from_mxnet     MXNet's gluon.rnn.LSTMCell and gluon.rnn.LSTM
    from_onednn    oneDNN's LSTM primitive
    from_sonnet1   Sonnet 1's snt.LSTM
    from_sonnet2   Sonnet 2's snt.LSTM
    from_tflite    TFLite's operators for LSTMs
"""

from fusedlstm.convert.chainer import from_chainer
from fusedlstm.convert.coreml import from_coreml
from fusedlstm.convert.cudnn import from_cudnn
from fusedlstm.convert.equinox import from_equinox, state_from_equinox, state_to_equinox
from fusedlstm.convert.flax.importing import from_flax, list_flax
from fusedlstm.convert.flax.states import state_from_flax, state_to_flax
from fusedlstm.convert.flax.writing import to_flax
from fusedlstm.convert.haiku import from_haiku, state_from_haiku, state_to_haiku
from fusedlstm.convert.haste import from_haste
from fusedlstm.convert.hints import name_right_importer
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

globals().update({name: name_right_importer(globals()[name]) for name in __all__ if name.startswith("from_")})
break_signatures(globals()[name] for name in __all__)
