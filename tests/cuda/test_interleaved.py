"""A cell's interleaved weights, on a GPU or emulated: their content, and when they are written."""

from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMWeights

from driver import memory, observe
from support.backends import BACKENDS, needs_cuda
from support.interleaved_layout import assert_rounded, interleaved, padded, tiles
from support.kernel_cases import assert_same_bits

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = needs_cuda
emulated = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the fake driver")

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
FORMS = [(0, 1, {}), (17, 33, {}), (16, 40, {"proj_size": 7}), (33, 31, {"proj_size": 31})]


@pytest.fixture(params=[np.float64, np.float32], ids=["not rounded", "rounded"])
def kind(request):
    """Return a dtype, and whether it is rounded."""
    rounded = request.param is np.float32
    if rounded:
        needs_tf32()
    return request.param, rounded


def needs_tf32():
    if int(cupy.cuda.Device().compute_capability) < 80:
        pytest.skip("this GPU has no TF32")


def engine_of(weights):
    return LSTMCell(weights, backend="cuda")._engine


def assert_holds(copy, weights, *, rounded):
    """Assert that a copy holds these weights, element by element."""
    assert (tiles(weights.input_size, weights.dtype), tiles(weights.output_size, weights.dtype)) == (copy.KX, copy.KH)
    pairs = [(copy.weight, interleaved(weights.weight_ih, weights.weight_hh))]
    if weights.weight_hr is None:
        assert copy.projection is None
    else:
        pairs.append((copy.projection, padded(weights.weight_hr)))
    for got, want in pairs:
        if rounded:
            assert_rounded(got.get(), want)
        else:
            assert_same_bits("interleaved", got.get(), want)


@pytest.mark.parametrize(("I", "N", "options"), FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_set_weights_rewrites_the_copy(dtype, I, N, options):
    """The copy stays in place, as graphs have its address."""
    old, new = (LSTMWeights.random(I, N, seed=seed, dtype=dtype, **options) for seed in (0, 1))
    engine = engine_of(old)
    copy = engine.weights.interleaved(rounded=False)
    assert_holds(copy, old, rounded=False)
    places = copy.weight.data.ptr, copy.projection is not None and copy.projection.data.ptr
    assert engine.with_weights(new) is engine
    assert engine.weights.interleaved(rounded=False) is copy
    assert (copy.weight.data.ptr, copy.projection is not None and copy.projection.data.ptr) == places
    assert_holds(copy, new, rounded=False)


def test_rounded_and_plain_copies_coexist():
    needs_tf32()
    old, new = (LSTMWeights.random(17, 33, seed=seed, proj_size=9) for seed in (0, 1))
    engine = engine_of(old)
    copies = {rounded: engine.weights.interleaved(rounded) for rounded in (True, False)}
    for weights in (old, new):
        engine.with_weights(weights)
        for rounded, copy in copies.items():
            assert engine.weights.interleaved(rounded) is copy
            assert_holds(copy, weights, rounded=rounded)


def test_a_copy_holds_the_weights_set_before():
    old, new = (LSTMWeights.random(17, 33, seed=seed) for seed in (0, 1))
    engine = engine_of(old).with_weights(new)
    assert_holds(engine.weights.interleaved(rounded=False), new, rounded=False)


def test_threads_share_one_copy():
    weights = engine_of(LSTMWeights.random(17, 33, seed=0)).weights
    with ThreadPoolExecutor(4) as pool:
        copies = list(pool.map(weights.interleaved, [False] * 16))
    assert all(copy is copies[0] for copy in copies)


def logged(what):
    """Return what is launched or waited for during a call, and on which stream."""
    observe.clear()
    what()
    return [entry[:3] for entry in observe.log() if entry[0] in ("launch", "synchronize")]


@emulated
@pytest.mark.parametrize(("options", "kernels"), [({}, 1), ({"proj_size": 9}, 2)])
def test_a_copy_is_made_on_the_current_stream(kind, options, kernels):
    """Only kernels write it, once, after an upload on another stream. The host waits."""
    dtype, rounded = kind
    weights = LSTMWeights.random(17, 33, seed=0, dtype=dtype, **options)
    engine = engine_of(weights)
    with cupy.cuda.Stream() as other:
        engine.with_weights(weights)
        uploaded = next(entry for entry in reversed(observe.log()) if entry[:2] == ("record", other.ptr))
    made = memory.made()
    with cupy.cuda.Stream() as stream:
        work = logged(lambda: engine.weights.interleaved(rounded))
        assert observe.log()[0][:3] == ("wait", stream.ptr, uploaded[2])
    assert work == [("launch", stream.ptr, "kernel")] * kernels + [("synchronize", stream.ptr, 0)]
    assert memory.made() == made + kernels
    assert logged(lambda: engine.weights.interleaved(rounded)) == []


@emulated
@pytest.mark.parametrize(("options", "kernels"), [({"peephole": True}, 1), ({"proj_size": 9}, 2)])
def test_new_weights_are_uploaded_once(kind, options, kernels):
    """They are interleaved in place on the same stream, without an allocation or a wait."""
    dtype, rounded = kind
    old, new = (LSTMWeights.random(17, 33, seed=seed, dtype=dtype, **options) for seed in (0, 1))
    engine = engine_of(old)
    with cupy.cuda.Stream() as stream:
        uploads = logged(lambda: engine.with_weights(old))
        assert {entry[:2] for entry in uploads} == {("launch", stream.ptr)}
        assert "kernel" not in [entry[2] for entry in uploads], "copies should be made only on demand"
        copy = engine.weights.interleaved(rounded)
        made = memory.made()
        work = logged(lambda: engine.with_weights(new))
        assert work == uploads + [("launch", stream.ptr, "kernel")] * kernels
        assert memory.made() == made
    assert_holds(copy, new, rounded=rounded)


@emulated
def test_copies_are_made_only_on_demand():
    weights = LSTMWeights.random(17, 33, seed=0)
    cell = LSTMCell(weights, backend="cuda")
    cell(cell.asarray(np.ones((5, 17))), cell.zero_state(5))
    cell.stepper(5).step()
    cell.set_weights(weights)
    assert not cell._engine.weights._interleaved
