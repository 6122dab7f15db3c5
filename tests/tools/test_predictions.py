"""Predicted times of a step's kernels: computed by hand, as kept in files, and as used by the table of choices."""

import json
import math

import pytest

from benchmarks import __main__ as command
from benchmarks import predictions
from benchmarks.limits import Work
from benchmarks.sequence_model import predict_sequence, steps_of_chunk
from benchmarks.step_model import DTYPES, Gpu, predict
from benchmarks.tile_shapes import tile_of
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
    "shared": 1e18,
    "shared_size": 1e9,
    "issue": 1e18,
    "special": 1e18,
    "node": 1e-6,
    "fill": 2e-6,
    "trip": 0,
    "latency": 0,
}
SIZES = {"B": 128, "I": 32, "N": 32, "arithmetic": "bfloat16"}


def near(one):
    return (pytest.approx(one.seconds), one.bound)


def large(**rates):
    """Predict a step of SIZES by tensor_large. Rates other than PLAIN's are given."""
    return near(predict("tensor_large", **SIZES, gpu=Gpu(**PLAIN | rates)))


# The bytes that one block of 128 rows and 32 units loads for its product, and those of c and h that it then moves.
LOADED = (128 + 128) * 64 * 2
STATE = 128 * 32 * (4 + 4 + 2)


def test_one_block_by_hand():
    """Its product and what follows it take turns, and the slowest resource of each counts."""
    assert large() == (3e-6 + 1e-9 * (LOADED + STATE), "L2 port")
    # 2 x 128 x 128 x 64 flop at a tenth of 10 Gflop/s
    product = 2 * 128 * 128 * 64
    assert large(own={"bfloat16": 1e10}) == (3e-6 + 1e-9 * (product + STATE), "products")
    # 64 columns of bfloat16 are two K-tiles. Each goes to shared memory, with a pointer for each 16 bytes of a row.
    # Eight warps load 4 pieces of 16 rows and 8 of 16 columns from it, of 512 bytes each.
    traffic = 2 * ((128 + 128) * 64 + 128 * 4 * 8 + 8 * 12 * 512)
    assert large(shared=1) == (3e-6 + 1e-9 * (traffic + STATE), "shared memory")
    # Eight warps take 167 instructions for a K-tile, and 80 for 32 units.
    issued = 8 * 167 * 2 + 128 * 32 / 32 * 80
    assert large(issue=1, port=1e9) == (3e-6 + 1e-9 * issued, "issue")
    # 101 of the instructions queue copies, while nothing multiplies.
    both = product + 8 * 101 * 2 / 1e-2
    assert large(own={"bfloat16": 1e10}, issue=1e-2, port=1e9)[0] == pytest.approx(
        3e-6 + 1e-9 * (both + 128 * 80 / 1e-2), rel=1e-6
    )
    assert large(special=1) == (3e-6 + 1e-9 * (LOADED + max(STATE, 128 * 32 * 8)), "L2 port")
    assert large(special=0.1) == (3e-6 + 1e-9 * (LOADED + 128 * 32 * 80), "special functions")
    # Four K-tiles can be in flight at once, and each trip takes 1 ms. Then a load of c takes 5 ms.
    wait = 2e-3 / 3
    assert large(trip=1e-3) == (3e-6 + wait + 1e-9 * STATE, "one block")
    assert large(trip=1e-3, latency=5e-3) == (3e-6 + wait + 5e-3 + 1e-9 * STATE, "one block")


def test_early_reads_hide_their_latency():
    """Medium and small tiles read c before the product; large ones and those of simt do so after it."""
    slow = Gpu(**PLAIN | {"latency": 1.0})
    for kernel, waits in (("tensor_large", 1), ("tensor_medium", 0), ("tensor_small", 0), ("simt", 1)):
        about = SIZES | {"arithmetic": "tf32"}
        one, other = (predict(kernel, **about, gpu=gpu).seconds for gpu in (slow, Gpu(**PLAIN)))
        assert one - other == pytest.approx(waits), kernel


def test_blocks_at_once_by_hand():
    """Of ten multiprocessors with 21 blocks, the busiest has three: two at once, and then the third."""
    sizes = SIZES | {"B": 21 * 128}

    def many(**rates):
        return near(predict("tensor_large", **sizes, gpu=Gpu(**PLAIN | rates)))

    assert many() == (3e-6 + 3e-9 * (LOADED + STATE), "L2 port")
    # The first two need the special functions in turns, while the other loads. The last block does both alone.
    finish = 128 * 32 * 8 / 0.1
    assert many(special=0.1) == (3e-6 + 1e-9 * (3 * finish + LOADED), "special functions")
    # Both wait for a trip at once, and then the third does. It begins with its own fill.
    assert many(trip=1) == (5e-6 + 2 * (2 / 3 + 1e-9 * STATE), "one block")
    # With room for one block, each begins when the one before has ended.
    assert many(shared_size=72 << 10) == (5e-6 + 2e-6 + 3e-9 * (LOADED + STATE), "L2 port")
    # From the L2, each block loads its own data, even if others loaded the same. From the HBM, all data come once.
    assert many(l2=1e6) == (3e-6 + 21e-6 * (LOADED + STATE), "L2")
    once = (21 * 128 + 128) * 64 * 2 + 21 * STATE
    assert many(hbm=1e6, l2_size=1) == (3e-6 + 1e-6 * once, "HBM")


def test_clocks_of_a_k_tile():
    """Clocks of the blocks that an H200 runs at once: of shared memory, of mma, and of issue, for bfloat16."""
    gpu, found = Gpu(), {}
    for name, B, columns in (("large", 128, 128), ("wide", 16384, 4096), ("medium", 128, 128), ("small", 8, 128)):
        tile = tile_of("tensor_" + name.replace("wide", "large"), B, columns, "bfloat16")
        room, warps = tile.room(gpu), tile.warps / tile.shares
        flop = 2 * tile.rows * tile.columns * 32
        mma = flop / gpu.own["bfloat16"] * gpu.sms * gpu.clock
        found[name] = tuple(round(room * one) for one in (tile.shared / 128, mma, warps * tile.instructions / 4))
    assert found == {
        "large": (1088, 806, 668),
        "wide": (736, 806, 368),
        "medium": (832, 403, 528),
        "small": (210, 31, 139),
    }


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
    dtype, precision = DTYPES[arithmetic], predictions.PRECISIONS[arithmetic]
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
        assert "Predictions of a model, written on 2026-11-30. No figure here was measured." in text
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


def close(seconds):
    return pytest.approx(seconds, rel=1e-3, abs=1e-10)


def scanned(B, P=None, **rates):
    """Predict a step of a scan of 128 units and inputs. Rates other than those that take no time are given."""
    none = dict.fromkeys(("node", "fill", "chain", "mma", "barrier"), 0)
    gpu = Gpu(**PLAIN | {"port": 1e18, "l2": 1e18} | none | rates)
    return predict_sequence("scan", B=B, I=128, N=128, P=P, arithmetic="bfloat16", gpu=gpu)


def test_a_scan_by_hand():
    """A batch of 8 rows multiplies, and then finishes. More batches of a block follow each other."""
    assert scanned(8).step.seconds == close(0)
    assert scanned(8, node=1e-6, fill=3e-6).step.seconds == close(4e-6 / 64)
    assert scanned(8, barrier=1e-6).step.seconds == close(1e-6)
    # Eight steps of K, one after the other; then the functions of a unit.
    assert scanned(8, mma=1e-6, chain=3e-6).step.seconds == close(8e-6 + 3e-6)
    # Eight functions for each of 8 x 128 units, and 414 instructions of 8 warps. The clock is 1 ns.
    assert near(scanned(8, special=1).step) == (close(1e-9 * 8 * 8 * 128), "special functions")
    assert near(scanned(8, issue=1).step) == (close(1e-9 * 8 * 414), "issue")
    # Ten multiprocessors run 13 blocks in two rounds. If there are more than 128, a block has up to 8 batches.
    assert near(scanned(8 * 13, special=1).step)[0] == close(2e-9 * 8 * 8 * 128)
    for sms, rounds in ((129, 1), (128, 2)):
        assert near(scanned(64 * 129, special=1, sms=sms).step)[0] == close(rounds * 8e-9 * 8 * 8 * 128)
    # The L2 gives x's part of four gates, and takes h. In each of 64 steps, it gives a 64th of the weights.
    weights = 4 * 128 * 128 * 2
    assert near(scanned(8, l2=1e9).step) == (close(1e-9 * (8 * 128 * (16 + 2) + weights / 64)), "L2")
    # So does the port of a multiprocessor that runs two blocks of 8 rows. It also moves x's part and h.
    rounds = 2 * 1e-9 * (8 * 128 * (16 + 2) + weights / 64)
    assert near(scanned(8 * 13, port=1).step)[0] == close(rounds)


def test_a_projection_of_a_scan_by_hand():
    """A second barrier and product follow, of 128 columns for each of 8 rows. Other batches only add resources."""

    def projected(B, **rates):
        return scanned(B, P=64, **rates).step.seconds

    assert projected(8) == close(0)
    assert projected(8, barrier=1e-6) == close(2e-6)
    assert projected(8, mma=1e-6, chain=3e-6) == close(2 * (8e-6 + 3e-6))
    for B, batches in ((8, 1), (64 * 129, 8)):
        more = projected(B, shared=1, sms=129) - scanned(B, shared=1, sms=129).step.seconds
        assert more == close(batches * 1e-9 * 8 * 512 * (4 + 8))


def test_inputs_of_a_scan_by_hand():
    """One launch of a medium or large tile multiplies the x of a chunk. cuBLASLt does so for matmul."""
    assert [steps_of_chunk(B, 128, "bfloat16") for B in (1, 128, 1024, 1 << 20)] == [64, 64, 8, 1]
    assert scanned(8, node=1e-6).of_x == close(1e-6 / 64)
    # A block of 64 rows and columns loads both, of 256 bytes each, and writes float sums.
    assert scanned(1, port=1).of_x == close(1e-9 * (128 * 256 + 64 * 64 * 4) / 64)
    # In a chunk of 8 steps of 2048 rows, each of ten multiprocessors has at least 51 large tiles. They load 256 rows.
    assert steps_of_chunk(1024, 128, "bfloat16") == 8
    large = -(-8192 // 128 * 4 // 10) * (256 * 256 + 128 * 128 * 4)
    assert scanned(1024, port=1).of_x == close(1e-9 * large / 8)
    two = [predict_sequence(kernel, B=8, I=128, N=128, arithmetic="tf32") for kernel in ("matmul", "tensor_small")]
    assert two[0].of_x > 0 == two[1].of_x
    assert two[1].step == predict("tensor_small", B=8, I=128, N=128, arithmetic="tf32")
    assert two[0].seconds > 2 * (Gpu().node + Gpu().fill)


def test_chosen_sequences_are_near_the_fastest():
    """At each predicted shape, the chosen kernel takes at most a tenth or 0.3 us more than the fastest."""
    rows = predictions.compute()["sequences"]
    assert len(rows) == 2 * len(predictions.SEQUENCES) + len(predictions.PROJECTED)
    for row in rows:
        times = {kernel: one["us"] for kernel, one in row["kernels"].items()}
        assert times[row["chosen"]] <= max(1.1 * times[row["fastest"]], times[row["fastest"]] + 0.3), row
    assert {row["chosen"] for row in rows} == {"scan", "tensor_large", "matmul"}
