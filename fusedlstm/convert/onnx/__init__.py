"""The operator LSTM of ONNX models -> StackedWeights, and back."""

from fusedlstm.convert.onnx.exporting import to_onnx
from fusedlstm.convert.onnx.importing import OnnxLSTM, from_onnx, list_onnx

__all__ = ["OnnxLSTM", "from_onnx", "list_onnx", "to_onnx"]
