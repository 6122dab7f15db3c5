"""Convert the LSTM operator of ONNX models to StackedWeights and initial states, and back."""

from fusedlstm.convert.onnx.exporting import to_onnx
from fusedlstm.convert.onnx.importing import from_onnx, list_onnx, state_from_onnx
from fusedlstm.convert.onnx.listing import OnnxLSTM

__all__ = ["OnnxLSTM", "from_onnx", "list_onnx", "state_from_onnx", "to_onnx"]
