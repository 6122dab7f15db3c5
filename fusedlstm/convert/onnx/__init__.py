"""The operator LSTM of ONNX models -> StackedWeights, and back."""

from fusedlstm.convert.onnx.importing import OnnxLSTM, from_onnx, list_onnx

__all__ = ["OnnxLSTM", "from_onnx", "list_onnx"]
