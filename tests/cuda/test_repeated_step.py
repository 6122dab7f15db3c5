"""A cell's call on a GPU is repeated with new addresses: what it depends on, what it queues, and what it keeps."""

import gc
import threading
import weakref

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMState, LSTMWeights
from fusedlstm.backends import kernel_choice

from driver import memory, observe
from support.backends import BACKENDS, needs_cuda

pytestmark = needs_cuda
emulated = pytest.mark.skipif("emulated" not in BACKENDS, reason="looks into the fake driver")

I, N = 24, 40
OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"proj_size": 8, "proj_clip": 0.3, "peephole": True, "cell_clip": 0.5}, id="projected"),
    pytest.param({"proj_size": 8, "zoneout_h": 0.3}, id="zoneout"),
]
KINDS = [("float64", "highest"), ("float32", "highest"), ("float32", "high"), ("bfloat16", "highest")]


def make(dtype="float32", precision="highest", **options):
    weights = LSTMWeights.random(I, N, seed=0, dtype=dtype, **options)
    return LSTMCell(weights, backend="cuda", precision=precision)


def laid_out(cell, rng, rows, columns, dtype, layout):
    """Return an array on the GPU: "whole", with "gaps" between rows, "shifted" by one, or column-major ("turned")."""
    values = cell.asarray(rng.uniform(-1, 1, size=(rows, columns))).astype(dtype)
    if layout == "whole":
        return values
    xp = type(cell._backend).xp
    if layout == "turned":
        return xp.ascontiguousarray(values.T).T
    shift = int(layout == "shifted")
    wide = xp.zeros((rows, columns + 16), dtype)
    wide[:, shift : shift + columns] = values
    return wide[:, shift : shift + columns]


def call(cell, seed, layouts, resets, B=5):
    """Return the bits of a step with arrays of these layouts, of x, h and c, and these resets."""
    rng, sizes, checks = np.random.default_rng(seed), cell._checks.sizes, cell._checks
    widths = (sizes["I"], checks.dtype), (sizes["P"], checks.dtype), (sizes["N"], checks.c_dtype)
    x, h, c = (laid_out(cell, rng, B, *width, layout) for width, layout in zip(widths, layouts, strict=True))
    options = {}
    if resets:
        options["is_first"] = rng.random(B) < 0.5
    if resets in ("1", "B"):
        rows = 1 if resets == "1" else B
        options["reset_to"] = LSTMState(
            h=laid_out(cell, rng, rows, *widths[1], "whole"), c=laid_out(cell, rng, rows, *widths[2], "whole")
        )
    got = cell(x, LSTMState(h=h, c=c), **options).to_numpy()
    return got.h.tobytes() + got.c.tobytes()


LAYOUTS = [
    ("whole", "whole", "whole"),
    ("gaps", "whole", "whole"),
    ("whole", "gaps", "gaps"),
    ("shifted", "gaps", "whole"),
    ("gaps", "gaps", "shifted"),
    ("turned", "whole", "whole"),
    ("whole", "turned", "gaps"),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("dtype", "precision"), KINDS)
def test_repeats_have_the_bits_of_a_first_call(dtype, precision, options):
    """Calls of all layouts and resets alternate, so that each meets what the others have left."""
    cell = make(dtype, precision, **options)
    cases = [(layouts, resets) for layouts in LAYOUTS for resets in (None, "zeros", "1", "B")]
    order = np.random.default_rng(0).permutation(2 * len(cases)) % len(cases)
    for seed, k in enumerate(order):
        assert call(cell, seed, *cases[k]) == call(make(dtype, precision, **options), seed, *cases[k]), cases[k]


def test_unaligned_arrays_have_their_own_step():
    """Kernels move 16 bytes at once only where addresses allow it. On a GPU, it fails at other addresses."""
    cell = make("bfloat16")
    for layouts in (LAYOUTS[1], ("shifted", *LAYOUTS[1][1:])):
        call(cell, 0, layouts, None)
    names = [launch.__self__.name for step in cell._engine._steps.values() for launch, _ in step._work]
    assert len(names) == 2
    assert len(set(names)) == 2


def kernels(cell):
    """Return the names of the kernels of a cell's latest step."""
    return [work.__self__.name for work, on in next(reversed(cell._engine._steps.values()))._work if on == 0]


@pytest.mark.parametrize("kernel", ["matmul", "tensor_small"])
def test_each_unaligned_array_has_its_step(kernel):
    """Kernels look at the addresses of some arrays only. The step for one such array doesn't suit another."""
    weights = LSTMWeights.random(I, N, seed=0)
    options = {"backend": "cuda", "precision": "high", "kernel": kernel}
    cell = LSTMCell(weights, **options)
    xp = type(cell._backend).xp

    def at(k, rows, columns):
        """Return rows that begin k elements after an aligned address."""
        return xp.zeros((rows * columns + k,), "float32")[k:].reshape(rows, columns)

    for moved in range(5):
        x, h, c, h_out, c_out = (at(int(k == moved), 5, I if k == 0 else N) for k in range(5))
        arguments, out = (x, LSTMState(h=h, c=c)), LSTMState(h=h_out, c=c_out)
        other = LSTMCell(weights, **options)
        for each in (cell, other):
            each(*arguments, out=out)
        assert kernels(cell) == kernels(other)
        assert len(cell._engine._steps) == moved + 1


@emulated
@pytest.mark.parametrize(
    ("dtype", "options", "queued"),
    [
        ("float32", {}, ["matmul", "matmul", "lstm_pointwise"]),
        ("float32", {"proj_size": 8, "proj_clip": 0.3}, ["matmul", "matmul", "lstm_pointwise", "matmul", "lstm_clip"]),
        ("float32", {"zoneout_h": 0.3}, ["matmul", "matmul", "lstm_pointwise", "lstm_finish"]),
        ("bfloat16", {}, ["lstm_step"]),
        ("bfloat16", {"proj_size": 8, "peephole": True}, ["lstm_step", "lstm_project"]),
    ],
)
def test_what_a_call_queues(dtype, options, queued):
    """The table chooses the kernel, as in Steppers. With `out`, memory is allocated at most once, for scratch."""
    cell = make(dtype, **options)
    x, state = cell.asarray(np.zeros((5, I))), cell.zero_state(5)
    out = cell(x, state)
    for _ in range(2):
        observe.clear()
        before = memory.made()
        cell(x, state, out=out)
        log = [entry for entry in observe.log() if entry.kind == "launch"]
        assert [entry.name.partition("<")[0] or entry.what for entry in log] == queued
        assert memory.made() - before == (queued != ["lstm_step"])
    assert cell._engine.kernel_for(5) == ("matmul" if dtype == "float32" else "tensor_small")


def test_the_table_is_asked_for_each_batch():
    weights = LSTMWeights.random(64, 512, seed=0, dtype="bfloat16")
    engine = LSTMCell(weights, backend="cuda")._engine
    wanted = kernel_choice.choices(64, 512, None, "bfloat16", "highest", 90)
    assert len(wanted) > 2
    assert {engine.kernel_for(B) for B in (1, 64, 256, 1024, 4096, 100_000)} == wanted
    named = LSTMCell(weights, backend="cuda", kernel="matmul")._engine
    assert {named.kernel_for(B) for B in (1, 1024)} == {"matmul"}


def test_calls_keep_no_arrays():
    cell = make()
    x, state = cell.asarray(np.ones((5, I))), cell.zero_state(5)
    out = cell(x, state, is_first=cell._backend.mask([True] * 5), reset_to=cell.zero_state(1))
    gone = [weakref.ref(array) for array in (x, state.h, state.c, out.h, out.c)]
    del x, state, out
    gc.collect()
    assert [each() for each in gone] == [None] * 5


def test_few_steps_are_kept():
    """Batches of any size, one after the other, take a bounded amount of host memory."""
    from fusedlstm.backends.cuda import cell as cuda

    cell = make()
    for B in range(1, cuda._MOST_STEPS + 10):
        cell(cell.asarray(np.ones((B, I))), cell.zero_state(B))
    assert 0 < len(cell._engine._steps) <= cuda._MOST_STEPS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_call_in_the_middle_of_a_launch(dtype, monkeypatch):
    """A signal handler's call doesn't overwrite the packed arguments of the call that it interrupts."""
    from fusedlstm.backends.cuda.runtime import packed

    cell, real = make(dtype), packed.driver.launchKernel

    def launch(*arguments):
        monkeypatch.undo()
        inner.append(call(cell, 7, LAYOUTS[0], None))
        real(*arguments)

    wanted = [call(cell, seed, LAYOUTS[0], None) for seed in (3, 7)]
    inner = []
    monkeypatch.setattr(packed, "driver", type("Driver", (), {"launchKernel": staticmethod(launch)}))
    assert [call(cell, 3, LAYOUTS[0], None), *inner] == wanted


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_call_one_cell(dtype):
    cell = make(dtype)
    wanted = [call(cell, seed, LAYOUTS[0], None) for seed in range(4)]
    got = [[] for _ in range(4)]

    def work(seed):
        for _ in range(25):
            got[seed].append(call(cell, seed, LAYOUTS[0], None))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [[bits] * 25 for bits in wanted]


def test_an_operand_that_is_not_found_is_refused():
    """A launch of a view would otherwise repeat with the first call's address."""
    from fusedlstm.backends.cuda.kernels import clip_launch
    from fusedlstm.backends.cuda.runtime.packed import members_with

    h = make().zero_state(2).h
    assert members_with(clip_launch(h, 1.0), [h]) == [(0, 0)]
    with pytest.raises(RuntimeError, match=r"^lstm_clip<float>: h has the address of an operand, and isn't one$"):
        members_with(clip_launch(h.view(), 1.0), [h])
