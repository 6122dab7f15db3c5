"""Libraries whose arrays on a GPU, real or emulated, can only be read through DLPack. They wrap CuPy's arrays."""

import contextlib
import types


class OnlyDlpack:
    """An array of a library that computes on its own stream, or by default on CuPy's current one.

    Attributes:
        array: CuPy's array.
        stream: CuPy's stream, or None.
        asked: the streams that consumers have passed.
    """

    def __init__(self, array, stream=None):
        self.array, self.stream = array, stream
        self.asked = []

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream=None, **options):
        assert isinstance(stream, int), f"a consumer must pass its stream, not {stream}"
        assert stream, "DLPack doesn't allow stream 0"
        self.asked.append(stream)
        with self._in_order():
            return self.array.__dlpack__(stream=stream, **options)

    @contextlib.contextmanager
    def _in_order(self):
        with self.array.device, self.stream or contextlib.nullcontext():
            yield


class WithNamespace(OnlyDlpack):
    """An array of a library that can also import other arrays."""

    def __array_namespace__(self, *, api_version=None):
        return types.SimpleNamespace(from_dlpack=self._take)

    def _take(self, array):
        import cupy

        with self._in_order():
            return type(self)(cupy.from_dlpack(array), self.stream)


class Immutable(WithNamespace):
    """An immutable array, recognised like JAX's by its class's module."""

    __module__ = "jaxlib.pretended"
