"""Time what happens once in a process: import, weights from a file, and the first call, cold and warm."""

import shutil

import numpy as np
import pytest

from benchmarks.fresh import Clock
from benchmarks.machine import devices
from fusedlstm import StackedWeights

CLOCK = Clock()
# Marks tests whose `pedantic` runs `CLOCK.run`. Their times are the seconds that fresh processes print.
by_its_own_clock = pytest.mark.benchmark(timer=CLOCK)

# Time fusedlstm's own import. NumPy is imported first, as every user needs it anyway.
IMPORT = """
import time
import numpy
start = time.perf_counter()
import fusedlstm
print(time.perf_counter() - start)
"""

# On a GPU, CUDA's context and cuBLAS's handle are created before the clock starts.
FIRST_CALL = """
import time
import numpy as np
from fusedlstm import LSTMCell, LSTMWeights
weights = LSTMWeights.random(128, 128, seed=0)
x = np.random.default_rng(0).normal(size=(32, 128)).astype(np.float32)
if {backend!r} == "cuda":
    import cupy
    cupy.empty((2, 2)) @ cupy.empty((2, 2))
    cupy.cuda.Device().synchronize()
start = time.perf_counter()
cell = LSTMCell(weights, backend={backend!r})
state = cell(cell.asarray(x), cell.zero_state(32)).to_numpy()
seconds = time.perf_counter() - start
exact = LSTMCell(weights.astype("float64"), backend="numpy")
assert abs(state.h - exact(x.astype(float), exact.zero_state(32)).h).max() < 1e-5
print(seconds)
"""

# NVRTC's part of a cold first call, including its own loading. It needs no GPU.
COMPILE = """
import time
import numpy as np
from fusedlstm.backends.cuda import kernels
from fusedlstm.backends.cuda.runtime import compile
from fusedlstm.functions import Functions
float32 = np.dtype(np.float32)
kernel = kernels.pointwise_kernel(float32, float32, 4, Functions(), False, False, False)
start = time.perf_counter()
mangled, code, log = compile.compile_kernel(kernel.file, kernel.name, "-arch=sm_90")
seconds = time.perf_counter() - start
assert len(code) > 1000
print(seconds)
"""


def about(benchmark, what, device, peer="fusedlstm", **more):
    benchmark.group = f"once in a process: {what}"
    benchmark.extra_info.update(peer=peer, kind="once", case=what, device=device, **more)


@by_its_own_clock
def test_import(benchmark, rounds):
    about(benchmark, "import", "cpu", ours=True)
    benchmark.pedantic(CLOCK.run, (IMPORT,), rounds=rounds)


@by_its_own_clock
def test_compile(benchmark, rounds):
    """Compile the one kernel that a plain float32 step needs, for compute capability 9.0."""
    about(benchmark, "NVRTC's part of the first call", "cpu", ours=True)
    try:
        from fusedlstm.backends.cuda.runtime.compile import cuda_headers, nvrtc

        nvrtc.getVersion()
        cuda_headers()
    except Exception as error:  # CuPy raises errors of several kinds
        benchmark.skipped = True
        pytest.skip(f"NVRTC can't run here: {error}")
    benchmark.pedantic(CLOCK.run, (COMPILE,), rounds=rounds)


@by_its_own_clock
def test_first_call_numpy(benchmark, rounds):
    about(benchmark, "first call", "cpu", ours=True)
    benchmark.pedantic(CLOCK.run, (FIRST_CALL.format(backend="numpy"),), rounds=rounds)


@by_its_own_clock
@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_first_call_cuda(benchmark, rounds, cache, tmp_path, request):
    about(benchmark, f"first call, {cache} cache of kernels", "cuda", ours=True)
    if "cuda" not in devices(request.config.getoption("device")):
        benchmark.skipped = True
        pytest.skip("no GPU is timed")
    code, folder = FIRST_CALL.format(backend="cuda"), tmp_path / "kernels"

    def folder_for_a_round():
        if cache == "cold":
            shutil.rmtree(folder, ignore_errors=True)
        return (code,), {"FUSEDLSTM_CACHE_DIR": str(folder)}

    # The warm-up round fills the folder for the rounds that count.
    benchmark.pedantic(CLOCK.run, setup=folder_for_a_round, rounds=rounds, warmup_rounds=1)


def from_numpy(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def from_safetensors(path):
    from safetensors.numpy import load_file

    return load_file(path)


@pytest.mark.parametrize("size", [(128, 1), (640, 2)], ids=lambda size: "N{}-L{}".format(*size))
@pytest.mark.parametrize("how", ["StackedWeights.load", "safetensors", "numpy.load"])
def test_weights(benchmark, how, size, tmp_path):
    """Load a file that was just written, so that the system has it in memory. Ours also verifies its checksum."""
    N, layers = size
    about(benchmark, f"load weights, N = I = {N}, {layers} layers", "cpu", N=N, layers=layers, peer=how)
    benchmark.extra_info["ours"] = how == "StackedWeights.load"
    weights = StackedWeights.random(N, N, layers, seed=0)
    if how == "numpy.load":
        path = tmp_path / "weights.npz"
        np.savez(path, **{f"{k}.{name}": a for k, w in enumerate(weights.layers) for name, a in w.arrays().items()})
        loaded = benchmark(from_numpy, path)
    else:
        path = tmp_path / "weights.safetensors"
        weights.save(path)
        load = StackedWeights.load if benchmark.extra_info["ours"] else from_safetensors
        loaded = benchmark(load, path)
    last = loaded.layers[-1].weight_hh if isinstance(loaded, StackedWeights) else loaded[f"{layers - 1}.weight_hh"]
    np.testing.assert_array_equal(last, weights.layers[-1].weight_hh)
