"""A trace has every access to shared memory, and no other."""

import numpy as np
import pytest

from emulation import Module
from support.emulated import needs_emulation
from support.places import KERNELS

pytestmark = needs_emulation

SWAP = """#include "primitives.cuh"
DEVICE void put_down(float* at, float value) { *at = value; }

template <typename T> __global__ void swapped(const T* in, T* out) {
  SHARED_ARRAY(T, kept, 32 * 8);
  put_down(kept + 8 * threadIdx.x, in[threadIdx.x]);
  copy_async_16(kept + 8 * threadIdx.x + 4, in, 16);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  out[32 * blockIdx.x + threadIdx.x] = kept[8 * (threadIdx.x ^ 1)];
}
"""
PLACES = [[("swapped.cu", 2), ("swapped.cu", 6)], [("swapped.cu", 7)], [("swapped.cu", 11)]]


@pytest.fixture
def launch(tmp_path):
    """Return a function that launches the kernel, and returns the report."""
    (tmp_path / "swapped.cu").write_text(SWAP)

    def launched(mode="check", **options):
        function = Module(tmp_path / "swapped.cu", ["swapped<float>"], mode, [f"-I{KERNELS}"]).function(
            "swapped<float>"
        )
        numbers = np.arange(32, dtype=np.float32)
        return function((2,), (32,), (numbers, np.zeros(64, np.float32)), **options)

    return launched


def test_accesses_are_traced(launch):
    """A copy counts once, where it is queued. Accesses to global memory don't count."""
    found = launch(trace=True).trace
    of_block = found.accesses[found.accesses["block"] == 1]
    base = of_block["address"].min()
    rows = [(*row, found.lines[place]) for place, *row in of_block.tolist()]
    for thread in range(32):
        mine = [row for row in rows if row[2] == thread]
        offsets = [(int(address - base), size, writes) for address, _, _, size, writes, _ in mine]
        assert offsets == [(32 * thread, 4, 1), (32 * thread + 16, 16, 1), (32 * (thread ^ 1), 4, 0)]
        assert [row[-1] for row in mine] == PLACES


def test_launches_are_traced_if_asked(launch):
    assert launch().trace is None
    with pytest.raises(ValueError, match="only the mode check traces shared memory"):
        launch("fast", trace=True)


def test_a_long_trace_is_refused(launch, monkeypatch):
    monkeypatch.setattr("emulation.launch.ROOM", 191)
    with pytest.raises(ValueError, match="192 accesses to shared memory: a trace has room for 191"):
        launch(trace=True)
    monkeypatch.setattr("emulation.launch.ROOM", 192)
    assert len(launch(trace=True).trace.accesses) == 192
