"""The host side of the CUDA backend, on a GPU or emulated: devices, math modes, layouts, the launcher."""

import logging
import shutil
import threading
import time
import types
import weakref
from pathlib import Path

import numpy as np
import pytest

from fusedlstm import BackendUnavailableError, LSTMCell, LSTMState, LSTMWeights, lstm_pointwise, pack_state
from fusedlstm.backends.cuda.arguments import ClipArguments, Matrix, SelectArguments
from fusedlstm.backends.cuda.runtime.structs import Struct

from support.backends import needs_cuda
from support.structs import plain_kernel

pytestmark = needs_cuda


@pytest.fixture
def cupy():
    import cupy

    return cupy


def make(**options):
    return LSTMCell(LSTMWeights.random(16, 16, seed=0, **options), backend="cuda")


def arguments(cell, B=7, size=16):
    rng = np.random.default_rng(0)
    x, h, c = (cell.asarray(rng.normal(size=(B, size))) for _ in range(3))
    return x, LSTMState(h=h, c=c)


def test_highest_precision_ignores_the_handle(cupy):
    """CuPy's handle is shared. Its TF32 mode changes no bit, and is restored."""
    from cupy_backends.cuda.libs import cublas

    cell = make()
    wanted = cell(*arguments(cell)).to_numpy()
    handle = cupy.cuda.device.get_cublas_handle()
    cublas.setMathMode(handle, cublas.CUBLAS_TENSOR_OP_MATH)
    try:
        got = cell(*arguments(cell)).to_numpy()
        assert cublas.getMathMode(handle) == cublas.CUBLAS_TENSOR_OP_MATH
    finally:
        cublas.setMathMode(handle, cublas.CUBLAS_DEFAULT_MATH)
    np.testing.assert_array_equal(got.h, wanted.h)


@pytest.mark.parametrize("kernel", ["matmul", "tensor_small"])
def test_high_precision_is_tf32(kernel, cupy):
    """On GPUs with TF32, the result differs slightly from IEEE float32."""
    weights = LSTMWeights.random(256, 256, seed=0)
    exact = LSTMCell(weights, backend="cuda")
    fast = LSTMCell(weights, backend="cuda", precision="high", kernel=kernel)
    results = [cell(*arguments(cell, B=64, size=256)).to_numpy().h for cell in (exact, fast)]
    difference = np.abs(results[0] - results[1]).max()
    assert difference < 2e-3
    if int(cupy.cuda.Device().compute_capability) >= 80:
        assert difference > 0


def test_a_cell_runs_on_its_own_device(cupy):
    """The current device doesn't matter. Arrays of another device raise an error with their name."""
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    weights = LSTMWeights.random(16, 16, proj_size=3, proj_clip=0.1, seed=0)
    first, second = LSTMCell(weights, backend="cuda"), LSTMCell(weights, backend="cuda:1")
    assert second.device == "cuda:1"
    x, state = second.asarray(np.ones((5, 16))), second.zero_state(5)
    assert (x.device.id, state.h.device.id, cupy.cuda.runtime.getDevice()) == (1, 1, 0)
    got = second(x, state, is_first=[True, False] * 2 + [True], reset_to=second.zero_state(1))
    assert got.c.device.id == 1
    wanted = first(first.asarray(np.ones((5, 16))), first.zero_state(5)).to_numpy()
    np.testing.assert_array_equal(got.to_numpy().h, wanted.h)
    with pytest.raises(ValueError, match=r"^x: wanted an array on cuda:0; got one on cuda:1$"):
        first(x, first.zero_state(5))
    with pytest.raises(ValueError, match=r"^state\.c: wanted an array on cuda:1; got one on cuda:0$"):
        second(x, LSTMState(h=state.h, c=first.zero_state(5).c))
    with cupy.cuda.Device(1):
        mask = second.asarray(np.ones(5)) > 0
    with pytest.raises(ValueError, match=r"^is_first: wanted an array on cuda:0; got one on cuda:1$"):
        first(first.asarray(np.ones((5, 16))), first.zero_state(5), is_first=mask)
    assert pack_state(state, order="ch").device.id == 1
    moved = first.asarray(x)
    assert moved.device.id == 0
    np.testing.assert_array_equal(moved.get(), x.get())
    gates = second.asarray(np.ones((2, 8)))
    assert lstm_pointwise(gates, second.asarray(np.ones((2, 2)))).h.device.id == 1


def test_a_missing_device_raises(cupy):
    count = cupy.cuda.runtime.getDeviceCount()
    with pytest.raises(BackendUnavailableError, match=f"there is no GPU {count}: found {count}"):
        LSTMCell(LSTMWeights.random(1, 1, seed=0), backend=f"cuda:{count}")


def test_cuda_is_the_default(monkeypatch, caplog):
    monkeypatch.delenv("FUSEDLSTM_BACKEND", raising=False)
    with caplog.at_level(logging.INFO, logger="fusedlstm"):
        assert LSTMCell(LSTMWeights.random(3, 4, seed=0)).device == "cuda:0"
    assert "backend='cuda') on cuda:0" in caplog.text


def test_empty_arrays_overlap_nothing(cupy):
    from fusedlstm.backends.cuda.backend import backend_on

    array = cupy.zeros((4, 4))
    backend = backend_on(0)
    assert backend.overlap(array, array[1:])
    assert not backend.overlap(array, array[2:2])
    assert not backend.overlap(array[:2], array[2:])


# The launcher.


@pytest.fixture
def clip_kernel():
    return new_clip_kernel()


def new_clip_kernel():
    from fusedlstm.backends.cuda.runtime.kernel import Kernel

    return Kernel("clip.cu", "lstm_clip<float>", Struct(ClipArguments, T=np.dtype(np.float32)))


def test_launch(clip_kernel, cupy):
    h = cupy.asarray(np.array([-2, 0.5, 2], np.float32))
    clip_kernel((1,), (256,), ClipArguments(h, 3, 1))
    np.testing.assert_array_equal(h.get(), [-1, 0.5, 1])


def test_an_empty_grid_launches_nothing(clip_kernel, cupy):
    """CuPy would launch one block."""
    h = cupy.asarray(np.array([-2], np.float32))
    clip_kernel((0,), (256,), ClipArguments(h, 1, 1))
    np.testing.assert_array_equal(h.get(), [-2])


def test_a_kernel_is_loaded_once(clip_kernel, cupy, monkeypatch):
    """Several threads launch it first, at the same time."""
    loads, together = [], threading.Barrier(4)
    real = clip_kernel._load

    def load(device):
        loads.append(device)
        time.sleep(0.1)  # so that the other threads arrive meanwhile
        return real(device)

    monkeypatch.setattr(clip_kernel, "_load", load)

    def launch():
        together.wait()
        clip_kernel((1,), (256,), ClipArguments(cupy.zeros(3, np.float32), 3, 1))

    threads = [threading.Thread(target=launch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(3, np.float32), 3, 1), "^h must be a CuPy array of float32, not ndarray$"),
        ((3, 3, 1), "^h must be a CuPy array of float32, not int$"),
        (("float64", 3, 1), "^h must be a CuPy array of float32, not ndarray of float64$"),
        (("float32", 3.5, 1), "^ClipArguments: required argument is not an integer$"),
        (("float32", 3, None), "^ClipArguments: required argument is not a float$"),
    ],
)
def test_the_launcher_checks(clip_kernel, cupy, arguments, message):
    values = [cupy.zeros(3, value) if isinstance(value, str) else value for value in arguments]
    with pytest.raises(TypeError, match=message):
        clip_kernel((1,), (256,), ClipArguments(*values))


def test_the_launcher_names_nested_members(cupy):
    from fusedlstm.backends.cuda.kernels import select_kernel

    out, mask = cupy.zeros((2, 3)), cupy.zeros(2, np.bool_)
    arguments = SelectArguments(out, mask, Matrix(cupy.zeros((2, 3), np.float32), 3), 2, 3)
    with pytest.raises(TypeError, match=r"^value\.at must be a CuPy array of float64, not ndarray of float32$"):
        select_kernel(out.dtype)((1, 1), (4, 64), arguments)


def test_a_bound_launch_keeps_its_arrays(clip_kernel, cupy):
    """The struct has only addresses, so a bound launch keeps the arrays as long as it exists."""
    h = cupy.asarray(np.array([-2, 0.5, 2], np.float32))
    gone = weakref.ref(h)
    arguments = ClipArguments(h[:2], 2, 1)  # the view refers to h
    values = clip_kernel.struct.values(arguments)
    launch = clip_kernel.bound((1,), (256,), clip_kernel.struct.filled(values, clip_kernel.numbers(values)))
    del h, arguments, values
    assert gone() is not None
    launch()
    del launch
    assert gone() is None


REVERSED = str(Path(__file__).parent / "primitives.cu"), "shared_dynamically<float>"
KIB = 1 << 10


@pytest.mark.parametrize("shared", [0, 4, 48 * KIB, 48 * KIB + 4, 64 * KIB])
def test_dynamic_shared_memory(shared, cupy):
    """All of the memory can be used, in sizes that every GPU has."""
    kernel = plain_kernel(*REVERSED, shared=shared)
    values = np.random.default_rng(0).random(shared // 4, np.float32)
    out = cupy.zeros(values.size, np.float32)
    for _ in range(2):
        kernel.bound((1,), (256,), cupy.asarray(values), out, np.int64(values.size))()
        np.testing.assert_array_equal(out.get(), values[::-1])


def test_dynamic_shared_memory_in_a_graph(cupy):
    kernel = plain_kernel(*REVERSED, shared=64 * KIB)
    values = np.random.default_rng(0).random(16 * KIB, np.float32)
    given, out = cupy.asarray(values), cupy.zeros(values.size, np.float32)
    kernel.load()
    cupy.cuda.runtime.deviceSynchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        kernel.bound((1,), (256,), given, out, np.int64(values.size))()
        graph = stream.end_capture()
        graph.launch(stream)
        stream.synchronize()
    np.testing.assert_array_equal(out.get(), values[::-1])


def test_dynamic_shared_memory_must_be_allowed(cupy):
    """CUDA needs an attribute for more than 48 KiB, which Kernel sets."""
    from fusedlstm.backends.cuda.runtime import compile as compiler

    arch = compiler.architecture(cupy.cuda.Device(0).compute_capability)
    mangled, code, _ = compiler.compile_kernel(*REVERSED, arch)
    module = cupy.cuda.Module()
    module.load(code)
    function, driver = module.get_function(mangled), cupy.cuda.driver
    attribute = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    array, none = cupy.zeros(1, np.float32), np.int64(0)

    def launch(shared):
        function((1,), (32,), (array, array, none), shared_mem=shared)

    launch(48 * KIB)
    with pytest.raises(driver.CUDADriverError, match="CUDA_ERROR_INVALID_VALUE"):
        launch(48 * KIB + 4)
    driver.funcSetAttribute(function.ptr, attribute, 56 * KIB)
    launch(56 * KIB)
    with pytest.raises(driver.CUDADriverError, match="CUDA_ERROR_INVALID_VALUE"):
        launch(56 * KIB + 4)
    with pytest.raises(driver.CUDADriverError, match="CUDA_ERROR_INVALID_VALUE"):
        driver.funcSetAttribute(function.ptr, attribute, 228 * KIB)
    with pytest.raises(driver.CUDADriverError, match="CUDA_ERROR_INVALID_VALUE"):
        plain_kernel(*REVERSED, shared=228 * KIB).load()


@pytest.fixture
def copied_kernels(tmp_path, monkeypatch):
    """Return a copy of kernels/ to edit, with a separate cache."""
    from fusedlstm.backends.cuda.runtime import sources

    folder = shutil.copytree(sources.folder(), tmp_path / "kernels")
    monkeypatch.setattr(sources, "folder", lambda: folder)
    monkeypatch.setenv("FUSEDLSTM_CACHE_DIR", str(tmp_path / "cache"))
    digest = sources.digest
    digest.cache_clear()
    yield folder
    digest.cache_clear()


@pytest.mark.parametrize("stale", [False, True])
def test_edited_headers_are_compiled_again(stale, copied_kernels, cupy, monkeypatch):
    """A changed digest compiles the new code. With a stale digest, planted as a fault, the old code runs."""
    from fusedlstm.backends.cuda.runtime import sources

    def clip():
        h = cupy.asarray(np.array([-2, 0.5, 2], np.float32))
        new_clip_kernel()((1,), (256,), ClipArguments(h, 3, 1))
        return h.get().tolist()

    assert clip() == [-1, 0.5, 1]
    header = copied_kernels / "activations.cuh"
    old = sources.digest()
    header.write_text(header.read_text().replace("x > limit ? limit", "x > limit ? limit + limit"))
    sources.digest.cache_clear()
    if stale:
        monkeypatch.setattr(sources, "digest", lambda: old)
    assert clip() == [-1, 0.5, 1 if stale else 2]


# Layouts.


def views(array):
    """Return views of one (5, 4) array, and whether cuBLAS and the kernels can read them in place."""
    wide = array.repeat(3, axis=1)
    return [
        (array, True),
        (wide[:, 1:5], True),
        (wide[::2, :4], True),
        (array[:1], True),
        (array[:, :1], True),
        (wide[:, ::3], False),
        (array.T, False),
        (array[::-1], False),
        (array[:, ::-1], False),
    ]


def test_unfit_layouts_are_copied(cupy):
    from fusedlstm.backends.cuda.runtime.strides import row_stride, with_contiguous_rows

    array = cupy.asarray(np.arange(20.0).reshape(5, 4))
    for view, fits in [*views(array), (cupy.broadcast_to(array[:1], (3, 4)), False)]:
        ready = with_contiguous_rows(view)
        assert (ready is view) == fits
        np.testing.assert_array_equal(ready.get(), view.get())
        assert row_stride(ready) >= max(1, ready.shape[1])


@pytest.mark.parametrize(
    ("strides", "fits"),
    [((32, 4), True), ((4 * (2**31 - 1), 4), True), ((4 * 2**31, 4), False), ((33, 4), False), ((28, 4), False)],
)
def test_row_strides_that_cublas_takes(strides, fits, monkeypatch):
    """Rows are whole elements apart, fewer than 2^31, without overlap."""
    from fusedlstm.backends.cuda.runtime import strides as layout

    monkeypatch.setattr(layout.cupy, "ascontiguousarray", lambda a: "a copy")
    array = types.SimpleNamespace(shape=(3, 8), strides=strides, itemsize=4)
    assert (layout.with_contiguous_rows(array) is array) == fits


def byte_bounds(array):
    """Return the first address and the one after the last, from the addresses of all elements."""
    steps = np.indices(array.shape).reshape(array.ndim, -1).T @ np.array(array.strides)
    return array.ctypes.data + steps.min(), array.ctypes.data + steps.max() + array.itemsize


def test_spans(cupy):
    """First and last address equal NumPy's."""
    from fusedlstm.backends.cuda.runtime.strides import span

    array = cupy.asarray(np.arange(20.0).reshape(5, 4))
    twin = np.arange(20.0).reshape(5, 4)
    for (view, _), (same, _) in zip(
        views(array)[:1] + views(array)[6:], views(twin)[:1] + views(twin)[6:], strict=True
    ):
        start, end = span(view)
        low, high = byte_bounds(same)
        assert (start - array.data.ptr, end - start) == (low - twin.ctypes.data, high - low)
    assert len(set(span(array[:0]))) == 1


def test_alignment(cupy):
    from fusedlstm.backends.cuda.runtime.strides import is_aligned

    array = cupy.zeros((4, 12), np.float32)
    assert is_aligned(array, 4)
    assert is_aligned(array[:, 4:8], 4)
    assert not is_aligned(array[:, 1:5], 4)
    assert not is_aligned(array[:, 2:6], 4), "8 bytes are only half a vector"
    assert not is_aligned(cupy.zeros((4, 5), np.float32)[:, :4], 4)
    assert is_aligned(cupy.zeros((4, 5), np.float32)[:1, :4], 4)
    assert is_aligned(cupy.zeros((4, 6), np.float64)[:, 2:6], 4), "4 doubles are two aligned vectors of 16 bytes"
