"""Whole steps on the emulated GPU with arrays of any layout: every alignment, and strided flags.

A step loads its kernels and takes its memory before it changes any state. Check mode also finds misaligned vectors.
"""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, StatePool

from support.backends import BACKENDS
from support.cells import host, random_inputs, random_state
from support.on_emulated_gpu import on_device

try:
    from fusedlstm.backends.cuda import device_weights, step_kernels, tiles
    from fusedlstm.backends.cuda.runtime import fork
    from fusedlstm.backends.cuda.runtime.kernel import Kernel

    from support.on_emulated_gpu import bits, bits_of
except ImportError as error:
    pytest.skip(f"needs CuPy: {error}", allow_module_level=True)

pytestmark = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the fake driver")


def moved(owner, array, elements):
    """Return the same numbers, shifted by `elements` elements, with gaps between rows."""
    wide = np.pad(host(array), ((0, 0), (elements, 8 - elements)))
    return owner.asarray(wide, dtype=array.dtype)[:, elements : array.shape[1] + elements]


def failing(monkeypatch, name):
    """Make loading of kernels with this name fail."""
    load = Kernel._load

    def lost(self, device):
        if self.name.startswith(name):
            raise MemoryError("lost")
        return load(self, device)

    monkeypatch.setattr(Kernel, "_load", lost)


def without_loaded_kernels():
    step_kernels.step_kernel.cache_clear()
    step_kernels.project_kernel.cache_clear()


def two_layers():
    """Return an LSTM of two layers whose activations, and so kernels, differ. Projections are separate launches."""
    layers = [
        LSTMWeights.random(5, 40, seed=0, proj_size=6),
        LSTMWeights.random(6, 40, seed=1, proj_size=6, activation="relu"),
    ]
    return LSTM(StackedWeights(layers), backend="cuda", kernel="simt")


@pytest.mark.parametrize("lost", ["lstm_project", "lstm_step<SimtSmall<float>, Functions<Function<RELU>>,"])
def test_a_pool_keeps_states_if_loading_fails(lost, monkeypatch):
    owner = two_layers()
    pool = StatePool(owner, 8)
    slots = pool.allocate(8)
    pool.write(slots, owner.step(owner.asarray(np.ones((8, 5))), owner.zero_state(8))[1])
    before = bits_of(pool.read(slots))
    without_loaded_kernels()
    with monkeypatch.context() as patch:
        failing(patch, lost)
        with pytest.raises(MemoryError, match="lost"):
            pool.step(owner.asarray(np.ones((3, 5))), [1, 2, 3])
    assert bits_of(pool.read(slots)) == before
    pool.step(owner.asarray(np.ones((3, 5))), [1, 2, 3])
    assert bits_of(pool.read(slots)) != before


def test_a_pool_keeps_states_if_memory_runs_out(monkeypatch):
    """A layer that has no copy of its weights in tiles makes one at its first step, which fails here."""
    owner = LSTM(StackedWeights.random(5, 8, 2, seed=0, dtype="bfloat16"), backend="cuda")
    for engine in owner._engines:
        engine.weights._interleaved.clear()
    pool = StatePool(owner, 8)
    slots = pool.allocate(8)
    before, empty, made = bits_of(pool.read(slots)), device_weights.Interleaved.empty.__func__, []

    def second(cls, *arguments, **options):
        made.append(cls)
        if len(made) == 2:
            raise MemoryError("lost")
        return empty(cls, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(device_weights.Interleaved, "empty", classmethod(second))
        with pytest.raises(MemoryError, match="lost"):
            pool.step(owner.asarray(np.ones((3, 5))), [1, 2, 3])
    assert bits_of(pool.read(slots)) == before


def test_a_call_keeps_c_if_loading_fails(monkeypatch):
    cell = LSTMCell(LSTMWeights.random(5, 40, seed=0, proj_size=6), backend="cuda", kernel="simt")
    x, state = cell.asarray(np.ones((3, 5))), random_state(cell, 3, np.random.default_rng(0))
    before, out = bits(state.c), LSTMState(h=cell.zero_state(3).h, c=state.c)
    without_loaded_kernels()
    with monkeypatch.context() as patch:
        failing(patch, "lstm_project")
        with pytest.raises(MemoryError, match="lost"):
            cell(x, state, out=out)
    assert bits(state.c) == before


@pytest.mark.parametrize("kernel", ["tensor_large", "tensor_medium", "tensor_small"])
def test_weights_are_rounded_for_tensor_cores(kernel):
    """Tensor cores would truncate float32. 16-bit types and simt need no rounding."""

    def weights_of(name, dtype="float32"):
        packed = device_weights.DeviceWeights(LSTMWeights.random(5, 8, seed=0, dtype=dtype))
        return step_kernels.interleaved_for(packed, name)

    rounded = weights_of(kernel)
    assert rounded.rounded
    assert not (host(rounded.weight).view(np.uint32) & 0x1FFF).any()
    assert not weights_of("simt").rounded
    assert not weights_of(kernel, "bfloat16").rounded


@pytest.mark.parametrize("elements", [0, 1, 2, 3])
@pytest.mark.parametrize("kernel", ["tensor_medium", "tensor_small"])
def test_reset_to_at_any_alignment(kernel, elements):
    cell = LSTMCell(LSTMWeights.random(8, 16, seed=0, dtype="float16"), backend="cuda", kernel=kernel)
    rng = np.random.default_rng(0)
    (x, state), reset = random_inputs(cell, 9), random_state(cell, 9, rng)
    first = rng.random(9) < 0.5
    wanted = bits_of(cell(x, state, is_first=first, reset_to=reset))
    for h, c in ((elements, 0), (0, elements)):
        elsewhere = LSTMState(h=moved(cell, reset.h, h), c=moved(cell, reset.c, c))
        assert bits_of(cell(x, state, is_first=first, reset_to=elsewhere)) == wanted


@pytest.mark.parametrize("projects", [None, False, True])
@pytest.mark.parametrize("elements", [1, 2, 3])
@pytest.mark.parametrize("kernel", ["tensor_medium", "tensor_small"])
def test_zoneout_reads_h_at_any_alignment(kernel, elements, projects, monkeypatch):
    """Zoneout reads h and reset_to in vectors: without a projection, and with one in either launch."""
    monkeypatch.setattr(tiles.Tile, "projects", lambda *_: projects)
    options = {"zoneout_h": 0.3, "proj_size": None if projects is None else 8}
    cell = LSTMCell(LSTMWeights.random(8, 16, seed=0, dtype="float16", **options), backend="cuda", kernel=kernel)
    (x, state), reset = random_inputs(cell, 9), random_state(cell, 9, np.random.default_rng(0))
    first = np.arange(9) % 2 == 0
    wanted = bits_of(cell(x, state, is_first=first, reset_to=reset))
    for h, to in ((elements, 0), (0, elements)):
        old = LSTMState(h=moved(cell, state.h, h), c=state.c)
        elsewhere = LSTMState(h=moved(cell, reset.h, to), c=reset.c)
        assert bits_of(cell(x, old, is_first=first, reset_to=elsewhere)) == wanted


@pytest.mark.parametrize("elements", [1, 2, 3])
def test_residual_x_at_any_alignment(elements):
    """x is staged, and added to the output."""
    lstm = LSTM(
        StackedWeights.random(16, 16, 1, seed=0, dtype="float16", residual=True), backend="cuda", kernel="tensor_small"
    )
    x = lstm.asarray(np.random.default_rng(0).normal(size=(9, 16)))
    outputs = []
    for each in (x, moved(lstm, x, elements), x):
        pool = StatePool(lstm, 9)
        pool.allocate(9)
        outputs.append(bits(pool.step(each, range(9)), pool.step(x, range(9)), pool.step(each, range(9))))
    assert outputs[0] == outputs[1] == outputs[2]


def test_residual_x_may_change_its_alignment():
    """A shift by 2 numbers allows moving pairs. A shift by 1 or 3 doesn't. None of these allows staging by 16 bytes."""
    weights = StackedWeights.random(16, 16, 1, seed=0, dtype="float16", residual=True)
    lstm = LSTM(weights, backend="cuda", kernel="tensor_small")
    x = lstm.asarray(np.random.default_rng(0).normal(size=(9, 16)))
    pools = [StatePool(lstm, 9) for _ in range(2)]
    for pool in pools:
        pool.allocate(9)
    for elements in (2, 1, 3, 0):
        wanted = bits(pools[0].step(x, range(9)))
        assert bits(pools[1].step(moved(lstm, x, elements), range(9))) == wanted


def test_flags_may_be_strided():
    """The flags are every second element of a larger array on the device."""
    cell = LSTMCell(LSTMWeights.random(5, 8, seed=0), backend="cuda", kernel="simt")
    x, state = random_inputs(cell, 9)
    first = np.array([True, False, False, True, True, False, True, False, False])
    twice = on_device(np.stack([first, ~first], axis=1).reshape(-1), np.bool_)[::2]
    wanted = bits_of(cell(x, state, is_first=first))
    assert bits_of(cell(x, state, is_first=twice)) == wanted
    pool = StatePool(cell, 9)
    pool.write(pool.allocate(9), state)
    pool.step(x, range(9), is_first=twice)
    assert bits_of(pool.read(range(9))) == wanted


def test_calls_in_a_forked_process_raise(monkeypatch):
    cell = LSTMCell(LSTMWeights.random(5, 8, seed=0), backend="cuda", kernel="simt")
    x, state = random_inputs(cell, 3)
    monkeypatch.setattr(fork, "forked", True)
    with pytest.raises(RuntimeError, match="this process was forked after CUDA had been used"):
        cell(x, state)
