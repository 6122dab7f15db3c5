"""List the files of an ONNX model's external data."""

from __future__ import annotations

import os
from typing import Any

from fusedlstm.files import reading


def external_data(source: str) -> dict[str, str | None]:
    """Return the files of an ONNX model's external data, by their names in errors."""
    import onnx

    places: set[str] = set()
    with reading(source):
        _add_places(onnx.load(source, format="protobuf", load_external_data=False), places)
    return {f"SOURCE's {place}": os.path.join(os.path.dirname(source), place) for place in sorted(places)}


def _add_places(message: Any, places: set[str]) -> None:
    """Add the locations of external data of all tensors in a protobuf message."""
    for field, value in message.ListFields():
        if field.name == "external_data":
            places.update(entry.value for entry in value if entry.key == "location")
        elif field.message_type is not None:
            for one in (value,) if hasattr(value, "ListFields") else value:
                _add_places(one, places)
