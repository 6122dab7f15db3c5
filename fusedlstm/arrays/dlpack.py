"""DLPack: the device of an array, and bfloat16 with consumers and producers that don't know it.

NumPy can't export or import bfloat16, and CuPy can only in some versions. But a capsule is a C struct that is made for
one import, and one byte in it is the type. So bfloat16 is passed as int16, and viewed as bfloat16 on the other side.
Nothing is copied.
"""

from __future__ import annotations

import ctypes
from typing import Any

# DLDataTypeCode and DLDeviceType of dlpack.h.
_INT, _BFLOAT = 0, 4
_CPU, _CUDA, _CUDA_HOST, _CUDA_MANAGED = 1, 2, 3, 13
_NAMES = {4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 11: "cpu", 14: "oneapi", 15: "webgpu"}

# The offset of DLTensor in the struct of each kind of capsule, and the offset of the type's first byte in DLTensor.
_TENSORS = {b"dltensor": 0, b"dltensor_versioned": 32}
_TYPE = 20
_FLAGS = 24  # in the versioned struct
_READ_ONLY = 1

_api = ctypes.pythonapi
_name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", _api))
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))


def place_of(array: Any) -> str:
    """Return the device of an array with `__dlpack_device__`: "cpu", "cuda:0", or another device's name."""
    kind, index = array.__dlpack_device__()
    kind = int(kind)
    if kind in (_CUDA, _CUDA_MANAGED):
        return f"cuda:{int(index)}"
    if kind in (_CPU, _CUDA_HOST):
        return "cpu"
    return _NAMES.get(kind, f"a device of DLPack's type {kind}")


class Incoming:
    """Another library's array, for a consumer that doesn't know bfloat16.

    After it has been consumed, `is_bfloat16` says whether to view the int16 that arrived as bfloat16. `read_only` says
    whether the producer forbids writing, which old producers can't say.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self.is_bfloat16 = self.read_only = False

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        try:
            capsule = self._array.__dlpack__(**options)
        except TypeError:  # an older producer, which doesn't know these options
            stream = {key: value for key, value in options.items() if key == "stream" and value is not None}
            capsule = self._array.__dlpack__(**stream)
        name, start = _struct(capsule)
        self.is_bfloat16 = _exchange_type(start + _TENSORS[name], _BFLOAT, _INT)
        if name == b"dltensor_versioned":
            self.read_only = bool(ctypes.c_uint64.from_address(start + _FLAGS).value & _READ_ONLY)
        return capsule


class Outgoing:
    """An int16 view of bfloat16 numbers, for a consumer to receive as bfloat16."""

    def __init__(self, bits: Any) -> None:
        self._bits = bits

    def __dlpack_device__(self) -> Any:
        return self._bits.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self._bits.__dlpack__(**options)
        name, start = _struct(capsule)
        _exchange_type(start + _TENSORS[name], _INT, _BFLOAT)
        return capsule


def _struct(capsule: Any) -> tuple[bytes, int]:
    """Return the name of a capsule and the address of its struct."""
    name: bytes = _name_of(capsule)
    if name not in _TENSORS:
        raise BufferError(f"not a DLPack capsule, or a used one: {name!r}")
    return name, int(_pointer_of(capsule, name))


def _exchange_type(tensor: int, old: int, new: int) -> bool:
    """Change the type code in the DLTensor at this address from `old` to `new`. Return whether it was `old`."""
    code = ctypes.c_uint8.from_address(tensor + _TYPE)
    if code.value != old:
        return False
    code.value = new
    return True
