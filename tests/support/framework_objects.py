"""Objects that look like other frameworks', by the names of their modules, and the importer for each."""

OBJECTS = {
    "torch.nn.modules.rnn": "from_torch(module)",
    "torch.export.exported_program": "from_torch(program.state_dict)",
    "haste_pytorch.lstm": "from_haste(module.state_dict())",
    "keras.src.layers.rnn.lstm": "from_keras(layer)",
    "tf_keras.src.layers.rnn.lstm": "from_keras(layer)",
    "tensorflow.python.keras.layers.recurrent_v2": "from_keras(layer)",
    "flax.linen.recurrent": "from_flax(variables)",
    "flax.core.frozen_dict": "from_flax(variables)",
    "flax.nnx.statelib": "from_flax(state)",
    "flax.nnx.nn.recurrent": "from_flax(module)",
    "equinox.nn._rnn": "from_equinox(module)",
    "haiku._src.recurrent": "from_haiku(params)",
    "onnx.onnx_ml_pb2": "from_onnx(model)",
    "onnxruntime.capi.onnxruntime_inference_collection": "from_onnx(path)",
    "sonnet.src.recurrent": "from_sonnet2(variables)",
    "sonnet.python.modules.gated_rnn": "from_sonnet1(variables)",
    "tensorflow.python.module.module": "from_tf1(variables)",
    "tensorflow.lite.python.interpreter": "from_tflite(inputs)",
    "mxnet.gluon.rnn.rnn_layer": "from_mxnet(params)",
    "chainer.links.rnn.n_step_rnn": "from_chainer(params)",
    "coremltools.models.model": "from_coreml(parameters)",
}


def object_of(module, *bases):
    """Return an object of a class that claims to be from a framework's module, with these base classes."""
    return type("Theirs", bases or (object,), {"__module__": module})()
