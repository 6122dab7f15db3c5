"""Measure a GPU's rates with CuPy: copies, matrix products, special functions, launches and nodes of a CUDA graph."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

import cupy
import numpy as np

from benchmarks.constants import Constants
from fusedlstm.arrays import dtypes
from fusedlstm.backends.cuda.runtime import cublas

if TYPE_CHECKING:
    from collections.abc import Callable

COPIES = (1 << 24, 1 << 30)  # bytes of both arrays: one fits the L2 of a large GPU, the other doesn't
PRODUCT = 4096
LAUNCHES = 1000
ROUNDS = 64  # evaluations a thread
ARITHMETICS = {  # of products: the dtype of the operands, and the precision
    "float64": ("float64", "highest"),
    "float32": ("float32", "highest"),
    "tf32": ("float32", "high"),
    "float16": ("float16", "highest"),
    "bfloat16": ("bfloat16", "highest"),
}

_SOURCE = """
extern "C" __global__ void nothing(float* out) {}

// Repeats the hardware's tanh in a register. The store keeps the compiler from dropping it.
extern "C" __global__ void special(float* out) {
    float value = 0.5f + threadIdx.x * 1e-3f;
    for (int i = 0; i < %d; ++i) asm volatile("tanh.approx.f32 %%0, %%0;" : "+f"(value));
    out[blockIdx.x * (size_t)blockDim.x + threadIdx.x] = value;
}
"""


def calibrate(index: int, threads: int) -> Constants:
    """Measure this GPU. `threads` is only recorded."""
    with cupy.cuda.Device(index) as device, cupy.cuda.Stream(non_blocking=True) as stream:
        module = cupy.RawModule(code=_SOURCE % ROUNDS)
        nothing, special = module.get_function("nothing"), module.get_function("special")
        empty = cupy.empty(1, np.float32)

        def launch() -> None:
            nothing((1,), (32,), (empty,))

        rate = special_rate(special, device.attributes["MultiProcessorCount"], stream)
        return Constants(
            device=f"cuda:{index}",
            threads=threads,
            copy=tuple((size, copy_rate(size, stream)) for size in COPIES),
            matmul={name: matmul_rate(*options, stream) for name, options in ARITHMETICS.items()},
            special={"float32": rate},
            launch=launch_seconds(launch, stream),
            node=graph_seconds(launch, LAUNCHES, stream),
        )


def device_seconds(work: Callable[[], object], stream: cupy.cuda.Stream, times: int = 10) -> float:
    """Return the shortest time on the device of a call's work, by events. The first call only warms up."""
    measured = []
    for _ in range(times + 1):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record(stream)
        work()
        end.record(stream)
        end.synchronize()
        measured.append(cupy.cuda.get_elapsed_time(start, end) / 1e3)
    return min(measured[1:])


def graph_seconds(work: Callable[[], object], times: int, stream: cupy.cuda.Stream) -> float:
    """Return the seconds of each of many calls, one after the other in one CUDA graph."""
    work()  # compiled and loaded before it is captured
    stream.synchronize()
    stream.begin_capture()
    for _ in range(times):
        work()
    graph = stream.end_capture()
    return device_seconds(lambda: graph.launch(stream), stream) / times


def launch_seconds(launch: Callable[[], object], stream: cupy.cuda.Stream) -> float:
    """Return the seconds from one launch to the next, if the CPU launches one by one."""
    measured = []
    for _ in range(3):
        stream.synchronize()
        start = time.perf_counter()
        for _ in range(LAUNCHES):
            launch()
        stream.synchronize()
        measured.append((time.perf_counter() - start) / LAUNCHES)
    return min(measured)


def copy_rate(size: int, stream: cupy.cuda.Stream) -> float:
    """Return the bytes that a copy reads and writes in a second. Both arrays together have this size."""
    source = cupy.ones(size // 2, np.uint8)
    target = cupy.empty_like(source)
    # In a graph, because launching a small copy takes longer than the copy.
    return size / graph_seconds(lambda: cupy.copyto(target, source), 20, stream)


def matmul_rate(dtype: str, precision: str, stream: cupy.cuda.Stream) -> float:
    """Return the flop a second of the backend's square product. Its numbers are random, as zeros take less power."""
    size = PRODUCT // 2 if dtype == "float64" else PRODUCT  # most GPUs are slow at float64
    operand = cupy.asarray(random(size).astype(dtypes.resolve(dtype)))
    out = cupy.empty((size, size), np.float64 if dtype == "float64" else np.float32)
    return 2 * size**3 / device_seconds(lambda: cublas.write_product(out, operand, operand, precision), stream)


@functools.cache
def random(size: int) -> np.ndarray:
    """Return a square of random numbers from the CPU. CuPy's generator needs a library that no extra installs."""
    return np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)


def special_rate(kernel: cupy.RawKernel, multiprocessors: int, stream: cupy.cuda.Stream) -> float:
    """Return how many times a second the hardware evaluates tanh."""
    blocks, threads = 64 * multiprocessors, 256
    out = cupy.empty(blocks * threads, np.float32)
    seconds = device_seconds(lambda: kernel((blocks,), (threads,), (out,)), stream)
    return blocks * threads * ROUNDS / seconds
