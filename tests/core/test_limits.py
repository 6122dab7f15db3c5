"""The limits of benchmarks: work counted by hand, constants in JSON, and which limit binds."""

import json
import sys
import types

import pytest

import benchmarks
from benchmarks import limits
from benchmarks.constants import Constants
from benchmarks.limits import Limit, Work

# Rates chosen so that times are easy to compute by hand.
CPU = Constants("cpu", 1, ((1000, 4e9), (100_000, 2e9)), {"float32": 1e9, "float64": 5e8}, {"float32": 1e8})
GPU = Constants("cuda:0", 1, ((1000, 1e12),), {"float32": 1e12, "bfloat16": 1e13}, {"float32": 1e12}, 5e-6, 1e-6)


def test_a_step_by_hand():
    work = Work.of(B=2, I=3, N=5)
    assert work.flop == 2 * 2 * 20 * 8  # rows x (multiply, add) x gates x [x | h]
    weights, biases = 20 * 8 * 4, 20 * 4
    states = (2 * 3 + 4 * 2 * 5) * 4  # x; h and c, each read and written
    gates = 2 * (2 * 20) * 4
    assert work.bytes == weights + biases + states + gates == 640 + 80 + 184 + 320
    assert work.resident == work.bytes
    assert work.special == 50
    assert work.launches == 0
    assert work.intensity == 640 / 1224


def test_a_known_size():
    """Check the figures of a step of B = 32 and N = I = 128."""
    assert Work.of(B=32, I=128, N=128).flop == 8_388_608
    assert Work.of(B=32, I=128, N=128).bytes == 739_328
    assert Work.of(B=32, I=128, N=128, device="cuda:0").bytes == 608_256  # the gates stay in registers


def test_a_projection_by_hand():
    """P = 2 and N = 4: h is narrow, and a second product and kernel follow."""
    work = Work.of(B=1, I=3, N=4, P=2, device="cuda:0")
    assert work.flop == 2 * 16 * 5 + 2 * 4 * 2
    assert work.bytes == 4 * (16 * 5 + 16 + 4 * 2 + 3 + 2 * 2 + 2 * 4)
    assert work.special == 20
    assert work.launches == 2


def test_layers_and_steps_by_hand():
    """Two layers take three steps. Input weights are read once, weights of h at each step."""
    work = Work.of(B=1, I=2, N=1, T=3, layers=2, device="cuda:0")
    assert work.flop == 3 * (8 * 3 + 8 * 2)
    first = 4 * (4 * 2 + 4) + 3 * 4 * (4 + 2 + 2 + 2)
    second = 4 * (4 * 1 + 4) + 3 * 4 * (4 + 1 + 2 + 2)
    assert work.bytes == first + second
    assert work.resident == 4 * (12 + 10) + 4 * (8 + 9)
    assert work.special == 30
    assert work.launches == 4  # a wavefront: layer 2 takes step 1 while layer 1 takes step 2


def test_a_step_of_a_pool_by_hand():
    """A pool adds the gathered rows, the output beside the state, and the slots. A GPU adds a gather kernel."""
    sizes = {"B": 2, "I": 3, "N": 5}
    dense, pool = Work.of(**sizes), Work.of(**sizes, pool=True)
    gathered, output, slots = 2 * 2 * 5 * 4, 2 * 5 * 4, 2 * 8
    assert pool.bytes - dense.bytes == pool.resident - dense.resident == gathered + output + slots
    assert (pool.flop, pool.special, pool.launches) == (dense.flop, dense.special, 0)
    layers = {**sizes, "P": 4, "layers": 2, "dtype": "bfloat16", "device": "cuda:0"}
    dense, pool = Work.of(**layers), Work.of(**layers, pool=True)
    assert pool.bytes - dense.bytes == 2 * (2 * 2 * 4 * 2) + 2 * 4 * 2 + 2 * 8
    assert pool.launches == dense.launches + 1


@pytest.mark.parametrize(
    ("dtype", "device", "size"),
    [
        ("float64", "cpu", 8 * (8 + 4 + 1 + 2 + 2 + 8)),
        ("float32", "cpu", 4 * (8 + 4 + 1 + 2 + 2 + 8)),
        ("float16", "cpu", 2 * (8 + 1 + 2) + 4 * (4 + 2 + 8)),
        ("bfloat16", "cuda:0", 2 * (8 + 1 + 2) + 4 * (4 + 2)),
    ],
)
def test_bytes_of_dtypes(dtype, device, size):
    """Weights, bias, x, h, c and gates of one unit. For 16-bit types, c, bias and gates are float32."""
    assert Work.of(B=1, I=1, N=1, dtype=dtype, device=device).bytes == size


@pytest.mark.parametrize(
    ("options", "arithmetic"),
    [
        ({"dtype": "float64"}, "float64"),
        ({"dtype": "bfloat16"}, "float32"),
        ({"dtype": "bfloat16", "device": "cuda:0"}, "bfloat16"),
        ({"precision": "high", "device": "cuda:0"}, "tf32"),
        ({"precision": "high"}, "float32"),
        ({"precision": "high", "dtype": "float16", "device": "cuda:0"}, "float16"),
    ],
)
def test_arithmetic(options, arithmetic):
    assert Work.of(B=1, I=1, N=1, **options).arithmetic == arithmetic


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("more", [{"B": 9}, {"I": 9}, {"N": 9}, {"T": 9}, {"layers": 3}, {"P": 8}])
def test_larger_sizes_mean_more_work(more, device):
    sizes = {"B": 4, "I": 4, "N": 8, "device": device}
    less, greater = Work.of(**sizes), Work.of(**sizes | more)
    assert greater.flop > less.flop
    assert greater.bytes > less.bytes
    assert greater.launches >= less.launches


def work(**values):
    return Work(**{"flop": 0, "bytes": 0, "resident": 0, "special": 0, "launches": 0, "arithmetic": "float32"} | values)


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ({"flop": 2_000_000, "special": 100_000}, Limit(0.003, "matmul")),  # 2 ms + 1 ms, on the same core
        ({"flop": 1_000_000, "special": 300_000}, Limit(0.004, "special functions")),
        ({"flop": 1_000_000, "bytes": 20_000_000, "resident": 1000}, Limit(0.005, "bytes")),
        ({"flop": 1_000_000, "bytes": 20_000_000, "resident": 200_000}, Limit(0.01, "bytes")),  # beyond the cache
        ({"flop": 2_000_000, "bytes": 4_000_000, "arithmetic": "float64"}, None),  # no rate for special functions
    ],
)
def test_limits_of_a_cpu(what, wanted):
    found = limits.limit(work(**what), CPU)
    assert found == (wanted and Limit(pytest.approx(wanted.seconds), wanted.bound))


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ({"flop": 8_000_000, "special": 4_000_000, "launches": 2}, Limit(1e-5, "matmul")),  # 2 us + max(8 us, 4 us)
        ({"flop": 2_000_000, "special": 4_000_000, "launches": 2}, Limit(6e-6, "special functions")),
        ({"bytes": 9_000_000, "launches": 1}, Limit(1e-5, "bytes")),
        ({"flop": 1_000_000, "bytes": 100, "launches": 3}, Limit(4e-6, "launches")),
        ({"flop": 9_000_000, "launches": 2, "arithmetic": "bfloat16"}, Limit(2.9e-6, "launches")),
        ({"flop": 1, "arithmetic": "tf32"}, None),
    ],
)
def test_limits_of_a_gpu(what, wanted):
    found = limits.limit(work(**what), GPU)
    assert found == (wanted and Limit(pytest.approx(wanted.seconds), wanted.bound))


def test_bandwidth_never_falls_for_smaller_sizes():
    """A slow small copy is not a limit if a larger copy was faster."""
    odd = Constants("cpu", 1, ((100, 1e9), (1000, 3e9), (10_000, 2e9)), {}, {})
    assert [odd.bandwidth(size) for size in (1, 100, 999, 1000, 9999, 10_000, 10**9)] == [3e9] * 5 + [2e9] * 2


def test_constants_in_json():
    """Constants survive a round trip, without fields that another version added."""
    for constants in (CPU, GPU):
        values = json.loads(json.dumps(constants.to_json() | {"unknown": 1}))
        assert Constants.from_json(values) == constants


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:3", 3)])
def test_calibration_takes_any_name_of_a_gpu(device, index, monkeypatch):
    asked = []
    fake = types.SimpleNamespace(calibrate=lambda *arguments: asked.append(arguments) or GPU)
    monkeypatch.setitem(sys.modules, "benchmarks.calibration_cuda", fake)
    monkeypatch.setattr(benchmarks, "calibration_cuda", fake, raising=False)
    limits.calibrate.cache_clear()
    assert limits.machine_facts_limits((device,), 1) == {device: GPU.to_json()}
    limits.calibrate.cache_clear()
    assert asked == [(index, 1)]


def test_calibration():
    """Calibrate this CPU with two threads. Every limit needs positive constants."""
    (found,) = limits.machine_facts_limits(threads=2).values()
    constants = Constants.from_json(found)
    assert (constants.device, constants.threads) == ("cpu", 2)
    assert all(rate > 0 for _, rate in constants.copy)
    for dtype in limits.ITEMSIZES:
        assert limits.limit(Work.of(B=2, I=3, N=5, dtype=dtype), constants).seconds > 0
