"""Predicted times of a step's kernels: computed by hand, as kept in files, and as used by the table of choices."""

import json
import math

import pytest

from benchmarks import __main__ as command
from benchmarks import predictions
from benchmarks.limits import Work
from benchmarks.predictions import Gpu, predict
from fusedlstm.backends import kernel_choice

# Rates that make times easy to compute by hand: a clock takes 1 ns, and so does a byte through the port.
PLAIN = {
    "sms": 10,
    "clock": 1e9,
    "l2": 1e12,
    "port": 1,
    "l2_size": 1e12,
    "hbm": 1e9,
    "library": {"bfloat16": 1e18, "tf32": 1e18, "float32": 1e18, "float64": 1e18},
    "own": {"bfloat16": 1e18, "tf32": 1e18, "float32": 1e18, "float64": 1e18},
    "special": 1e9,
    "node": 1e-6,
    "fill": 2e-6,
    "trip": 0,
}
SIZES = {"B": 128, "I": 32, "N": 32, "arithmetic": "bfloat16"}


def near(one):
    return (pytest.approx(one.seconds), one.bound)


def test_one_block_by_hand():
    """One block loads 128 rows of x and h and 128 of weights, and reads c and writes c and h, all through its port."""
    loaded = (128 + 128) * 64 * 2 + 128 * 32 * (4 + 4 + 2)
    assert near(predict("tensor_large", **SIZES, gpu=Gpu(**PLAIN))) == (3e-6 + 1e-9 * loaded, "one block")
    # 2 x 128 x 128 x 64 flop at a tenth of 10 Gflop/s
    slow = Gpu(**PLAIN | {"own": {"bfloat16": 1e10}})
    assert near(predict("tensor_large", **SIZES, gpu=slow)) == (3e-6 + 1e-9 * 2 * 128 * 128 * 64, "one block")
    # 10 functions for each unit, one a clock, after the last byte was loaded
    special = Gpu(**PLAIN | {"special": 1})
    assert near(predict("tensor_large", **SIZES, gpu=special)) == (3e-6 + 1e-9 * (loaded + 128 * 32 * 10), "one block")
    # 64 columns of bfloat16 are two K-tiles. Four can be in flight at once, and each trip takes 1 ms.
    far = Gpu(**PLAIN | {"trip": 1e-3})
    assert near(predict("tensor_large", **SIZES, gpu=far)) == (3e-6 + 2 * 1e-3 / 3, "one block")


def test_blocks_at_once_by_hand():
    """Of ten multiprocessors with 21 blocks, the busiest has three. Two of these run at once, and take turns."""
    loaded = (128 + 128) * 64 * 2 + 128 * 32 * (4 + 4 + 2)
    sizes = SIZES | {"B": 21 * 128}
    assert near(predict("tensor_large", **sizes, gpu=Gpu(**PLAIN))) == (3e-6 + 3e-9 * loaded, "L2 port")
    # Both wait for a trip at once, and then the third does.
    assert near(predict("tensor_large", **sizes, gpu=Gpu(**PLAIN | {"trip": 1}))) == (3e-6 + 2 * 2 / 3, "one block")
    # From the L2, each block loads its own data, even if others loaded the same. From the HBM, all data come once.
    far = Gpu(**PLAIN | {"l2": 1e6})
    assert near(predict("tensor_large", **sizes, gpu=far)) == (3e-6 + 21e-6 * loaded, "L2")
    once = (21 * 128 + 128) * 64 * 2 + 21 * 128 * 32 * (4 + 4 + 2)
    far = Gpu(**PLAIN | {"hbm": 1e6, "l2_size": 1})
    assert near(predict("tensor_large", **sizes, gpu=far)) == (3e-6 + 1e-6 * once, "HBM")


def test_a_product_and_a_kernel_by_hand():
    """Two launches: the product, with the best tiles, and a kernel that reads gates and c and writes c and h."""
    fast = Gpu(**PLAIN | {"port": 1e9, "l2": 1e9})
    both = predict("matmul", **SIZES, gpu=fast)
    planned = 128 * 32 * (4 * 4 + 4 + 4 + 2)
    # In tiles of 128 x 128, a block loads rows or columns once for itself and once for its neighbour.
    product = (128 + 128 / 2) * 64 * 2 + 128 * 128 * 4
    assert near(both) == (6e-6 + 1e-9 * (planned + product), "L2")
    nothing = Gpu(**PLAIN | {"port": 1e9, "l2": 1e18})
    launches = [
        predict(kernel, **SIZES, P=P, gpu=nothing).seconds for kernel in ("tensor_large", "matmul") for P in (None, 16)
    ]
    assert launches == pytest.approx([3e-6, 6e-6, 6e-6, 9e-6], rel=1e-3)


@pytest.mark.parametrize("kernel", kernel_choice.NAMES)
@pytest.mark.parametrize("arithmetic", predictions.PRECISIONS)
def test_no_kernel_is_faster_than_its_limits(kernel, arithmetic):
    """The limits are unavoidable work and weights, at the rates of the model's GPU."""
    if kernel not in predictions.kernels_of(arithmetic):
        return
    gpu = Gpu()
    dtype, precision = predictions._DTYPES[arithmetic], predictions.PRECISIONS[arithmetic]
    for B, I, N, P in predictions.SHAPES:
        sizes = {"B": B, "I": I, "N": N, "P": P}
        work = Work.of(**sizes, dtype=dtype, precision=precision, device="cuda:0")
        seconds = predict(kernel, **sizes, arithmetic=arithmetic, gpu=gpu).seconds
        rate = (gpu.library if kernel == "matmul" else gpu.own)[arithmetic]
        slower = gpu.hbm if work.resident > gpu.l2_size else gpu.l2
        assert seconds >= gpu.node * work.launches + max(work.flop / rate, work.bytes / slower * 0.98)


def test_float16_equals_bfloat16():
    for kernel in predictions.kernels_of("bfloat16"):
        assert predict(kernel, **SIZES) == predict(kernel, **SIZES | {"arithmetic": "float16"})


def test_kept_files_match_the_model(tmp_path, monkeypatch):
    """Reports and people read the kept files."""
    written = [path.read_text(encoding="utf-8") for path in predictions.write(tmp_path)]
    kept = [(predictions.FOLDER / f"predictions.{kind}").read_text(encoding="utf-8") for kind in ("json", "md")]
    assert written == kept, "python -m benchmarks predictions writes them anew"
    assert json.loads(written[0]) == json.loads(json.dumps(predictions.compute()))
    for text in written:
        assert "Predictions of a model, written on 2026-11-23. No figure here was measured." in text
    monkeypatch.setattr(predictions, "write", lambda: ["here"])
    assert command.main(["predictions"]) == 0


def test_chosen_kernels_are_near_the_fastest():
    """At each predicted shape, the chosen kernel takes at most a tenth or 0.3 us more than the fastest."""
    rows = predictions.compute()["rows"]
    assert len(rows) == 4 * (4 * 6 + 1)
    for row in rows:
        times = {kernel: one["us"] for kernel, one in row["kernels"].items()}
        assert row["fastest"] == min(times, key=times.__getitem__)
        assert times[row["chosen"]] <= max(1.1 * times[row["fastest"]], times[row["fastest"]] + 0.3), row
        sizes = (row["B"], row["I"], row["N"], row["P"])
        assert row["chosen"] == predictions.chosen(row["arithmetic"], *sizes)


def test_kept_predictions_are_found():
    shape = {"B": 32, "I": 128, "N": 128, "P": None}
    wanted = round(1e6 * predict("tensor_small", **shape, arithmetic="tf32").seconds, 2)
    got = predictions.kept("tensor_small", **shape, dtype="float32", precision="high")
    assert math.isclose(1e6 * got, wanted)
    for changed in ({"B": 33}, {"precision": "highest"}, {"P": 64}):
        assert predictions.kept("tensor_small", **{**shape, "dtype": "float32", "precision": "high", **changed}) is None
    assert predictions.kept("simt", **shape, dtype="float16", precision="highest") is None
    half = predictions.kept("tensor_small", **shape, dtype="float16", precision="highest")
    assert half == predictions.kept("tensor_small", **shape, dtype="bfloat16", precision="highest")
