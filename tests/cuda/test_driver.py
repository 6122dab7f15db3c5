"""The fake driver: devices, what it lacks, and kernels in the emulator."""

import importlib.metadata
import re

import numpy as np
import pytest

from support import driver_child
from support.places import ROOT

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = driver_child.of_the_driver

runtime = cupy.cuda.runtime


def test_missing_functions_are_named(capfd):
    """Functions of CUDA's runtime, which is linked into CuPy, and of cuBLAS."""
    from cupy_backends.cuda.libs import cublas

    with pytest.raises(runtime.CUDARuntimeError, match="999"):
        runtime.mallocManaged(8)
    with pytest.raises((cublas.CUBLASError, KeyError), match="999"):
        cublas.sger(cupy.cuda.device.get_cublas_handle(), 1, 1, 0, 0, 1, 0, 1, 0, 1)
    said = capfd.readouterr().err
    assert "cudaMallocManaged was called, but the driver lacks it" in said
    assert "cublasSger_v2 was called, but the driver lacks it" in said


def test_install_after_cupy_raises():
    import driver

    with pytest.raises(RuntimeError, match="before CuPy is imported"):
        driver.install()


def test_new_launch_struct_rebuilds_the_driver(monkeypatch, tmp_path):
    """The driver passes this struct to emulated kernels."""
    from driver import build

    digest = build._digest()
    (tmp_path / "launch.h").write_text("struct Launch;")
    monkeypatch.setattr(build, "_EMULATOR", tmp_path)
    assert build._digest() != digest


def test_each_device_has_its_own_memory():
    with cupy.cuda.Device(1):
        there, stream, event = cupy.zeros(4), cupy.cuda.Stream(), cupy.cuda.Event()
    assert runtime.getDeviceCount() == 2
    assert runtime.pointerGetAttributes(there.data.ptr).device == 1
    for work in (
        lambda: runtime.memsetAsync(there.data.ptr, 0, 8, 0),  # another device's memory
        lambda: runtime.memsetAsync(cupy.zeros(4).data.ptr, 0, 8, stream.ptr),  # another device's stream
        lambda: runtime.eventRecord(event.ptr, 0),
        lambda: runtime.setDevice(2),
    ):
        with pytest.raises(runtime.CUDARuntimeError, match=r"cudaErrorInvalid(Value|ResourceHandle|Device)"):
            work()


def test_default_streams_are_not_destroyed():
    for handle in (0, runtime.streamLegacy, runtime.streamPerThread):
        with pytest.raises(runtime.CUDARuntimeError, match="cudaErrorInvalidResourceHandle"):
            runtime.streamDestroy(handle)


def test_elapsed_time_needs_events_with_timing():
    def elapsed(**options):
        first, last = cupy.cuda.Event(**options), cupy.cuda.Event(**options)
        first.record()
        last.record()
        last.synchronize()
        return cupy.cuda.get_elapsed_time(first, last)

    assert elapsed() >= 0
    with pytest.raises(runtime.CUDARuntimeError, match="cudaErrorInvalidResourceHandle"):
        elapsed(disable_timing=True)


def test_launches_beyond_limits_are_refused():
    function = cupy.RawKernel('extern "C" __global__ void nothing(int) {}', "nothing")
    function((1,), (1024,), (np.int32(0),))
    function((1,), (1, 16, 64), (np.int32(0),))
    for grid, block, shared in (
        ((1,), (1025,), 0),
        ((1,), (1, 1, 65), 0),
        ((1,), (1 << 16, 1 << 16), 0),  # 0 in 32 bits
        ((1, 65536), (1,), 0),
        ((1,), (1,), (48 << 10) + 1),
    ):
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="INVALID_VALUE"):
            function(grid, block, (np.int32(0),), shared_mem=shared)


def test_cooperative_launches_must_fit():
    kernel = cupy.RawKernel('extern "C" __global__ void once() {}', "once").kernel
    cupy.cuda.driver.launchCooperativeKernel(kernel.ptr, 132, 1, 1, 32, 1, 1, 0, 0, 0)
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="COOPERATIVE_LAUNCH_TOO_LARGE"):
        cupy.cuda.driver.launchCooperativeKernel(kernel.ptr, 133, 1, 1, 32, 1, 1, 0, 0, 0)


def test_code_that_nvrtc_did_not_make_is_refused():
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="INVALID_IMAGE"):
        cupy.cuda.Module().load(b"\x7fELF of another compiler")


def test_kernels_of_unloaded_modules_dont_run():
    """Even in a graph, which doesn't keep its kernels."""
    program = """
        source = 'extern "C" __global__ void add(double* to) { *to += 1; }'
        module = cupy.cuda.Module()
        module.load(cupy.cuda.compiler.compile_using_nvrtc(source)[0])
        a, stream, function = cupy.zeros(1), cupy.cuda.Stream(non_blocking=True), module.get_function("add")
        stream.begin_capture()
        with stream:
            function((1,), (1,), (a,))
        graph = stream.end_capture()
        graph.launch(stream)
        stream.synchronize()
        print(float(a[0]))
        del function, module
        try:
            graph.launch(stream)
        except runtime.CUDARuntimeError as error:
            print(error)
    """
    said = driver_child.run(program).stdout
    assert said == "1.0\ncudaErrorLaunchFailure: add: its module has been unloaded\n"


BEYOND_A_VIEW = """
    from fusedlstm.backends.cuda.arguments import ClipArguments
    from fusedlstm.backends.cuda.kernels import clip_kernel
    from fusedlstm.backends.cuda.runtime.kernel import Launch
    from fusedlstm.backends.cuda.runtime.packed import PackedLaunch, members_named

    h = cupy.zeros(8, np.float32)

    def clip(count):
        clip_kernel(h.dtype)((1,), (256,), ClipArguments(h[:4], count=count, limit=1.0))
        runtime.deviceSynchronize()

    def clip_again(count):
        # Repeat a packed launch on other views, the last of which is so many elements short.
        first = Launch(clip_kernel(h.dtype), (1,), (256,), ClipArguments(h[:4], count=4, limit=1.0))
        again = PackedLaunch(first, members_named(first, {"h": 0}))
        again.queue(0, (h[4:].data.ptr,))
        again.queue(0, (h[4 : 8 - count],))
        runtime.deviceSynchronize()

    clip(4)
    for work in (lambda: clip(5) if PLAIN else clip_again(1), h.get):
        try:
            work()
        except (runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError) as error:
            print(error)
"""


@pytest.mark.parametrize("order", ["now", "late"])
@pytest.mark.parametrize("plain", [True, False])
def test_a_read_beyond_a_view_is_reported(plain, order):
    """With FUSEDLSTM_EMULATION=check, even if there is memory behind the view. All later calls fail."""
    program = BEYOND_A_VIEW.replace("PLAIN", str(plain))
    said = driver_child.run(program, FUSEDLSTM_EMULATION="check", DRIVER_ORDER=order).stdout.splitlines()
    assert len(said) == 2
    for line in said:
        assert "lstm_clip<float>: out of bounds: a 4-byte read that ends 4 bytes after the end of 'h'" in line


def test_caches_of_the_user_stay_empty(tmp_path):
    """Otherwise the user's real GPU would get the fake NVRTC's code."""
    said = driver_child.run(
        """
        from fusedlstm import LSTMCell, LSTMWeights

        cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend="cuda")
        print(cell(cell.asarray(np.ones((2, 3))), cell.zero_state(2)).h.shape)
        """,
        HOME=str(tmp_path),
        XDG_CACHE_HOME=str(tmp_path),
        FUSEDLSTM_CACHE_DIR=None,
    )
    assert said.stdout == "(2, 4)\n", said.stderr
    assert not list(tmp_path.iterdir())


def test_headers_of_cuda_come_with_the_extra_test():
    """The driver is compiled where nothing else is installed. A cached one would hide that a header is missing."""
    files = [file for name in ("driver", "emulation") for file in (ROOT / "tests" / name).rglob("*.*")]
    files = [file for file in files if file.suffix in (".h", ".cpp", ".cuh")]
    included = {name for file in files for name in re.findall(r"#include <(.+)>", file.read_text(encoding="utf-8"))}
    brought = {
        file.name
        for package in ("nvidia-cuda-runtime", "nvidia-cuda-crt")
        for file in importlib.metadata.files(package)
        if file.suffix == ".h"
    }
    of_linux = {"dlfcn.h", "ucontext.h", "sys/mman.h", "sys/stat.h"}
    assert {name for name in included if name.endswith(".h")} - of_linux <= brought
    assert "cuda.h" in included
