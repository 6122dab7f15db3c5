"""DLPack capsules of pretended GPUs: NumPy's capsules with another device in their struct."""

import ctypes

import numpy as np

CPU, CUDA = 1, 2
INT, BFLOAT = 0, 4

_DEVICE, _TYPE = 8, 20  # offsets in DLTensor, with which an old capsule begins
_api = ctypes.pythonapi
_api.PyCapsule_GetName.restype = ctypes.c_char_p
_api.PyCapsule_GetName.argtypes = [ctypes.py_object]
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


class Tensor:
    """The used fields of a capsule's struct."""

    def __init__(self, capsule):
        name = _api.PyCapsule_GetName(capsule)
        assert name == b"dltensor", f"not an unused capsule of the old kind: {name}"
        start = _api.PyCapsule_GetPointer(capsule, name)
        self._device = (ctypes.c_int32 * 2).from_address(start + _DEVICE)
        self._type = ctypes.c_uint8.from_address(start + _TYPE)

    @property
    def device(self):
        return tuple(self._device)

    @device.setter
    def device(self, device):
        self._device[:] = device

    @property
    def code(self):
        return self._type.value

    @code.setter
    def code(self, code):
        self._type.value = code


def on_device(host, index, code=None):
    """Return a capsule of a NumPy array on a GPU, with another type code if given."""
    capsule = host.__dlpack__()
    tensor = Tensor(capsule)
    tensor.device = CUDA, index
    if code is not None:
        tensor.code = code
    return capsule


class Consumed:
    def __init__(self, capsule):
        self._capsule = capsule

    def __dlpack_device__(self):
        return CPU, 0

    def __dlpack__(self, **_):
        return self._capsule


def to_host(capsule):
    """Return the writeable NumPy array over the memory of a GPU's capsule. bfloat16 is refused, as in CuPy."""
    tensor = Tensor(capsule)
    kind, _ = tensor.device
    if kind != CUDA:
        raise RuntimeError(
            "CuPy is built against CUDA, different from the backend that backs the incoming DLPack tensor"
        )
    if tensor.code == BFLOAT:
        raise NotImplementedError("CuPy does not support bfloat16 yet")
    tensor.device = CPU, 0
    array = np.from_dlpack(Consumed(capsule))
    # NumPy treats an old capsule as read-only.
    interface = {**array.__array_interface__, "data": (array.__array_interface__["data"][0], False)}
    holder = type("Holder", (), {"__array_interface__": interface, "array": array})()
    return np.asarray(holder)
