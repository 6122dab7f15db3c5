"""cupy.cuda.runtime."""

from . import arrays, graphs, memory, streams
from .errors import CUDARuntimeError

_HOST_TO_HOST, _HOST_TO_DEVICE, _DEVICE_TO_HOST, _DEVICE_TO_DEVICE, _DEFAULT = range(5)


class runtime:
    """The functions and constants of cupy.cuda.runtime that are used."""

    CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_16BF = 0, 1, 2, 14
    memcpyHostToHost, memcpyHostToDevice, memcpyDeviceToHost = _HOST_TO_HOST, _HOST_TO_DEVICE, _DEVICE_TO_HOST
    memcpyDeviceToDevice, memcpyDefault = _DEVICE_TO_DEVICE, _DEFAULT
    streamCaptureModeGlobal, streamCaptureModeThreadLocal = graphs.GLOBAL, graphs.THREAD_LOCAL
    streamCaptureModeRelaxed = graphs.RELAXED
    CUDARuntimeError = CUDARuntimeError

    @staticmethod
    def getDeviceCount():
        return 2

    @staticmethod
    def getDevice():
        return arrays.current_device

    @staticmethod
    def deviceSynchronize():
        streams.synchronized(None)

    @staticmethod
    def eventQuery(event):
        """Return that all work is done. Tests replace this."""
        return 0

    @staticmethod
    def driverGetVersion():
        return 13000

    @staticmethod
    def runtimeGetVersion():
        return 13000

    @staticmethod
    def getDeviceProperties(device):
        return {"name": b"emulated GPU", "major": 9, "minor": 0, "totalGlobalMem": 2**34}

    @staticmethod
    def streamIsCapturing(stream):
        return graphs.capture_on(stream) is not None

    @staticmethod
    def graphLaunch(graphExec, stream):
        graphs.of_handle(graphExec)._run(stream, -1)

    @staticmethod
    def graphUpload(graphExec, stream):
        graphs.of_handle(graphExec)._check(stream, -1)

    @staticmethod
    def memcpyAsync(dst, src, size, kind, stream):
        _copy("memcpy", stream, kind, (dst, size), (src, size), (size, 1))

    @staticmethod
    def memcpy2DAsync(dst, dpitch, src, spitch, width, height, kind, stream):
        """Copy `height` rows of `width` bytes, with the pitches from row to row."""
        if width > min(dpitch, spitch):
            raise CUDARuntimeError("cudaErrorInvalidPitchValue: a row is longer than the pitch")
        _copy("memcpy2D", stream, kind, (dst, dpitch), (src, spitch), (width, height))

    @staticmethod
    def memsetAsync(ptr, value, size, stream):
        if size == 0:
            return
        span = _span(ptr, size, (False,), stream)

        def work():
            span.bytes()[...] = value & 255

        streams.submit("memset", None, [span], work, stream)


def _copy(what, stream, kind, to, source, shape):
    """Copy `shape[1]` rows of `shape[0]` bytes. `to` and `source` are an address and the bytes from row to row."""
    width, height = shape
    if width == 0 or height == 0:
        return
    dst, src = (
        _span(address, (height - 1) * pitch + width, places, stream)
        for (address, pitch), places in zip((to, source), _places(kind), strict=True)
    )
    # Rows of equal pitch may interleave without overlap. The distance of the first rows decides, as rows repeat.
    apart = (src.address - dst.address) % to[1] if to[1] == source[1] else 0
    if dst.overlaps(src) and not width <= apart <= to[1] - width:
        raise CUDARuntimeError("cudaErrorInvalidValue: a copy overlaps what it copies")

    def work():
        for row in range(height):
            start_to, start = row * to[1], row * source[1]
            dst.bytes()[start_to : start_to + width] = src.bytes()[start : start + width]

    streams.submit(what, None, [dst, src], work, stream)


def _places(kind):
    """Return the allowed places of a copy's destination and source: True for pinned memory, False for a device."""
    device, pinned = (False,), (True,)
    places = {
        _HOST_TO_HOST: (pinned, pinned),
        _HOST_TO_DEVICE: (device, pinned),
        _DEVICE_TO_HOST: (pinned, device),
        _DEVICE_TO_DEVICE: (device, device),
        _DEFAULT: ((False, True), (False, True)),
    }
    if kind not in places:
        raise CUDARuntimeError(f"cudaErrorInvalidMemcpyDirection: {kind}")
    return places[kind]


def _span(address, size, places, stream):
    """Return memory of the stream's device, or pinned memory, as only that is copied in a stream's order."""
    for pinned in places:
        try:
            span = memory.Span(address, size, pinned)
        except MemoryError:
            if pinned is places[-1]:
                raise
        else:
            break
    if span.allocation.device not in (None, streams.device_of(stream)):
        raise CUDARuntimeError("cudaErrorInvalidValue: the memory is of another device than the stream")
    return span
