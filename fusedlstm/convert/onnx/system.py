"""ONNX's record."""

from __future__ import annotations

from typing import Any

from fusedlstm.convert.onnx.exporting import to_onnx
from fusedlstm.convert.onnx.external import external_data
from fusedlstm.convert.onnx.importing import from_onnx, list_onnx, state_from_onnx
from fusedlstm.convert.onnx.layouts import LAYOUTS
from fusedlstm.convert.record import Signs, System


def _names(source: Any) -> list[str]:
    return [lstm.name for lstm in list_onnx(source)]


SYSTEM = System(
    name="onnx",
    layouts=LAYOUTS,
    read=from_onnx,
    others=(list_onnx, to_onnx, state_from_onnx),
    source="path",
    takes_layers=True,
    taken=_names,
    initial_state=state_from_onnx,
    parts=external_data,
    signs=Signs(start=rb"\x08"),  # the first field of a model, ir_version
    framework="onnxruntime",
)
