"""Arrays of libraries with only one protocol, DLPack or the CUDA array interface, over the stand-in's arrays."""

import types

import ml_dtypes

from . import arrays, dlpack, streams

OWN = 0x777000  # the stream of the DLPack library


class OnlyDlpack:
    """An array that supports only DLPack, bfloat16 included, from a library with its own stream."""

    def __init__(self, array):
        assert isinstance(array, arrays.ndarray)
        self._array = array
        self.asked = []  # the streams that consumers named

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if not isinstance(stream, int) or stream < -1 or stream == 0:
            raise ValueError(f"no stream of the protocol: {stream}")
        self.asked.append(stream)
        array = self._array
        index = array.device.id
        with arrays.Device(index):
            consumer, own = streams.handle(stream, index), streams.handle(OWN, index)
            consumer.wait_event(own.record())
        bits = array._host.dtype.name == "bfloat16"
        return dlpack.on_device(array._host.view("i2") if bits else array._host, index, dlpack.BFLOAT if bits else None)


class WithNamespace(OnlyDlpack):
    """An array of a library that can also import arrays of others."""

    def __array_namespace__(self, *, api_version=None):
        return types.SimpleNamespace(from_dlpack=type(self).take)

    @classmethod
    def take(cls, array):
        _, index = array.__dlpack_device__()
        capsule = array.__dlpack__(stream=OWN)
        tensor = dlpack.Tensor(capsule)
        dtype = ml_dtypes.bfloat16 if tensor.code == dlpack.BFLOAT else None
        if dtype is not None:
            tensor.code = dlpack.INT  # so that NumPy can read it
        host = dlpack.to_host(capsule)
        return cls(arrays.ndarray(host if dtype is None else host.view(dtype), index))


class Immutable(WithNamespace):
    """An immutable array, recognised by its class's module, like JAX's."""

    __module__ = "jaxlib.stand_in"


class OnlyInterface:
    """An array that has only `__cuda_array_interface__`. As in NumPy, bfloat16 is two bytes without a type."""

    def __init__(self, array, read_only=False, stream=None):
        interface = array.__cuda_array_interface__
        self._array = array
        self.__cuda_array_interface__ = {**interface, "data": (interface["data"][0], read_only), "stream": stream}
