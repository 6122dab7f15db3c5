"""An untrusted ONNX model: its source, its name in errors, and how much memory it may use."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from typing import Any, NoReturn, TypeAlias

from fusedlstm.convert.containers import what_content
from fusedlstm.errors import WeightsFileError
from fusedlstm.files import blaming
from fusedlstm.validation.advice import fail_source
from fusedlstm.validation.arguments import fail

Proto: TypeAlias = Any  # a message of the package onnx

METADATA = "fusedlstm"  # the key of `to_onnx`'s notes in a model

# In an honest model few tensors share bytes, few constants are copied often, and few functions are called often. A
# model that takes more than this many times its own size was made to exhaust memory.
_COPIES = 64
_SMALL = 1 << 20


def package() -> Any:
    """Return the package onnx."""
    try:
        import onnx
    except ImportError:
        raise ImportError("ONNX models need the package onnx, which fusedlstm's extra convert installs") from None
    return onnx


class Model:
    """A parsed model.

    Attributes:
        proto: the ModelProto.
        name: its name in errors: its path, or "the ONNX model".
        folder: the folder of its external data; None for a model without a path.
    """

    def __init__(self, proto: Proto, name: str, folder: str | None, size: int) -> None:
        self.proto, self.name, self.folder = proto, name, folder
        self._bytes, self._made = size, 0
        self._files: set[str] = set()

    def refuse(
        self, what: str, wanted: str, got: str, hint: str = "", kind: type[WeightsFileError] = WeightsFileError
    ) -> NoReturn:
        """Raise WeightsFileError about a part of the model."""
        fail(kind, f"{self.name}: {what}", wanted, got, hint)

    def count_file(self, path: str, size: int) -> None:
        """Add the size of a file with the model's data to the model's size, once."""
        if path not in self._files:
            self._files.add(path)
            self._bytes += size

    def count_copy(self, what: str, size: int) -> None:
        """Raise if an allocation, with all before it, is out of proportion to the model's size."""
        self._made += size
        if self._made > _COPIES * self._bytes + _SMALL:
            wanted = f"constants and names of at most {_COPIES} times the model's {self._bytes} bytes"
            self.refuse(what, wanted, f"{size} bytes more, {self._made} in total")

    @functools.cached_property
    def notes(self) -> Any:
        """The notes of `to_onnx` in the metadata, any JSON; None without any."""
        for entry in self.proto.metadata_props:
            if entry.key == METADATA:
                with contextlib.suppress(WeightsFileError), blaming(METADATA):
                    return json.loads(entry.value)
                return None
        return None


def open_model(source: Any) -> Model:
    """Return the model of a path, of bytes, or of a ModelProto. No external data is read.

    Raises:
        TypeError: `source` is something else.
        WeightsFileError: it is not an ONNX model.
        OSError: the file can't be read.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _parsed(bytes(source), "the ONNX model", None)
    if isinstance(source, (str, os.PathLike)):
        package()  # raises if onnx is missing, before the file is opened
        path = os.fsdecode(source)
        with open(path, "rb") as file:
            return _parsed(file.read(), path, os.path.dirname(path) or os.curdir)
    onnx = sys.modules.get("onnx")  # whoever has a ModelProto has imported it
    if onnx is None or not isinstance(source, onnx.ModelProto):
        fail_source("source", "a path, bytes or an onnx.ModelProto", source)
    return _checked(Model(source, "the ONNX model", None, source.ByteSize()))


def _parsed(content: bytes, name: str, folder: str | None) -> Model:
    proto = package().ModelProto()
    try:
        with blaming(name):
            proto.ParseFromString(content)
    except WeightsFileError as error:
        if not content.startswith(b"\x08") and (what := what_content(content)):
            raise WeightsFileError(f"{name} is {what}") from error
        reason = error.__cause__ or error
        raise WeightsFileError(f"{name} is damaged, or is not ONNX: it can't be parsed ({reason})") from reason
    return _checked(Model(proto, name, folder, len(content)))


def _checked(model: Model) -> Model:
    if not model.proto.HasField("graph"):
        raise WeightsFileError(f"{model.name} is empty, or is not ONNX: it has no graph")
    return model
