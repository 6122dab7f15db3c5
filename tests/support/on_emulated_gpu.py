"""For tests on the emulated GPU: kernels, graphs, streams, and bits."""

import gc
import os

import numpy as np
import pytest

from driver import observe
from support import tolerances
from support.cells import host

KERNELS = {
    ("float64", "highest"): ["simt"],
    ("float32", "highest"): ["simt"],
    ("float32", "high"): ["tensor_large", "tensor_medium", "tensor_small"],
    ("float16", "highest"): ["tensor_large", "tensor_medium", "tensor_small"],
    ("bfloat16", "highest"): ["tensor_large", "tensor_medium", "tensor_small"],
}

FORCED = [(kernel, *kind) for kind, kernels in KERNELS.items() for kernel in kernels]

# TF32 rounds x and the weights to 11 bits, the precision of float16.
TOLERANCE = {"high": 2 * tolerances.ONE_STEP["float16"]}

needs_own_memory = pytest.mark.skipif(
    os.environ.get("DRIVER_ORDER", "now") != "now", reason="counts memory, and CuPy's pool keeps freed memory"
)


def bits(*arrays):
    return [host(array).tobytes() for array in arrays]


def bits_of(state):
    return bits(*(part for each in (state if isinstance(state, tuple) else (state,)) for part in (each.h, each.c)))


def nodes(stepper):
    """Return the nodes of a Stepper's graph: the names of kernels, and the kinds of others."""
    return nodes_of(stepper._engine._graph)


def nodes_of(graph):
    return [name.partition("<")[0] if kind == "kernel" else kind for kind, name in observe.steps(graph)]


def cupys_kernels():
    """Return the launched kernels of CuPy, which CuPy compiles when they are first needed."""
    return [entry.name for entry in observe.log() if entry.name.startswith("cupy")]


def settle():
    """Wait for the GPU, and free everything that was kept for its work, even by other tests."""
    import cupy

    from fusedlstm.backends.cuda.runtime.streams import _release_finished

    cupy.cuda.Device().synchronize()
    gc.collect()
    _release_finished()
    gc.collect()


def on_device(slots, dtype=np.int64):
    import cupy

    return cupy.asarray(np.array(slots, dtype))


def assert_after(first, second, start=0):
    """Check that stream `second` waits for an event recorded on `first`. Return the wait's place in the log."""
    recorded = {}
    log = observe.log()
    for place, (what, stream, *rest) in enumerate(log):
        if what == "record" and place >= start:
            recorded[rest[0]] = stream
        if what == "wait" and stream == second and recorded.get(rest[0]) == first:
            return place
    raise AssertionError(f"{second:#x} never waits for {first:#x}: {log}")
