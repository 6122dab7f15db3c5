"""The table of kernels: which rows it has, their exact results, and what it says of the choice."""

import importlib
import itertools
import types

import numpy as np
import pytest

from benchmarks.brief.event_time import Times
from benchmarks.cases import Result, WrongResultError
from benchmarks.kernel_table import figures, verdict
from benchmarks.kernel_table.periodic_case import case_of
from benchmarks.kernel_table.sizes import BATCHES, SEQUENCES, SIZES, Size
from fusedlstm import LSTMCell, LSTMState
from fusedlstm.backends import kernel_choice
from fusedlstm.tuning.periodic import PERIOD, poison

from support.backends import needs_cuda

SMALL = Size("float32", "highest", 9, 16)
SMALL_SEQUENCE = Size("bfloat16", "highest", 9, 16, 5)
ONE = {"median": 1e-6, "p10": 1e-6, "p90": 1e-6}


def test_rows_are_all_sizes_and_arithmetics():
    wanted = set(itertools.product(("bfloat16", "float16", "float32", "tf32"), BATCHES, (64, 128, 256, 512, 1024)))
    assert {(size.arithmetic, size.B, size.N) for size in SIZES} == wanted
    assert len(SIZES) == len(wanted) == len({size.id for size in SIZES})
    assert {(size.arithmetic, size.N) for size in SIZES[:40]} == set(
        itertools.product(("bfloat16", "float32"), (128, 256))
    )


def test_row_has_the_kernels_of_its_arithmetic():
    assert SMALL.kernels == ["matmul", "simt"]
    assert Size("bfloat16", "highest", 1, 64).kernels == ["matmul", *kernel_choice.TENSOR]
    assert Size("float32", "high", 1, 64).kernels == list(kernel_choice.NAMES)


def stepped(case):
    """Return what the NumPy backend gives for all rows of a case."""
    x, h, c = (array[0] for array in case.data[:3])
    state = LSTMCell(case.weights.layers[0], backend="numpy")(x, LSTMState(h=h, c=c))
    return Result(state.h[None], state.c[None])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("B", [1, PERIOD, 2000])
def test_rows_repeat_and_are_exact(B, dtype):
    case = case_of(Size(dtype, "highest", B, 12))
    assert case.data.xs.shape == (1, B, 12)
    assert {0, B - 1} <= set(case.rows)
    result = stepped(case)
    case.assert_right(result)
    case.assert_ordinary(result)


def test_sequences_cover_each_arithmetic():
    assert len(SEQUENCES) == len({size.id for size in SEQUENCES})
    assert {size.arithmetic for size in SEQUENCES} == {"bfloat16", "float16", "float32", "tf32"}
    assert {size.T for size in SEQUENCES} == {16, 128, 1600}
    assert SEQUENCES[0].id == "bfloat16 N=128 B=1 T=128"
    assert max(size.T * size.B * size.N for size in SEQUENCES) <= 1 << 24, "larger ones take seconds to check"


def test_sequences_have_their_kernels():
    of = {N: Size("bfloat16", "highest", 1, N, 16).kernels for N in (128, 129)}
    assert of[128] == ["matmul", *kernel_choice.TENSOR, "scan"]
    assert of[129] == ["matmul", *kernel_choice.TENSOR]
    assert Size("float32", "highest", 1, 64, 16).kernels == ["matmul", "simt"]


@pytest.mark.parametrize("shift", [8, 32, 64, 128, 256])
def test_rows_of_another_tile_are_refused(shift):
    case = case_of(Size("float32", "highest", 600, 12))
    h, c, _ = stepped(case)
    with pytest.raises(WrongResultError):
        case.assert_right(Result(np.roll(h, shift, axis=1), np.roll(c, shift, axis=1)))


def test_nan_in_any_row_is_refused():
    case = case_of(Size("float32", "highest", 2000, 12))
    result = stepped(case)
    left_out = next(row for row in range(2000) if row not in case.rows)
    result.c[0, left_out, 3] = np.nan
    with pytest.raises(WrongResultError, match="finite"):
        case.assert_right(result)


class FakeTimer:
    """Runs the work, and says that each call took a microsecond."""

    dry = False

    def times(self, queue, **_):
        queue()
        return Times(ONE, ONE)


def figures_of(size):
    found = {}
    figures.add_figures(size, FakeTimer(), found)
    return found


@needs_cuda
def test_right_kernels_are_measured():
    found = figures_of(SMALL)
    assert list(found) == ["matmul", "simt", "torch.nn.LSTM"]
    for kernel in SMALL.kernels:
        assert found[kernel]["state"] == "measured", found[kernel]
        assert found[kernel]["seconds"] == found[kernel]["host_seconds"] == ONE
        assert found[kernel]["predicted_seconds"] > 0
    assert found["torch.nn.LSTM"]["state"] in ("measured", "unsupported")


@needs_cuda
def test_right_sequences_are_measured():
    """So is x's part, if a kernel multiplies it before the steps."""
    found = figures_of(SMALL_SEQUENCE)
    names = [*SMALL_SEQUENCE.kernels, "x of matmul", "x of scan"]
    assert set(found) == {*names, "torch.nn.LSTM"}
    for name in names:
        assert found[name]["state"] == "measured", found[name]
        assert found[name]["predicted_seconds"] > 0


@needs_cuda
def test_wrong_sequence_is_not_timed(monkeypatch):
    """Outputs of a step are not written, so they keep the NaN from before."""
    from fusedlstm.backends.cuda.scan_steps import ScanSteps

    right = ScanSteps._part
    monkeypatch.setattr(ScanSteps, "_part", lambda steps, part: right(steps, slice(part.start, part.stop - 1)))
    found = figures_of(SMALL_SEQUENCE)
    assert (found["matmul"]["state"], found["scan"]["state"]) == ("measured", "wrong")
    assert "scan wrong: " in verdict.wrong([row(SMALL_SEQUENCE, found)])[0]


@needs_cuda
def test_poison_fills_both_buffers():
    cell = LSTMCell(case_of(SMALL).weights.layers[0], backend="cuda", kernel="simt")
    stepper = cell.stepper(9)
    poison(stepper)
    buffers = [state for states in stepper._engine.all_states for state in states]
    assert len(buffers) == 2
    assert all(np.isnan(array.get()).all() for state in buffers for array in (state.h, state.c))


@needs_cuda
def test_wrong_kernel_is_not_timed(monkeypatch):
    right = figures.OneKernel.results

    def off(peer, raw):
        result = right(peer, raw)
        return result._replace(h=result.h + np.float32(1e-3)) if peer.kernel == "simt" else result

    monkeypatch.setattr(figures.OneKernel, "results", off)
    found = figures_of(SMALL)
    assert found["matmul"]["state"] == "measured"
    assert found["simt"]["state"] == "wrong"
    assert "seconds" not in found["simt"]


@needs_cuda
def test_failing_kernel_does_not_end_its_row(monkeypatch):
    right = figures.OneKernel.prepare

    def failing(peer, *arguments):
        if peer.kernel == "matmul":
            raise MemoryError("none left")
        return right(peer, *arguments)

    monkeypatch.setattr(figures.OneKernel, "prepare", failing)
    found = figures_of(SMALL)
    assert found["matmul"]["why"] == "MemoryError: none left"
    assert found["simt"]["state"] == "measured"


def test_fast_calls_are_timed_in_long_bursts():
    class Counting(FakeTimer):
        def times(self, queue, repetitions=20, calls=1):
            self.calls.append((repetitions, calls))
            return super().times(queue)

    for seconds, wanted in ((1e-6, (20, 40)), (1e-4, (20, 4)), (1e-2, (5, 1))):
        timer = Counting()
        timer.calls = []
        timer.times = lambda queue, s=seconds, t=timer, **more: Counting.times(t, queue, **more)._replace(
            gpu=ONE | {"median": s}
        )
        figures.replayed(lambda: None, timer)
        assert timer.calls[-1] == wanted


def measured(**microseconds):
    return {
        name: {"state": "measured", "seconds": ONE | {"median": 1e-6 * each}, "host_seconds": ONE}
        for name, each in microseconds.items()
    }


def row(size, found):
    return {"row": size.id, "arithmetic": size.arithmetic, **size._asdict(), "figures": found} | verdict.verdict(
        size, found, 90
    )


BFLOAT16 = Size("bfloat16", "highest", 32, 128)  # for which the table has tensor_small


def test_slow_choice_is_listed():
    found = measured(matmul=2.0, tensor_small=3.0, tensor_medium=4.0) | {verdict.LSTM: measured(x=9.0)["x"]}
    judged = row(BFLOAT16, found)
    assert (judged["choice"], judged["winner"], judged["ratio"]) == ("tensor_small", "matmul", pytest.approx(1.5))
    assert judged["torch_ratio"] == pytest.approx(4.5)
    assert verdict.slower([judged]) == ["bfloat16 N=128 B=32: tensor_small takes 1.50 times as long as matmul"]
    ((title, table),) = verdict.tables([judged])
    assert (title, table.rows) == ("bfloat16", [["B = 32", "matmul 2.00 (tensor_small x1.50) torch x4.5"]])
    assert "matmul 2.00" in verdict.text(table)


def test_fast_choice_is_not_listed():
    judged = row(BFLOAT16, measured(matmul=2.9, tensor_small=3.0))
    assert judged["ratio"] == pytest.approx(3 / 2.9)
    assert verdict.slower([judged]) == []


def test_choice_of_sequences_is_listed():
    """The cells have microseconds of a step."""
    size = BFLOAT16._replace(T=100)
    judged = row(size, measured(matmul=300.0, scan=450.0) | {"x of scan": measured(x=1.0)["x"]})
    assert (judged["choice"], judged["winner"], judged["ratio"]) == ("scan", "matmul", pytest.approx(1.5))
    assert verdict.slower([judged]) == ["bfloat16 N=128 B=32 T=100: scan takes 1.50 times as long as matmul"]
    ((title, table),) = verdict.tables([judged])
    assert (title, table.rows) == ("bfloat16, T = 100", [["B = 32", "matmul 3.00 (scan x1.50)"]])


def test_row_without_figures_has_no_winner():
    found = {"matmul": {"state": "wrong", "why": "c is off"}, "tensor_small": {"state": "failed", "why": "no memory"}}
    judged = row(BFLOAT16, found)
    assert judged["winner"] is judged["ratio"] is judged["torch_ratio"] is None
    assert len(verdict.wrong([judged])) == 2
    assert verdict.tables([judged])[0][1].rows == [["B = 32", "wrong, failed"]]


def test_kernels_are_compiled_beforehand(monkeypatch):
    """Each kernel is compiled once for each arithmetic, and the wait has a limit."""
    warm = importlib.import_module("benchmarks.kernel_table.warm")
    started, waited = [], []

    class Child:
        def __init__(self, command):
            started.append(tuple(command[-3:]))

        def wait(self, timeout=None):
            waited.append(timeout)

        def poll(self):
            return 0

    monkeypatch.setattr(warm, "subprocess", types.SimpleNamespace(Popen=Child, TimeoutExpired=Exception))
    warm.compile_all(until=0.0, sequences=True)
    assert len(started) == len(set(started)) == 5 + 2 + 6 + 5
    started.clear()
    warm.compile_all(until=0.0, sequences=False)
    assert len(started) == len(set(started)) == 4 + 2 + 5 + 4
    assert ("float32", "high", "simt") in started
    assert 0.0 in waited
