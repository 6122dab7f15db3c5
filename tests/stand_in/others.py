"""Arrays of libraries that speak one protocol each, over the stand-in's arrays: DLPack, or the CUDA interface."""

import types

import ml_dtypes

from . import arrays, dlpack, streams

OWN = 0x777000  # the stream that the DLPack library works on


class OnlyDlpack:
    """An array that nothing but DLPack reaches, bfloat16 included, of a library with a stream of its own."""

    def __init__(self, array):
        assert isinstance(array, arrays.ndarray)
        self._array = array
        self.asked = []  # the streams of consumers

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
    """... whose library makes arrays of others', too."""

    def __array_namespace__(self, *, api_version=None):
        return types.SimpleNamespace(from_dlpack=type(self).take)

    @classmethod
    def take(cls, array):
        _, index = array.__dlpack_device__()
        capsule = array.__dlpack__(stream=OWN)
        tensor = dlpack.Tensor(capsule)
        dtype = ml_dtypes.bfloat16 if tensor.code == dlpack.BFLOAT else None
        if dtype is not None:
            tensor.code = dlpack.INT  # as only a library that knows bfloat16 can read
        host = dlpack.to_host(capsule)
        return cls(arrays.ndarray(host if dtype is None else host.view(dtype), index))


class Immutable(WithNamespace):
    """An array that its library never changes, known by where its class is from: JAX's."""

    __module__ = "jaxlib.stand_in"


class OnlyInterface:
    """An array that has `__cuda_array_interface__` and nothing else; bfloat16 is two bytes of no type, as in NumPy."""

    def __init__(self, array, read_only=False, stream=None):
        interface = array.__cuda_array_interface__
        self._array = array
        self.__cuda_array_interface__ = {**interface, "data": (interface["data"][0], read_only), "stream": stream}
