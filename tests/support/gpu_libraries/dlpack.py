"""Libraries whose arrays on a GPU, real or emulated, only DLPack reaches. They keep their numbers in CuPy's arrays."""

import contextlib
import types


class OnlyDlpack:
    """An array of a library that computes on its own stream, by default CuPy's current one.

    Attributes:
        array: CuPy's array.
        stream: CuPy's stream, or None.
        asked: the streams that consumers named.
    """

    def __init__(self, array, stream=None):
        self.array, self.stream = array, stream
        self.asked = []

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream=None, **options):
        assert isinstance(stream, int), f"a consumer names its stream: {stream}"
        assert stream, "0 isn't a stream of the protocol"
        self.asked.append(stream)
        with self._in_order():
            return self.array.__dlpack__(stream=stream, **options)

    @contextlib.contextmanager
    def _in_order(self):
        with self.array.device, self.stream or contextlib.nullcontext():
            yield


class WithNamespace(OnlyDlpack):
    """An array of a library that can also import arrays of others."""

    def __array_namespace__(self, *, api_version=None):
        return types.SimpleNamespace(from_dlpack=self._take)

    def _take(self, array):
        import cupy

        with self._in_order():
            return type(self)(cupy.from_dlpack(array), self.stream)


class Immutable(WithNamespace):
    """An immutable array, recognised by its class's module, like JAX's."""

    __module__ = "jaxlib.pretended"
