"""The probes' checks: wrong data gets no time. The kernels run on a GPU, and here unless they have PTX."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.brief import source
from benchmarks.brief.event_time import Times
from benchmarks.probes import fragments
from benchmarks.probes.child import PROBES, line

from emulation import Module
from support.backends import BACKENDS, needs_cuda
from support.places import KERNELS

pytestmark = needs_cuda

MICROSECOND = {"median": 1e-6, "p10": 1e-6, "p90": 1e-6}


class Timer:
    """Runs the work, and says that the first took 1 us, the second 2 us, and so on."""

    def __init__(self):
        self.dry, self.timed = False, 0

    def times(self, queue, **_):
        queue()
        self.timed += 1
        each = self.timed * 1e-6
        return Times(dict.fromkeys(MICROSECOND, each), MICROSECOND)


@pytest.fixture
def gpu():
    """A Gpu without the kernels of its timer."""
    from benchmarks.probes.gpu import Gpu

    made = object.__new__(Gpu)
    made.dry, made.capability, made.multiprocessors, made.timer = False, 90, 2, Timer()
    return made


def of_kernels(gpu, **kernels):
    """Let a Gpu have these functions as kernels. Their arguments are a grid, a block, and a kernel's arguments."""
    gpu.compile = lambda file: lambda name: kernels[name]
    gpu.allow_large_cluster = lambda kernel: None
    return gpu


def probe(name, gpu):
    return list(importlib.import_module(f"benchmarks.probes.{name}").probe(gpu))


def test_empty_launch_is_taken_off(gpu):
    row = gpu.row("it", lambda: None, complaint=lambda: None, empty=lambda: None, rounds=10, bytes=8)
    assert row["state"] == "measured"
    assert (row["empty_seconds"]["median"], row["seconds"]["median"]) == pytest.approx((1e-6, 2e-6))
    assert row["seconds_of_round"]["median"] == pytest.approx(1e-7)
    assert row["bytes"] == 8


def test_wrong_data_is_not_timed(gpu):
    row = gpu.row("it", lambda: None, complaint=lambda: "2 words were wrong")
    assert (row["state"], row["why"], gpu.timer.timed) == ("wrong", "2 words were wrong", 0)


def test_data_that_goes_wrong_later_is_refused(gpu):
    complaints = iter([None, "later"])
    row = gpu.row("it", lambda: None, complaint=lambda: next(complaints))
    assert (row["state"], row["why"], gpu.timer.timed) == ("wrong", "later", 1)
    assert "seconds" not in row


@pytest.mark.parametrize(("error", "state"), [(912, "unsupported"), (720, "unsupported"), (1, "failed")])
def test_refused_launch_is_a_row(error, state, gpu, monkeypatch):
    import cupy

    names = {912: "CUDA_ERROR_INVALID_CLUSTER_SIZE", 720: "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", 1: "another"}

    class RefusedError(cupy.cuda.driver.CUDADriverError):
        def __init__(self):
            self.status = error

        def __str__(self):
            return names[error]

    def refuse():
        raise RefusedError

    row = gpu.row("it", refuse, complaint=lambda: None)
    assert (row["state"], row["why"]) == (state, names[error])


def test_old_gpu_has_no_clusters(gpu):
    gpu.capability = 80
    for name in ("cluster_barrier", "cluster_exchange"):
        (row,) = probe(name, gpu)
        assert row["state"] == "unsupported"


def test_launches(gpu, monkeypatch):
    launches = importlib.import_module("benchmarks.probes.launches")
    monkeypatch.setattr(launches, "NODES", 5)
    monkeypatch.setattr(launches, "_CALLS", 3)
    rows = probe("launches", gpu)
    assert [row["state"] for row in rows] == ["measured"] * 7
    assert "us" in line({"probe": "launches", **rows[0]})


def test_lost_launch_is_found(gpu, monkeypatch):
    launches = importlib.import_module("benchmarks.probes.launches")
    monkeypatch.setattr(launches, "NODES", 5)
    monkeypatch.setattr(launches, "_CALLS", 3)
    monkeypatch.setattr(launches.Packed, "launch", lambda self: None)
    rows = {row["variant"]: row for row in probe("launches", gpu)}
    assert rows["host: cupy.cuda.driver.launchKernel"]["state"] == "wrong"


def test_pinned(gpu, monkeypatch):
    pinned = importlib.import_module("benchmarks.probes.pinned")
    monkeypatch.setattr(pinned, "TRIPS", 3)
    rows = probe("pinned", gpu)
    assert [row["state"] for row in rows] == ["measured"] * 27
    assert all(row["trip_seconds"] for row in rows)


def test_copy_that_is_not_made_is_found(gpu, monkeypatch):
    pinned = importlib.import_module("benchmarks.probes.pinned")
    monkeypatch.setattr(pinned, "SIZES", (256,))
    monkeypatch.setattr(pinned, "TRIPS", 3)
    monkeypatch.setattr(pinned, "_queue_download", lambda to, rows: None)
    for row in probe("pinned", gpu):
        assert row["state"] == ("wrong" if row["variant"].endswith("out: copy") else "measured")


@pytest.fixture
def copies(monkeypatch):
    module = importlib.import_module("benchmarks.probes.copies")
    for name, value in {"SIZES": (1 << 17,), "READS": (1 << 16,), "_CHECKING": ((2,), (64,)), "PASSES": 3}.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_copies(gpu, copies):
    rows = probe("copies", gpu)
    assert [row["state"] for row in rows] == ["measured"] * 3, rows
    assert rows[0]["bytes_per_second"] == pytest.approx(3 * (1 << 16) / 1e-6)


def test_copy_of_other_data_is_found(gpu, copies, monkeypatch):
    filled = copies._filled

    def filled_otherwise(kernel, nbytes):
        words = filled(kernel, nbytes)
        words[-1] += 1
        return words

    monkeypatch.setattr(copies, "_filled", filled_otherwise)
    states = [row["state"] for row in probe("copies", gpu)]
    assert states == ["measured", "wrong", "wrong"]  # a read compares with what was there


def copied_rows(grid, block, arguments):
    """Do what copy_rows of row_copies.cu does."""
    to, to_pitch, a, pitch, rows, vectors = arguments
    words = 4 * int(vectors)
    of = a.reshape(int(rows), 4 * int(pitch))[:, :words]
    to.reshape(int(rows), 4 * int(to_pitch))[:, :words].set(np.ascontiguousarray(of.get()))


def filled_rows(grid, block, arguments):
    words, size, _ = arguments
    words.set(np.arange(int(size), dtype=np.uint32))


def count_wrong_rows(grid, block, arguments):
    counts, words, rows, columns, pitch, _ = arguments
    wanted = np.arange(int(rows))[:, None] * int(pitch) + np.arange(int(columns))
    wrong = np.count_nonzero(words.get().reshape(wanted.shape) != wanted)
    counts.set(counts.get() + np.array([wrong, 0], np.uint64))


@pytest.fixture
def row_copies(monkeypatch):
    """Return the probe, whose graphs are replaced by the work itself: a kernel in Python can't be captured."""
    module = importlib.import_module("benchmarks.probes.row_copies")
    monkeypatch.setattr(module, "SHAPES", ((1, 512), (5, 32)))
    for_graph = type("Graph", (), {"__init__": lambda self, work: setattr(self, "launch", lambda stream: work())})
    monkeypatch.setattr(module, "repeated", lambda work, times, stream: for_graph(work))
    return module


ROW_COPIES = {"copy_rows": copied_rows, "fill_rows": filled_rows, "count_wrong_rows": count_wrong_rows}


@pytest.mark.usefixtures("row_copies")
def test_row_copies(gpu):
    rows = probe("row_copies", of_kernels(gpu, **ROW_COPIES))
    assert [row["state"] for row in rows] == ["measured"] * 4, rows
    assert [row["bytes"] for row in rows] == [1024, 1024, 320, 320]
    assert rows[0]["variant"] == "cudaMemcpy2DAsync of 1 x 512 bytes"


@pytest.mark.usefixtures("row_copies")
def test_lost_row_is_found(gpu):
    """The kernel leaves out the last row."""

    def fewer(grid, block, arguments):
        *begin, rows, vectors = arguments
        to, to_pitch, a, pitch = begin
        if int(rows) > 1:
            copied_rows(
                grid, block, (to[: -4 * int(to_pitch)], to_pitch, a[: -4 * int(pitch)], pitch, rows - 1, vectors)
            )

    rows = probe("row_copies", of_kernels(gpu, **ROW_COPIES | {"copy_rows": fewer}))
    assert [row["state"] for row in rows] == ["measured", "wrong"] * 2


@pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the emulator")
def test_row_kernel_copies_rows(tmp_path):
    """The kernel itself, in the emulator. Only the source has gaps. Each of 3 blocks copies 2 of the 7 rows at once."""
    (tmp_path / "row_copies.cu").write_text(source.text("row_copies.cu"))
    module = Module(tmp_path / "row_copies.cu", ["copy_rows", "fill_rows", "count_wrong_rows"], mode="fast")
    a, to, counts = np.zeros((7, 12), np.uint32), np.zeros((7, 8), np.uint32), np.zeros(2, np.uint64)
    u64 = np.uint64
    module.function("fill_rows")((2,), (32,), (a, u64(a.size), np.uint32(11)))
    assert len(np.unique(a)) == a.size
    vectors = to.view("V16"), u64(2), a.view("V16"), u64(3), u64(7), u64(2)
    module.function("copy_rows")((3,), (1, 2), vectors)
    np.testing.assert_array_equal(to, a[:, :8])
    check = lambda: module.function("count_wrong_rows")(  # noqa: E731
        (2,), (32,), (counts, to, u64(7), u64(8), u64(12), np.uint32(11))
    )
    check()
    assert counts.tolist() == [0, 0]
    to[6, 7] += 1
    check()
    assert counts.tolist() == [1, 0]


def apply(function, grid, block, arguments):
    """Do what the kernels of functions in rates.cu do, in float64."""
    out, begun, rounds = arguments
    x = begun.get().astype(float)
    for _ in range(int(rounds)):
        x = function(x)
    out.set(x.astype(np.float32))


def multiplied(a, b, off, grid, block, arguments):
    """Do what the kernels of products in rates.cu do."""
    out, _, rounds = arguments
    sums = np.broadcast_to((int(rounds) * fragments.sums(a @ b))[:, None] + off, out.shape)
    out.set(np.ascontiguousarray(sums, np.float32))


def kernels_of_rates(monkeypatch, off=0.0):
    rates = importlib.import_module("benchmarks.probes.rates")
    monkeypatch.setattr(rates, "ROUNDS", 50)
    kernels = {}
    for name, (function, _, _) in rates.FUNCTIONS.items():
        kernels[f"rate_of_{name}"] = lambda *launch, f=function: apply(lambda x: f(x) + off, *launch)
    for name, depth in rates._DEPTH.items():
        rng = np.random.default_rng(0)
        a, b = (rng.choice(np.float32([-1, -0.5, 0.5, 1]), shape) for shape in ((16, depth), (depth, 8)))
        kernels[f"rate_of_{name}"] = lambda *launch, a=a, b=b: multiplied(a, b, off, *launch)
    return kernels


@pytest.mark.parametrize(("off", "state"), [(0.0, "measured"), (0.01, "wrong")])
def test_rates(off, state, gpu, monkeypatch):
    rows = probe("rates", of_kernels(gpu, **kernels_of_rates(monkeypatch, off)))
    assert [row["state"] for row in rows] == [state] * 6
    if state == "measured":
        assert rows[0]["flop_per_second"] == pytest.approx(2 * 16 * 8 * 16 * 8 * 2 * 2 * 8 * 50 / 1e-6)


def fence(grid, block, arguments):
    counts, out, rounds, _ = arguments
    if rounds:
        out.set(np.full(out.shape, rounds, np.uint32))
    count_rounds(grid, block, (counts, rounds))


def count_rounds(grid, block, arguments):
    counts, rounds = arguments[:2]
    counts.set(counts.get() + np.array([0, grid[0] * int(rounds)], np.uint64))


def test_fences(gpu):
    fences = importlib.import_module("benchmarks.probes.fences")
    rows = probe("fences", of_kernels(gpu, **dict.fromkeys(fences.KINDS, fence)))
    assert {row["state"] for row in rows} == {"measured"}
    lazy = probe("fences", of_kernels(gpu, **dict.fromkeys(fences.KINDS, lambda *launch: None)))
    assert {row["state"] for row in lazy} == {"wrong"}


@pytest.mark.parametrize("name", ["cluster_barrier", "cluster_exchange"])
def test_clusters_that_lose_a_round_are_found(name, gpu):
    gpu.compile = lambda file: lambda kernel: count_rounds
    gpu.allow_large_cluster = lambda kernel: None
    assert {row["state"] for row in probe(name, gpu)} == {"measured"}
    gpu.compile = lambda file: lambda kernel: lambda grid, *rest: count_rounds((grid[0] - 1,), *rest)
    assert {row["state"] for row in probe(name, gpu)} == {"wrong"}


def test_each_file_is_a_probe():
    folder = Path(importlib.import_module("benchmarks.probes").__file__).parent
    assert {path.stem for path in folder.glob("*.cu")} == set(PROBES)


FRAGMENTS = """
#include "primitives.cuh"

template <bool BF16> __global__ void multiply(const unsigned* words, float* out) {
  unsigned a[4], b[2];
  float sums[4] = {0, 0, 0, 0};
  for (int k = 0; k < 4; ++k) a[k] = words[6 * threadIdx.x + k];
  for (int k = 0; k < 2; ++k) b[k] = words[6 * threadIdx.x + 4 + k];
  if (BF16) mma_m16n8k16<__nv_bfloat16>(sums, a, b);
  else mma_m16n8k8_tf32(sums, a, b);
  for (int k = 0; k < 4; ++k) out[4 * threadIdx.x + k] = sums[k];
}
"""


@pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the emulator")
@pytest.mark.parametrize(("of", "depth"), [(fragments.of_bf16, 16), (fragments.of_tf32, 8)])
def test_fragments_are_those_of_mma(of, depth, tmp_path):
    rng = np.random.default_rng(3)
    a, b = (rng.choice(np.float32([-1, -0.5, 0.5, 1]), shape) for shape in ((16, depth), (depth, 8)))
    (tmp_path / "fragments.cu").write_text(FRAGMENTS)
    name = f"multiply<{str(depth == 16).lower()}>"
    module = Module(tmp_path / "fragments.cu", [name], mode="fast", flags=(f"-I{KERNELS}",))
    out = np.full((32, 4), np.nan, np.float32)
    module.function(name)((1,), (32,), (of(a, b), out))
    np.testing.assert_array_equal(out, fragments.sums(a @ b))
