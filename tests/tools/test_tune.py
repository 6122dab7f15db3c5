"""The command tune measures kernels and keeps the times, and new objects choose by them. The times are made up."""

import json
import logging
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, Sequencer, StackedWeights, StatePool, log
from fusedlstm.backends import kernel_choice, measured, select, sequence_choice
from fusedlstm.backends.cuda.runtime import probe, tuned
from fusedlstm.cli import main as command_line
from fusedlstm.cli import tune as command
from fusedlstm.tuning import periodic, turns

from support.backends import BACKENDS, needs_cuda
from support.places import ENVIRONMENT

I, N = 8, 16
needs_driver = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the fake driver")
OF_BFLOAT16 = ["matmul", *kernel_choice.TENSOR]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Give each test an empty cache folder. Forget what the driver has answered, and what has been logged."""
    path = tmp_path / "times"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(tuned.cache, "folder", lambda: path)
    monkeypatch.setattr(turns, "STEPS", 4)  # as an emulated GPU is slow
    tuned._known.cache_clear()
    log._said.clear()
    yield path
    tuned._known.cache_clear()


@pytest.fixture
def made_up(monkeypatch):
    """Return a function that makes `seconds(kernel, B)` the measured time, and returns a list of the measurements.

    `of_runs` is the same for a step of a sequence, and `use.runs` is the list of these. None stands for `seconds`.
    """

    def use(seconds, of_runs=None):
        calls, use.runs = [], []

        def timer(step, times):
            owner = step.__self__
            (kernel,) = owner.kernels
            is_run = isinstance(owner, Sequencer)
            (use.runs if is_run else calls).append((kernel, owner.batch, times))
            if is_run:
                return owner.steps * (of_runs or seconds)(kernel, owner.batch)
            for _ in range(2):
                step()
            return seconds(kernel, owner.batch)

        monkeypatch.setattr(select, "replay_timer", lambda index: timer)
        return calls

    return use


def wins(winner):
    """Return a function of made-up times, by which this kernel is the fastest."""
    return lambda kernel, B: 1e-6 if kernel == winner else 2e-6 + 1e-7 * sequence_choice.NAMES.index(kernel)


@pytest.fixture
def files(tmp_path):
    weights = LSTMWeights.random(I, N, seed=0, dtype="bfloat16")
    weights.save(tmp_path / "cell")
    StackedWeights.random(I, N, 3, seed=0, dtype="bfloat16").save(tmp_path / "layers")
    return tmp_path, weights


def files_in(folder):
    """Return the files of times. Kernels are kept beside them."""
    return sorted(folder.glob("tuned-*"))


def tune(*arguments):
    return command_line.main(["tune", *map(str, arguments)])


# Choosing.


@needs_cuda
def test_new_objects_use_the_fastest(files, made_up, folder, capsys):
    path, weights = files
    old = LSTMCell(weights, backend="cuda")
    before = old.stepper(64).kernels
    assert before != ("tensor_large",)
    calls = made_up(wins("tensor_large"))
    assert tune(path / "cell", "--batch", 64) == 0
    assert {kernel for kernel, _, _ in calls} == set(OF_BFLOAT16)
    cell = LSTMCell(weights, backend="cuda")
    assert cell.stepper(64).kernels == cell.stepper(1).kernels == ("tensor_large",)
    assert cell._engine.kernel_for(64) == "tensor_large"
    assert LSTM(weights, backend="cuda").stepper(64).kernels == ("tensor_large",)
    assert StatePool(cell, 64).kernels(64) == ("tensor_large",)
    assert pickle.loads(pickle.dumps(old)).stepper(64).kernels == ("tensor_large",)
    assert LSTMCell(weights, backend="cuda", kernel="tensor_small").stepper(64).kernels == ("tensor_small",)
    assert LSTMCell(weights, backend="cuda", batch_invariant=True).stepper(64).kernels == ("tensor_medium",)
    other = LSTMWeights.random(I, N + 8, seed=0, dtype="bfloat16")
    assert LSTMCell(other, backend="cuda").stepper(64).kernels == before
    (file,) = files_in(folder)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].startswith("I=8 N=16 bfloat16 B=64: tensor_large 1.00 us, matmul 2.00 us, ")
    assert lines[-3].startswith("I=8 N=16 bfloat16 B=64 sequences: tensor_large 1.00 us, matmul 2.00 us, ")
    assert lines[-2] == f"kept in {file}"
    assert re.fullmatch(r"done in \d+\.\d s", lines[-1])


@needs_cuda
def test_an_object_keeps_its_choice(files, made_up):
    """Times that are measured later don't change a cell's choice, even for its new Steppers and pools."""
    path, weights = files
    cell = LSTMCell(weights, backend="cuda")
    before = cell.stepper(64).kernels, StatePool(cell, 64).kernels(64), cell._engine.kernel_for(64)
    made_up(wins("tensor_large"))
    assert tune(path / "cell", "--batch", 64) == 0
    x = cell.asarray(np.ones((64, I)))
    cell(x, cell.zero_state(64))
    assert (cell.stepper(64).kernels, StatePool(cell, 64).kernels(64), cell._engine.kernel_for(64)) == before


@needs_cuda
def test_each_batch_has_its_kernel(files, made_up):
    """The smallest measured batch of at least B rows decides. Above all measured batches, the table chooses."""
    path, weights = files
    made_up(lambda kernel, B: wins({8: "tensor_medium", 64: "tensor_large"}[B])(kernel, B))
    assert tune(path / "cell", "--batch", 64, "--batch", 8) == 0
    engine = LSTMCell(weights, backend="cuda")._engine
    table = kernel_choice.choose(65, I, N, None, "bfloat16", "highest", 90)
    assert [engine.kernel_for(B) for B in (1, 8, 9, 64, 65)] == [
        *("tensor_medium", "tensor_medium", "tensor_large", "tensor_large", table)
    ]


@needs_cuda
def test_later_times_are_added(files, made_up, folder):
    path, weights = files
    made_up(wins("tensor_large"))
    assert tune(path / "cell", "--batch", 8) == tune(path / "cell", "--batch", 64) == 0
    made_up(wins("matmul"))
    assert tune(path / "cell", "--batch", 64) == 0
    engine = LSTMCell(weights, backend="cuda")._engine
    assert [engine.kernel_for(B) for B in (8, 64)] == ["tensor_large", "matmul"]
    assert len(files_in(folder)) == 1


@needs_cuda
def test_any_measured_kernel_is_right(files, made_up):
    """Calls, sequences and pools are right with each kernel, whichever the table would choose."""
    path, weights = files
    x = np.random.default_rng(0).normal(size=(5, I)).astype("f4")
    reference = LSTMCell(weights.astype("float64"), backend="numpy")
    wanted = reference(x.astype("f8"), reference.zero_state(5)).h
    for kernel in OF_BFLOAT16:
        made_up(wins(kernel))
        assert tune(path / "cell", "--batch", 8) == 0
        cell = LSTMCell(weights, backend="cuda")
        pool = StatePool(cell, 8)
        for got in (
            cell(cell.asarray(x), cell.zero_state(5)).h,
            LSTM(weights, backend="cuda")(cell.asarray(x)[None], (cell.zero_state(5),))[0][0],
            pool.step(cell.asarray(x), pool.allocate(5)),
        ):
            np.testing.assert_allclose(got.get().astype("f8"), wanted, atol=2**-6)


@needs_cuda
def test_equal_layers_are_measured_once(files, made_up, folder):
    path, _ = files
    calls = made_up(wins("tensor_medium"))
    assert tune(path / "layers", path / "cell", "--batch", 8) == 0
    assert len(files_in(folder)) == 2
    assert len(calls) == 2 * 4 * (1 + turns._TURNS)
    lstm = LSTM(StackedWeights.random(I, N, 3, seed=0, dtype="bfloat16"), backend="cuda")
    assert lstm.stepper(8).kernels == ("tensor_medium",) * 3


@needs_cuda
def test_dtypes_and_precision_are_measured(files, made_up, folder):
    path, weights = files
    calls = made_up(wins("simt"))
    options = ("--dtype", "float32", "--dtype", "float64", "--precision", "high", "--batch", 8)
    assert tune(path / "cell", *options) == 0
    assert sorted({kernel for kernel, _, _ in calls}) == sorted(kernel_choice.NAMES)
    assert {file.name.split("-")[-3] for file in files_in(folder)} == {"tf32", "float64"}
    as_float32 = weights.astype("float32")
    assert LSTMCell(as_float32, backend="cuda", precision="high").stepper(8).kernels == ("simt",)
    assert LSTMCell(as_float32, backend="cuda").stepper(8).kernels == ("matmul",)


def test_all_layers_together_decide():
    """All layers use matmul, unless the other kernels are faster in total. If any time is missing, matmul wins."""
    about = "bfloat16", "highest", 90
    one = measured.Measured({64: {"matmul": 9e-6, "tensor_small": 10e-6}}, "now")
    other = measured.Measured({64: {"matmul": 20e-6, "tensor_medium": 10e-6}}, "now")
    sizes = [(I, N, None)] * 2
    assert kernel_choice.choose_layers(64, sizes, *about, measured=(one, other)) == ("tensor_small", "tensor_medium")
    assert kernel_choice.choose_layers(64, sizes, *about, measured=(one, one)) == ("matmul", "matmul")
    assert kernel_choice.choose_layers(64, sizes, *about, measured=(one, None)) == ("matmul", "matmul")
    assert kernel_choice.choose_layers(65, sizes, *about, measured=(one, one)) == kernel_choice.choose_layers(
        65, sizes, *about
    )
    forced = kernel_choice.choose_layers(64, sizes, *about, forced="matmul", measured=(other, other))
    assert forced == ("matmul", "matmul")


def test_one_kernel_pools_use_the_times():
    """Without matmul, the fastest other kernel steps. Above all measured batches, the table chooses."""
    times = measured.Measured({8: {"matmul": 1e-6, "tensor_large": 2e-6, "tensor_small": 3e-6}}, "now")
    sizes, about = ((I, N, None),), ("bfloat16", "highest", 90)
    assert kernel_choice.one_kernel_layers(5, sizes, *about, measured=(times,)) == ("tensor_large",)
    assert kernel_choice.one_kernel_layers(9, sizes, *about, measured=(times,)) == ("tensor_small",)
    assert kernel_choice.one_kernel_layers(5, sizes, *about, "tensor_medium", (times,)) == ("tensor_medium",)
    without = {"forced": None, "can_plan": False, "measured": (times,)}
    assert kernel_choice.runnable_layers(5, sizes, *about, **without) == ("tensor_large",)


def test_choices_include_measured_ones():
    times = measured.Measured({8: {"tensor_large": 1e-6}, 64: {"simt": 1e-6}}, "now")
    about = I, N, None, "float32", "high", 90
    table = kernel_choice.choices(*about)
    assert kernel_choice.choices(*about, measured=times) == {"tensor_large", "simt"} | table
    assert kernel_choice.choices(*about, measured=times, forced="matmul") == {"matmul"}


# Measuring.


@needs_cuda
def test_kernels_are_timed_in_turns(files, made_up):
    path, _ = files
    calls = made_up(wins("matmul"))
    assert tune(path / "cell", "--batch", 8) == 0
    turn = [kernel for kernel, _, _ in calls]
    assert turn == OF_BFLOAT16 * (1 + turns._TURNS)
    assert [times for _, _, times in calls] == [3] * 4 + [40] * 4 * turns._TURNS


@needs_cuda
def test_medians_decide(files, made_up):
    path, weights = files
    disturbed = iter([1e-6] + [5e-6, 1e-9] * 2 + [3e-6] * 5)
    made_up(lambda kernel, B: next(disturbed) if kernel == "tensor_large" else 4e-6, wins("matmul"))
    assert tune(path / "cell", "--batch", 8) == 0
    times = LSTMCell(weights, backend="cuda")._engine.measured.times(8)
    assert (next(iter(times)), times["tensor_large"]) == ("tensor_large", 3e-6)


@needs_cuda
def test_a_wrong_kernel_is_not_timed(files, made_up, monkeypatch, capsys):
    """Its steps are wrong in one row, but only those that write one of its two buffers."""
    from fusedlstm.backends.cuda.stepper import CudaStepper

    path, weights = files
    real, broken = CudaStepper._run, []

    def run(self):
        real(self)
        if self.kernels == ("tensor_large",) and self.current == broken[0]:
            self.output[100] += 1

    monkeypatch.setattr(CudaStepper, "_run", run)
    for buffer in (0, 1):
        broken[:] = [buffer]
        calls = made_up(wins("tensor_large"))
        assert tune(path / "cell", "--batch", 128) == 1
        assert "tensor_large" not in {kernel for kernel, _, _ in calls}
        assert "tensor_large is WRONG: the output differs from the formula by 1." in capsys.readouterr().out
    assert LSTMCell(weights, backend="cuda").stepper(128).kernels != ("tensor_large",)


@needs_cuda
@pytest.mark.parametrize("name", ["float64", "float32", "tf32", "float16", "bfloat16"])
def test_right_results_pass(name):
    """The weights have many options and more inputs than a tile of K. There may be more rows than the period."""
    about = ("float32", "high") if name == "tf32" else (name, "highest")
    options = {"proj_size": 12, "peephole": True, "zoneout_h": 0.1, "cell_clip": 3.0, "proj_clip": 0.5}
    weights = LSTMWeights.random(40, 24, seed=0, dtype=about[0], **options)
    inputs = periodic.Periodic(weights, name)
    for kernel in measured.kernels_of(name):
        cell = LSTMCell(weights, backend="cuda", precision=about[1], kernel=kernel)
        for B in (1, 100):
            assert inputs.complaint(cell, cell.stepper(B)) is None


@needs_cuda
def test_kernels_that_cannot_run_are_said(files, made_up, monkeypatch, capsys):
    from fusedlstm.backends.cuda.runtime import cublaslt

    path, weights = files
    monkeypatch.setattr("fusedlstm.backends.cuda.backend.why_not", lambda: "nvmath-python is away")
    monkeypatch.setattr(cublaslt, "why_not", lambda: "nvmath-python is away")
    made_up(wins("tensor_medium"))
    assert tune(path / "cell", "--batch", 8) == 0
    assert "matmul can't run: Steppers, pools and sequences can't run on cuda here: nvmath-python is away" in (
        capsys.readouterr().out
    )
    assert LSTMCell(weights, backend="cuda").stepper(8).kernels == ("tensor_medium",)


@needs_cuda
def test_a_kernel_that_fails_leaves_the_others(files, made_up, monkeypatch, capsys):
    """Its check may run out of memory, and the host may be too slow to time it. The rest is measured and kept."""
    path, weights = files
    complaint, left = periodic.Periodic.complaint, ["the first time"]

    def without_memory(self, cell, stepper):
        if stepper.kernels == ("tensor_large",):
            raise MemoryError("no memory for a check")
        return complaint(self, cell, stepper)

    def of(kernel, B):
        if kernel == "tensor_small" and left:
            left.pop()
        elif kernel == "tensor_small":
            raise RuntimeError("the host can't queue 40 steps")
        return wins("tensor_small")(kernel, B)

    monkeypatch.setattr(periodic.Periodic, "complaint", without_memory)
    made_up(of, wins("matmul"))
    assert tune(path / "cell", "--batch", 8) == 0
    said = capsys.readouterr().out
    assert "tensor_large can't run: no memory for a check" in said
    assert "tensor_small can't run: the host can't queue 40 steps" in said
    found = select.times_of(0, measured.Layer.of(weights, "highest"))
    assert set(found.rows[8]) == {"matmul", "tensor_medium"}
    assert "tensor_small" in found.sequences[8]


@needs_cuda
def test_time_is_limited(files, made_up, monkeypatch, capsys):
    path, weights = files
    clock = iter([0.0, 1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0])
    monkeypatch.setattr(command.time, "monotonic", lambda: next(clock))
    made_up(wins("tensor_large"))
    assert tune(path / "cell", "--batch", 8, "--batch", 16, "--batch", 32, "--seconds", 5) == 0
    said = capsys.readouterr().out
    kinds = [f"B={B}{words}" for B in (8, 16, 32) for words in ("", " sequences")]
    assert [f"{kind}: not measured: the 5 seconds were over" in said for kind in kinds] == [False] * 3 + [True] * 3
    assert said.endswith("done in 8.0 s\n")
    times = LSTMCell(weights, backend="cuda")._engine.measured
    assert (list(times.rows), list(times.sequences)) == ([8, 16], [8])


@needs_cuda
def test_kernels_are_compiled_first(files, made_up, monkeypatch):
    """All that the Steppers and Sequencers need is passed to `compile_first`."""
    path, _ = files
    uses = []
    monkeypatch.setattr(command, "compile_first", lambda say, found, capability: uses.extend(found))
    made_up(wins("matmul"))
    assert tune(path / "cell", "--batch", 8, "--batch", 64) == 0
    assert [(use.kernel, tuple(use.batches), use.objects) for use in uses] == [
        *((kernel, (8, 64), ("stepper", "sequence")) for kernel in OF_BFLOAT16),
        ("scan", (8, 64), ("sequence",)),
    ]


# Sequences.


@needs_cuda
@pytest.mark.parametrize("winner", ["tensor_small", "scan"])
def test_sequences_use_the_fastest(winner, files, made_up, folder):
    """The table would choose "scan". Single steps have their own times."""
    path, weights = files
    old = LSTM(weights, backend="cuda")
    assert old.kernels(64, 64) == ("scan",)
    calls = made_up(wins("tensor_large"), wins(winner))
    assert tune(path / "cell", "--batch", 64) == 0
    assert {kernel for kernel, _, _ in calls} == set(OF_BFLOAT16)
    assert {kernel for kernel, _, _ in made_up.runs} == {*OF_BFLOAT16, "scan"}
    lstm = LSTM(weights, backend="cuda")
    for B in (1, 64):
        assert {lstm.kernels(T, B) for T in (4, 64, 1000)} == {lstm.sequencer(3, B).kernels} == {(winner,)}
        few = "tensor_medium" if winner == "scan" else winner
        assert lstm.kernels(1, B) == lstm.kernels(2, B) == lstm.sequencer(1, B).kernels == (few,)
    assert lstm.kernels(64, 65) == ("scan",)  # by the table
    assert lstm.stepper(64).kernels == StatePool(lstm, 64).kernels(64) == ("tensor_large",)
    assert pickle.loads(pickle.dumps(old)).kernels(64, 64) == (winner,)
    both = LSTM(StackedWeights.random(I, N, seed=0, bidirectional=True, dtype="bfloat16"), backend="cuda")
    assert both.kernels(64, 64) == (winner, winner)
    assert LSTM(weights, backend="cuda", kernel="tensor_small").kernels(64, 64) == ("tensor_small",)
    assert LSTM(weights, backend="cuda", kernel="scan").kernels(64, 64) == ("scan",)
    assert LSTM(weights, backend="cuda", batch_invariant=True).kernels(64, 64) == ("tensor_medium",)
    assert old.kernels(64, 64) == ("scan",)


@needs_cuda
def test_measured_scans_take_more_rows(files):
    """The table scans up to 4096 rows. For more rows, measured times may still choose a scan."""
    _, weights = files
    assert LSTM(weights, backend="cuda").kernels(64, 5000) != ("scan",)
    layer = measured.Layer.of(weights, "highest")
    times = measured.Measured({}, "now", {8192: {"matmul": 2e-6, "scan": 1e-6}})
    select.keep_times(0, layer, times)
    assert LSTM(weights, backend="cuda").kernels(64, 5000) == ("scan",)
    assert LSTM(weights, backend="cuda").kernels(64, 8193) != ("scan",)


@needs_cuda
@pytest.mark.parametrize("winner", ["tensor_small", "scan"])
def test_pieces_have_the_bits_of_a_call(winner, files):
    """The choice doesn't depend on T, so the bits don't depend on where a sequence is cut."""
    _, weights = files
    select.keep_times(0, measured.Layer.of(weights, "highest"), measured.Measured({}, "now", {8: {winner: 1e-6}}))
    lstm, rng = LSTM(weights, backend="cuda"), np.random.default_rng(0)
    xs, state = lstm.asarray(rng.normal(size=(9, 5, I))), lstm.zero_state(5)
    wanted, _ = lstm(xs, state)
    assert lstm.kernels(9, 5) == (winner,)
    outputs = []
    for part in (slice(0, 1), slice(1, 3), slice(3, 9)):
        ys, state = lstm(xs[part], state)
        outputs.append(ys.get())
    assert np.concatenate(outputs).tobytes() == wanted.get().tobytes()


@needs_cuda
def test_runs_are_timed_in_turns(files, made_up):
    """A burst of runs lasts about as long as one of single steps, so it has fewer runs."""
    path, _ = files
    made_up(wins("matmul"), lambda kernel, B: 10e-6)
    assert tune(path / "cell", "--batch", 8) == 0
    kernels = [*OF_BFLOAT16, "scan"]
    assert [kernel for kernel, _, _ in made_up.runs] == kernels * (1 + turns._TURNS)
    assert [times for _, _, times in made_up.runs] == [3] * 5 + [10] * 5 * turns._TURNS  # 4 steps take 40 us


def test_large_runs_have_fewer_steps(monkeypatch):
    monkeypatch.setattr(turns, "STEPS", 64)  # again
    small, large = (LSTMWeights.random(size, size, seed=0, dtype="float32") for size in (8, 1024))
    assert turns.steps_of_run(small, 4096) == 64
    assert [turns.steps_of_run(large, B) for B in (256, 4096, 1 << 20)] == [64, 8, 4]


@needs_cuda
@pytest.mark.parametrize("fault", ["a wrong row", "no run", "an old state"])
def test_a_wrong_run_is_not_timed(fault, files, made_up, monkeypatch, capsys):
    """One row of one step is wrong, the graph does nothing, or the final state is not written."""
    from fusedlstm.backends.cuda.sequencer import CudaSequencer

    path, weights = files
    real = CudaSequencer._run

    def run(self):
        if self.kernels != ("scan",):
            real(self)
        elif fault == "a wrong row":
            real(self)
            self.buffers.outputs[2, 100] += 1
        elif fault == "an old state":
            h = self._states[0].h.copy()
            real(self)
            self._states[0].h[...] = h

    monkeypatch.setattr(CudaSequencer, "_run", run)
    made_up(wins("scan"))
    assert tune(path / "cell", "--batch", 128) == 1
    assert "scan" not in {kernel for kernel, _, _ in made_up.runs}
    words = {
        "a wrong row": "output 2 differs from the formula by ",
        "no run": "output 0 differs from the formula by ",
        "an old state": "the final h is not the last output",
    }
    assert f"scan is WRONG: {words[fault]}" in capsys.readouterr().out
    assert LSTM(weights, backend="cuda").kernels(64, 128) == ("matmul",)


@needs_cuda
@pytest.mark.parametrize("name", ["float64", "float32", "tf32", "float16", "bfloat16"])
def test_right_runs_pass(name):
    """The weights have many options. Those in TF32 have no projection, which its scan can't do."""
    about = ("float32", "high") if name == "tf32" else (name, "highest")
    options = {"peephole": True, "zoneout_h": 0.1, "zoneout_c": 0.2, "cell_clip": 3.0}
    if name != "tf32":
        options |= {"proj_size": 12, "proj_clip": 0.5}
    weights = LSTMWeights.random(40, 24, seed=0, dtype=about[0], **options)
    inputs, layer = periodic.Periodic(weights, name), measured.Layer.of(weights, about[1])
    assert ("scan" in layer.kernels_of_sequences()) == (name not in ("float64", "float32"))
    for kernel in layer.kernels_of_sequences():
        lstm = LSTM(weights, backend="cuda", precision=about[1], kernel=kernel)
        for T, B in ((4, 100), (6, 1)):
            assert inputs.complaint_of_run(lstm, lstm.sequencer(T, B)) is None


@needs_cuda
def test_sequences_without_a_kernel_are_said(files, made_up, monkeypatch, capsys):
    """Calls with very many rows take one step at once, which can't scan."""
    from fusedlstm.backends.cuda import static_sequence

    path, weights = files
    monkeypatch.setattr(static_sequence, "_MOST_BUFFERS", 1)
    made_up(wins("tensor_small"))
    assert tune(path / "cell", "--batch", 8) == 0
    assert "scan can't run: with this many rows, a call runs too few steps at once" in capsys.readouterr().out
    assert LSTM(weights, backend="cuda").kernels(64, 8) == ("tensor_small",)


@pytest.mark.parametrize(
    ("layer", "scans"),
    [
        (measured.Layer(8, 128, None, "bfloat16"), True),
        (measured.Layer(8, 129, None, "bfloat16"), False),
        (measured.Layer(8, 16, 16, "float16"), True),
        (measured.Layer(8, 16, 17, "float16"), False),
        (measured.Layer(8, 16, None, "tf32"), True),
        (measured.Layer(8, 16, 8, "tf32"), False),
        (measured.Layer(8, 16, None, "float32"), False),
    ],
    ids=str,
)
def test_files_have_only_kernels_that_can_run(layer, scans):
    """A file with the time of a scan that no GPU can run is damaged."""
    assert ("scan" in layer.kernels_of_sequences()) is scans
    content = measured.to_json(measured.Measured({}, "now", {8: {"matmul": 2e-6, "scan": 1e-6}}), layer, {})
    if scans:
        assert list(measured.from_json(content, layer, {}).sequences[8]) == ["scan", "matmul"]
    else:
        with pytest.raises(ValueError, match="^it is damaged: wanted times of kernels for"):
            measured.from_json(content, layer, {})


def test_uses_are_of_kernels_that_can_run():
    """A small GPU can't scan 128 units in TF32, and an old one has only matmul."""
    weights = LSTMWeights.random(I, 128, seed=0, dtype="float32")
    layers = {measured.Layer.of(weights, "high"): weights}
    for capability, kernels in ((90, [*kernel_choice.NAMES, "scan"]), (86, kernel_choice.NAMES), (75, ["matmul"])):
        assert [use.kernel for use in command._uses(layers, [8], "high", capability)] == list(kernels)


# The files.


@pytest.fixture
def kept(files, folder):
    """Return a file of times of 64 rows, by which "tensor_large" is the fastest, and its weights."""
    _, weights = files
    layer, seconds = measured.Layer.of(weights, "highest"), wins("tensor_large")
    steps, sequences = (
        {64: {kernel: seconds(kernel, 64) for kernel in kernels}}
        for kernels in (layer.kernels(), layer.kernels_of_sequences())
    )
    select.keep_times(0, layer, measured.Measured(steps, measured.now(), sequences))
    (file,) = files_in(folder)
    return file, weights


def chosen(weights):
    return LSTMCell(weights, backend="cuda").stepper(64).kernels


@needs_cuda
def test_the_file_is_readable(kept):
    file, _ = kept
    found = json.loads(file.read_text())
    gpu = probe.describe_gpus()[0]
    assert found["machine"] == tuned.machine(0)
    assert found["machine"]["GPU"] == gpu
    assert set(found["machine"]) == {"GPU", "driver", "NVRTC", "cuBLAS", "fusedlstm", "kernels"}
    assert found["layer"] == {"I": I, "N": N, "P": None, "arithmetic": "bfloat16"}
    times = found[OF_STEPS]["64"]
    assert (times["tensor_large"], next(iter(times)), set(times)) == (1.0, "tensor_large", set(OF_BFLOAT16))
    times = found[OF_SEQUENCES]["64"]
    assert (times["tensor_large"], next(iter(times)), set(times)) == (1.0, "tensor_large", {*OF_BFLOAT16, "scan"})
    assert file.name.endswith("-bfloat16-I8-N16.json")
    assert "\n" in file.read_text()


OF_STEPS = "microseconds of a step by rows"
OF_SEQUENCES = "microseconds of a step of a sequence by rows"


def with_key(text, name, value):
    return json.dumps({**json.loads(text), name: value})


DAMAGED = {
    "empty": lambda text: "",
    "cut off": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[1]",
    "not UTF-8": lambda text: "\udcff",
    "another format": lambda text: text.replace('"format": 1', '"format": 2'),
    "a negative time of a run": lambda text: '"tensor_large": -1.0'.join(text.rsplit('"tensor_large": 1.0', 1)),
    "a list of sequences": lambda text: with_key(text, OF_SEQUENCES, [1]),
    "sequences without times": lambda text: with_key(text, OF_SEQUENCES, {"64": {}}),
    "sequences with an unknown kernel": lambda text: with_key(text, OF_SEQUENCES, {"64": {"skim": 1.0}}),
    "a key of a newer version": lambda text: with_key(text, "microseconds of a pool's step by rows", {}),
    "no rows": lambda text: text.replace("microseconds of a step", "milliseconds of a step"),
    "a negative time": lambda text: text.replace('"tensor_large": 1.0', '"tensor_large": -1.0'),
    "a time that is NaN": lambda text: text.replace('"tensor_large": 1.0', '"tensor_large": NaN'),
    "a time too large for a float": lambda text: text.replace('"tensor_large": 1.0', f'"tensor_large": {10**400}'),
    "an infinite number of rows": lambda text: with_key(text, OF_SEQUENCES, [[float("inf"), {"matmul": 1.0}]]),
    "an unknown kernel": lambda text: text.replace("tensor_large", "tensor_huge"),
    "a kernel of another dtype": lambda text: text.replace("tensor_large", "simt"),
    "another layer": lambda text: text.replace('"N": 16', '"N": 32'),
    "no times": lambda text: text[: text.index('"64": {')] + '"64": {}}}',
    "nested too deeply": lambda text: "[" * 100_000,
}


@needs_cuda
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_ignored(damage, kept, caplog):
    file, weights = kept
    assert chosen(weights) == ("tensor_large",)
    damaged = DAMAGED[damage](file.read_text())
    assert damaged != file.read_text()
    file.write_bytes(damaged.encode(errors="surrogateescape"))
    with caplog.at_level(logging.WARNING, "fusedlstm"):
        assert chosen(weights) == chosen(weights) != ("tensor_large",)
    (said,) = caplog.messages
    assert said.startswith(f"{file} isn't used: it")


def test_times_survive_their_file():
    layer = measured.Layer(I, N, None, "float16")
    times = measured.Measured({8: {"matmul": 2e-6, "tensor_small": 3e-6}}, "now", {64: {"scan": 1e-6, "matmul": 4e-6}})
    found = measured.from_json(measured.to_json(times, layer, {"GPU": "H"}), layer, {"GPU": "H"})
    assert (found.rows, found.sequences, found.date) == (times.rows, times.sequences, "now")
    newer = found.updated(sequences={8: {"matmul": 1e-6}}).updated(rows={8: {"matmul": 1e-6}})
    assert (newer.rows, list(newer.sequences)) == ({8: {"matmul": 1e-6}}, [8, 64])


@needs_cuda
def test_files_without_sequences_are_read(kept, caplog):
    """The first versions wrote times of single steps only. The table chooses for sequences."""
    file, weights = kept
    content = json.loads(file.read_text())
    del content[OF_SEQUENCES]
    file.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING, "fusedlstm"):
        assert chosen(weights) == ("tensor_large",)
        assert LSTM(weights, backend="cuda").kernels(64, 64) == ("scan",)
    assert not caplog.messages


@needs_cuda
def test_keys_of_newer_versions_are_named(kept, caplog):
    file, weights = kept
    file.write_text(with_key(file.read_text(), "a newer key", {}))
    with caplog.at_level(logging.WARNING, "fusedlstm"):
        assert chosen(weights) != ("tensor_large",)
    assert "isn't used: it has 'a newer key', which this version doesn't read" in caplog.messages[0]


@needs_cuda
@pytest.mark.parametrize("fact", ["GPU", "driver", "NVRTC", "cuBLAS", "fusedlstm", "kernels"])
def test_times_of_another_machine_are_ignored(fact, kept, caplog):
    file, weights = kept
    content = json.loads(file.read_text())
    content["machine"][fact] = "another"
    file.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING, "fusedlstm"):
        assert chosen(weights) != ("tensor_large",)
    assert f"it was measured with {fact} another, and here it is " in caplog.messages[0]


@needs_driver
def test_a_gpu_has_its_own_files(kept, made_up, files, monkeypatch, folder):
    """There are two GPUs. The name of one begins with the other's."""
    file, weights = kept
    path, _ = files
    real = probe.describe_gpus()
    other = real[1].replace(",", " Ti,", 1)
    monkeypatch.setattr(probe, "describe_gpus", lambda: [real[0], other])
    tuned._known.cache_clear()
    assert LSTMCell(weights, backend="cuda:1").stepper(64).kernels != ("tensor_large",)
    made_up(wins("tensor_medium"))
    assert tune(path / "cell", "--batch", 64, "--backend", "cuda:1") == 0
    assert len(files_in(folder)) == 2
    assert LSTMCell(weights, backend="cuda:1").stepper(64).kernels == ("tensor_medium",)
    assert chosen(weights) == ("tensor_large",)
    assert [len(tuned.descriptions(index)[0]) for index in (0, 1)] == [1, 1]
    assert not any(tuned.descriptions(index)[1] for index in (0, 1))


@needs_cuda
def test_info_says_where_a_choice_comes_from(kept, capsys):
    file, _ = kept
    assert command_line.main(["info"]) == 0
    said = capsys.readouterr().out
    assert "steps: the kernel is chosen by measured times, and for other layers by a table of predictions" in said
    date = json.loads(file.read_text())["date"]
    assert f"measured {date} on this GPU: I=8 N=16 bfloat16, B = 64, sequences of B = 64: {file.name}" in said
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {OF_STEPS: {}, OF_SEQUENCES: {}}))
    assert command_line.main(["info"]) == 0
    assert f"I=8 N=16 bfloat16, no times: {file.name}" in capsys.readouterr().out
    file.write_text("")
    assert command_line.main(["info"]) == 0
    said = capsys.readouterr().out
    assert "steps: the kernel is chosen by a table of predictions" in said
    assert f"not used: {file.name}: it is damaged: " in said


@needs_cuda
def test_forgotten_times_are_gone(kept, folder, capsys):
    file, weights = kept
    compiled = folder / "compiled.json"
    compiled.write_text("{}")
    assert tune("--forget") == 0
    assert capsys.readouterr().out.endswith("1 files of measured times deleted\n")
    assert not files_in(folder)
    assert compiled.exists()
    assert chosen(weights) != ("tensor_large",)
    assert tune("--forget") == 0


@needs_cuda
def test_a_full_disk_leaves_the_old_file(kept, files, made_up, monkeypatch, folder):
    file, _ = kept
    path, _ = files
    made_up(wins("matmul"))
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tuned.cache, "write", full)
    assert tune(path / "cell", "--batch", 64) == 1
    assert (file.read_bytes(), files_in(folder)) == (before, [file])


@needs_cuda
def test_times_that_cannot_be_kept_are_an_error(files, made_up, folder, capsys):
    path, _ = files
    made_up(wins("matmul"))
    folder.chmod(0o777)  # others could write to it
    assert tune(path / "cell", "--batch", 8) == 1
    assert f"{folder}: measured times can't be written there" in capsys.readouterr().err


# Usage.


def test_nothing_to_tune_is_said(capsys):
    assert tune() == 1
    assert capsys.readouterr().err == "fusedlstm: WEIGHTS: wanted at least one file, or --forget; got none\n"


def test_numpy_is_not_tuned(files, capsys):
    path, _ = files
    assert tune(path / "cell", "--backend", "numpy") == 1
    wanted = "fusedlstm: --backend: wanted 'cuda' or 'cuda:<index>'; got 'numpy'. NumPy has one way to step\n"
    assert capsys.readouterr().err == wanted


def test_a_missing_gpu_is_said(files, capsys, monkeypatch):
    path, _ = files
    monkeypatch.setattr(select, "unavailable_reason", lambda name, index=0: "it is away")
    assert tune(path / "cell") == 1
    assert capsys.readouterr().err == "fusedlstm: backend='cuda:0' can't run here: it is away\n"


@pytest.mark.parametrize("words", ["--batch 0", "--seconds 0", "--dtype int8", "--precision low"])
def test_wrong_usage_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        tune("w", *words.split())
    assert ended.value.code == 2
    assert "usage: fusedlstm tune" in capsys.readouterr().err


def test_tune_imports_no_cupy():
    """Importing the modules and deleting the times don't import CuPy."""
    code = """
import sys
import fusedlstm.cli.tune, fusedlstm.backends.measured, fusedlstm.backends.cuda.runtime.tuned
from fusedlstm.cli.main import main
assert main(["tune", "--forget"]) == 0
assert "cupy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)


# The timer.


@pytest.fixture
def timer(monkeypatch):
    """Return a timer that keeps the GPU busy with small products, as the emulated GPU is slow."""
    module = pytest.importorskip("fusedlstm.backends.cuda.replay_timer")
    monkeypatch.setattr(module, "_ROWS", 8)
    monkeypatch.setattr(module, "_MOST_PRODUCTS", 8)
    return module.ReplayTimer(0)


@needs_driver
def test_the_timer_keeps_the_host_ahead(timer, monkeypatch):
    """A measurement during which the GPU waited for the host is repeated with more work before it."""
    ahead, real, products = iter([False, False, True]), timer._once, []

    def once(step, times):
        products.append(timer._products)
        return real(step, times)[0], next(ahead)

    monkeypatch.setattr(timer, "_once", once)
    steps = []
    monkeypatch.setattr("cupy.cuda.get_elapsed_time", lambda first, last: 6.0)
    assert timer(lambda: steps.append(1), 3) == pytest.approx(2e-3)
    assert (products, len(steps)) == ([1, 2, 4], 9)
    monkeypatch.setattr(timer, "_once", lambda step, times: (1.0, False))
    with pytest.raises(RuntimeError, match="the host can't queue 3 steps"):
        timer(lambda: None, 3)


@needs_driver
@pytest.mark.parametrize("kind", ["steps", "runs"])
def test_the_timer_times_only_the_steps(kind, timer):
    from driver import observe

    lstm = LSTM(LSTMWeights.random(I, N, seed=0), backend="cuda")
    work = lstm.stepper(2).step if kind == "steps" else lstm.sequencer(5, 2).run
    work()
    observe.clear()
    timer._once(work, 3)
    kinds = [entry[0] for entry in observe.log()]
    first, last = (at for at, kind in enumerate(kinds) if kind == "record")
    assert kinds[first + 1 : last].count("graph") == 3 == kinds.count("graph")
