"""The stand-in for CuPy is like CuPy where it should be, and stricter where it says so."""

import inspect
import re
import types

import ml_dtypes
import numpy as np
import pytest

import stand_in
from stand_in import arrays, cublas, dlpack, driver, gpu, nvrtc, others, streams
from stand_in.matrices import to_tf32
from stand_in.runtime import runtime
from support.backends import needs_cupy


def public(thing):
    return {name for name in vars(thing) if not name.startswith("_")}


@needs_cupy
def test_names_are_cupys():
    cupy = stand_in.real["cupy"]
    assert public(arrays.ndarray) <= set(dir(cupy.ndarray))
    modules = stand_in.modules()
    assert {name for name in public(modules["cupy"]) if name != "cuda"} <= set(dir(cupy))
    assert public(modules["cupy.cuda"]) <= set(dir(cupy.cuda))
    assert public(runtime) <= set(dir(cupy.cuda.runtime))
    assert public(gpu.Module) <= set(dir(cupy.cuda.Module))
    theirs = cupy.cuda.driver
    assert {"CUDADriverError", "funcSetAttribute"} <= set(dir(theirs))
    assert theirs.funcSetAttribute.__doc__ == "funcSetAttribute(intptr_t f, int attribute, int value)"
    assert list(inspect.signature(driver.funcSetAttribute).parameters) == ["f", "attribute", "value"]
    name = "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"
    assert getattr(driver, name) == getattr(theirs, name)
    assert public(arrays.Device) <= set(dir(cupy.cuda.Device))
    for name in ("Stream", "ExternalStream", "Event"):
        ours, theirs = getattr(streams, name), getattr(cupy.cuda, name)
        assert public(ours) - {"ptr", "device_id"} <= set(dir(theirs))
        if name != "Event":
            assert public(streams._BaseStream) <= set(dir(theirs))
        assert inspect.signature(ours.__init__) == inspect.signature(theirs.__init__)
    own = {"NVRTCError", "Path"} | {name for name in public(nvrtc) if inspect.ismodule(getattr(nvrtc, name))}
    assert public(nvrtc) - own <= set(dir(stand_in.real["nvrtc"]))


@needs_cupy
@pytest.mark.parametrize("name", ["empty", "zeros", "asarray", "ascontiguousarray", "broadcast_to", "stack"])
def test_parameters_are_cupys(name):
    ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (arrays, stand_in.real["cupy"]))
    assert list(ours) == list(theirs)[: len(ours)]
    for parameter in ours:
        assert ours[parameter].default == theirs[parameter].default or parameter == "dtype"


@needs_cupy
def test_parameters_of_streams_are_cupys():
    cuda = stand_in.real["cupy"].cuda
    for ours, theirs, names in (
        (streams.Event, cuda.Event, ["record", "synchronize"]),
        (
            streams._BaseStream,
            cuda.Stream,
            ["record", "wait_event", "synchronize", "use", "begin_capture", "end_capture", "is_capturing"],
        ),
        (arrays.ndarray, stand_in.real["cupy"].ndarray, ["view"]),
    ):
        for name in names:
            assert inspect.signature(getattr(ours, name)) == inspect.signature(getattr(theirs, name)), name
    # The first line of these docstrings is the signature.
    assert cuda.get_current_stream.__doc__.startswith("get_current_stream(int device_id=-1)")
    real = stand_in.real["cupy"]
    assert real.from_dlpack.__doc__.startswith(f"from_dlpack{inspect.signature(arrays.from_dlpack)}")
    options = [name for name in inspect.signature(arrays.ndarray.__dlpack__).parameters if name != "self"]
    assert options == re.findall(r"(\w+)=None", real.ndarray.__dlpack__.__doc__)


@needs_cupy
def test_streams_of_handles_are_cupys():
    """ExternalStream warns. Without its constructor, it is a stream of CuPy's that owns no handle."""
    cuda = stand_in.real["cupy"].cuda
    for kind in (cuda.ExternalStream, streams.ExternalStream):
        with pytest.warns(DeprecationWarning, match="ExternalStream is deprecated"):
            kind(5, 0)
        stream = kind.__new__(kind)
        super(kind, stream).__init__(5, 1)
        assert (stream.ptr, stream.device_id) == (5, 1)
        del stream  # CuPy would report an error if it destroyed the stream
    assert cuda.Stream.null.ptr == streams.Stream.null.ptr == 0


@pytest.mark.skipif("cublas" not in stand_in.real, reason="cuBLAS is not installed")
def test_gemm_is_cublas():
    """Parameters and constants are those of CuPy's module."""
    real = stand_in.real["cublas"]
    theirs = re.findall(r"\w+ (\w+)(?:,|\))", real.gemmEx.__doc__)
    assert list(inspect.signature(cublas.gemmEx).parameters) == theirs
    for name in public(cublas):
        if name.startswith("CUBLAS_"):
            assert getattr(cublas, name) == getattr(real, name), name


@needs_cupy
def test_data_types_are_cudas():
    real = stand_in.real["cupy"].cuda.runtime
    for name in public(runtime):
        if name.startswith("CUDA_R_"):
            assert getattr(runtime, name) == getattr(real, name), name


# Stricter than CuPy.


def test_new_memory_is_nan():
    for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
        assert np.isnan(arrays.empty((3, 2), dtype).get().astype(float)).all()


def gemm(library, a, b, c, **changes):
    """Compute c <- a @ b.T for row-major arrays, as the backend calls it."""
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    (B, K), M = a.shape, b.shape[0]
    values = {
        "handle": library.cupy.cuda.device.get_cublas_handle(), "transa": 1, "transb": 0, "m": M, "n": B, "k": K,
        "alpha": one.ctypes.data, "A": b.data.ptr, "Atype": 0, "lda": K,
        "B": a.data.ptr, "Btype": 0, "ldb": a.strides[0] // 4,
        "beta": zero.ctypes.data, "C": c.data.ptr, "Ctype": 0, "ldc": M,
        "computeType": library.cublas.CUBLAS_COMPUTE_32F, "algo": library.cublas.CUBLAS_GEMM_DEFAULT,
    }  # fmt: skip
    library.cublas.gemmEx(*{**values, **changes}.values())


def matrices(library):
    """Return factors (2, 3) and (4, 3), and a product of NaN."""
    rng = np.random.default_rng(0)
    a, b = (library.cupy.asarray(rng.normal(size=shape).astype(np.float32)) for shape in ((2, 3), (4, 3)))
    return a, b, library.cupy.asarray(np.full((2, 4), np.nan, np.float32))


def test_gemm(library):
    """C is NaN, and must not be read when beta is 0."""
    a, b, c = matrices(library)
    gemm(library, a, b, c)
    np.testing.assert_allclose(c.get(), a.get() @ b.get().T, rtol=1e-5, atol=1e-6)


def test_gemm_of_a_view(library):
    """The leading dimension is larger than the row."""
    _, b, c = matrices(library)
    wide = library.cupy.asarray(np.random.default_rng(1).normal(size=(2, 7)).astype(np.float32))
    view = wide[:, 2:5]
    gemm(library, view, b, c)
    np.testing.assert_allclose(c.get(), view.get() @ b.get().T, rtol=1e-5, atol=1e-6)


def test_gemm_adds(library):
    a, b, c = matrices(library)
    c.fill(2)
    one = np.ones(1, np.float32)
    gemm(library, a, b, c, beta=one.ctypes.data)
    np.testing.assert_allclose(c.get(), 2 + a.get() @ b.get().T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gemm_of_sixteen_bits_into_float32(library, dtype):
    kind = {"float16": 2, "bfloat16": 14}[dtype]
    narrow = np.dtype(getattr(ml_dtypes, dtype, dtype))
    rng = np.random.default_rng(0)
    a, b = (library.cupy.asarray(rng.normal(size=shape).astype(narrow)) for shape in ((2, 8), (4, 8)))
    c = library.cupy.asarray(np.zeros((2, 4), np.float32))
    gemm(library, a, b, c, Atype=kind, Btype=kind, ldb=8)
    np.testing.assert_allclose(c.get(), a.get().astype("f4") @ b.get().astype("f4").T, rtol=1e-4, atol=1e-5)


def test_views_are_where_numpy_has_them(library):
    """Addresses, strides and flags of views equal NumPy's."""
    array, twin = library.cupy.asarray(np.arange(20.0).reshape(5, 4)), np.arange(20.0).reshape(5, 4)
    for index in (slice(1, 3), (slice(None), slice(1, 3)), (slice(None, None, -1),)):
        view, same = array[index], twin[index]
        assert (view.shape, view.strides) == (same.shape, same.strides)
        assert view.data.ptr - array.data.ptr == same.ctypes.data - twin.ctypes.data
        assert view.flags.c_contiguous == same.flags.c_contiguous
        np.testing.assert_array_equal(view.get(), same)
    assert array.T.strides == twin.T.strides
    copy = library.cupy.ascontiguousarray(array.T)
    assert copy.strides == (40, 8)
    assert library.cupy.ascontiguousarray(array) is array
    assert array.astype(array.dtype, copy=False) is array
    assert array.device.id == 0


def test_memory_order_is_kept(library):
    """Host arrays and casts keep their order. Copies are C-contiguous."""
    array = library.cupy.asarray(np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    assert array.strides == (8, 16)
    assert array.astype(np.float32).strides == (4, 8)
    assert array.copy().strides == (24, 8)
    np.testing.assert_array_equal(array.astype(np.float32).get(), np.arange(6.0).reshape(2, 3))


def test_the_host_waits_for_values():
    """Reading a value waits, and the log records the wait."""
    array = arrays.zeros(())
    for wait in (array.get, lambda: bool(array), lambda: float(array)):
        streams.log.clear()
        with streams.Stream() as stream:
            wait()
        assert streams.log == [("synchronize", stream.ptr)]


def test_no_implicit_conversion_to_numpy(library):
    array = library.cupy.asarray(np.ones((2, 2)))
    for values in ([1, 2], (1, 2)):
        with pytest.raises((TypeError, ValueError)):
            array[...] = values
    with pytest.raises(TypeError):
        np.asarray(array)
    with pytest.raises((TypeError, ValueError)):
        array[...] = np.ones((2, 2))
    with pytest.raises((TypeError, ValueError)):
        array @ np.ones((2, 2))


STAND_IN = types.SimpleNamespace(cupy=stand_in.modules()["cupy"], cublas=cublas)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"lda": 2}, "leading dimension is too small"),
        ({"ldb": 4}, "not all in one array"),
        ({"ldc": 5}, "not all in one array"),
        ({"m": 5, "ldc": 5}, "not all in one array"),
        ({"k": 0}, "INVALID_VALUE"),
        ({"Ctype": 2}, "NOT_SUPPORTED"),
        ({"computeType": cublas.CUBLAS_COMPUTE_64F}, "NOT_SUPPORTED"),
        ({"handle": 2}, "another device"),
        ({"algo": 99}, "INVALID_VALUE"),
    ],
)
def test_gemm_refuses(changes, error):
    with pytest.raises((cublas.CUBLASError, MemoryError), match=error):
        gemm(STAND_IN, *matrices(STAND_IN), **changes)


def test_gemm_refuses_unallocated_memory():
    a, b, c = matrices(STAND_IN)
    with pytest.raises(MemoryError):
        gemm(STAND_IN, a, b, c, A=b.data.ptr + (1 << 40))


def test_tf32_rounds_to_ten_bits():
    values = np.array([1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -(1 + 2**-11 + 2**-20), np.inf, np.nan], np.float32)
    wanted = [1 + 2**-10, 1, 1 + 2 * 2**-10, -(1 + 2**-10), np.inf, np.nan]
    np.testing.assert_array_equal(to_tf32(values), np.array(wanted, np.float32))


@pytest.mark.parametrize("value", [3, 3.0, True, None])
def test_launches_refuse_python_numbers(value):
    with pytest.raises(TypeError, match="whose size CuPy would guess"):
        gpu._argument(value)


def test_launches_refuse_arrays_of_another_device():
    with arrays.Device(1):
        array = arrays.zeros(3)
    with pytest.raises(gpu.CUDARuntimeError, match="another device"):
        gpu._argument(array)


def test_current_streams():
    """Each device has its own current stream, and a stream can be entered only on its device."""
    stream = streams.Stream()
    with stream:
        assert streams.get_current_stream() is stream
        with arrays.Device(1):
            assert streams.get_current_stream() is streams.Stream.null
            assert streams.get_current_stream(0) is stream
            with pytest.raises(RuntimeError, match="does not match"):
                stream.__enter__()
    assert streams.get_current_stream() is streams.Stream.null


@pytest.fixture
def real_streams(library):
    """Return CuPy's or the stand-in's streams, and make the default stream current at the end."""
    yield library.cupy.cuda
    library.cupy.cuda.Stream.null.use()


def test_use_changes_only_the_current_stream(real_streams):
    """Leaving another stream returns to the default one, in the real CuPy too."""
    cuda = real_streams
    used, entered = cuda.Stream(), cuda.Stream()
    assert used.use() is used
    assert cuda.get_current_stream() is used
    with entered:
        assert cuda.get_current_stream() is entered
    assert cuda.get_current_stream().ptr == 0
    with entered:
        used.use()
        assert cuda.get_current_stream() is used
    assert cuda.get_current_stream().ptr == 0


def test_events_belong_to_one_device():
    with arrays.Device(1):
        event = streams.Event()
        with pytest.raises(RuntimeError, match="InvalidResourceHandle"):
            event.record(streams.handle(0x40, 0))
    with pytest.raises(RuntimeError, match="InvalidResourceHandle"):
        event.record()
    with pytest.raises(AssertionError, match="nobody has recorded"):
        streams.Stream.null.wait_event(event)


def test_exchange_by_dlpack():
    """Exchange keeps memory and device, and passes the protocol's streams. bfloat16 is refused."""
    with arrays.Device(1):
        array = arrays.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))[:, ::2]
    assert array.__dlpack_device__() == (2, 1)
    for value, made in enumerate((arrays.from_dlpack(array), arrays.asarray(others.OnlyInterface(array)))):
        assert (made.data.ptr, made.shape, made.strides, made.device) == (
            array.data.ptr,
            array.shape,
            array.strides,
            array.device,
        )
        made[0, 0] = value + 7
        assert array.get()[0, 0] == value + 7
    for stream in (0, -2, "1"):
        with pytest.raises(ValueError, match="valid stream"):
            array.__dlpack__(stream=stream)
    narrow = arrays.zeros(3, ml_dtypes.bfloat16)
    with pytest.raises(BufferError, match="dtype is not supported"):
        arrays.from_dlpack(narrow)
    with pytest.raises(NotImplementedError, match="bfloat16"):
        arrays.from_dlpack(others.OnlyDlpack(narrow))
    with pytest.raises(ValueError, match="Unsupported dtype"):
        arrays.asarray(others.OnlyInterface(narrow))
    with pytest.raises(TypeError, match="CPU arrays"):
        arrays.from_dlpack(np.zeros(3))
    capsule = array.__dlpack__(stream=-1)
    dlpack.to_host(capsule)
    with pytest.raises(AssertionError, match="not an unused capsule"):
        dlpack.to_host(capsule)


def test_interfaces_point_to_memory_of_a_device():
    host = np.zeros(3)
    stray = types.SimpleNamespace(__cuda_array_interface__=dict(host.__array_interface__))
    with pytest.raises(MemoryError):
        arrays.asarray(stray)
