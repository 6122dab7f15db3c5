"""A library whose arrays on a GPU, real or emulated, can only be read through the CUDA array interface."""


class OnlyInterface:
    """An array that wraps CuPy's. Its interface names the given stream, and describes bfloat16 as two untyped bytes."""

    def __init__(self, array, stream=None, read_only=False):
        self.array, self._stream, self._read_only = array, stream, read_only

    @property
    def __cuda_array_interface__(self):
        interface = self.array.__cuda_array_interface__
        stream = None if self._stream is None else self._stream.ptr
        return {**interface, "stream": stream, "data": (interface["data"][0], self._read_only)}
