"""Reentrant calls of one thread: in signal handlers, finalizers, trace functions and callbacks.

Cells, LSTMs and lstm_pointwise give both calls the right numbers. Steppers, Sequencers and pools refuse the inner call,
unless it is a release. Most tests make the inner call at every line of the outer one.
"""

import functools
import gc
import itertools
import threading

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, StatePool, lstm_pointwise
from fusedlstm.backends.numpy import blas, scratch, threads
from fusedlstm.backends.numpy import cell as numpy_cell
from fusedlstm.backends.numpy import matmul as products

from support import moments
from support.backends import WAYS, backend_in_a_way, needs_cuda
from support.cells import host, random_inputs, random_state
from support.pools import layers_of

pytestmark = pytest.mark.nightly

I, N, B = 5, 9, 4
CAPTURES = "this thread is capturing a CUDA graph"
REFUSED = "is in the middle of a call in this thread"


def bits(*results):
    """Return the bytes of states, arrays, and tuples of both."""
    parts = []
    for result in results:
        if isinstance(result, LSTMState):
            parts += bits(result.h, result.c)
        elif isinstance(result, (tuple, list)):
            parts += bits(*result)
        else:
            parts.append(host(result).tobytes())
    return parts


def refused(call, words=REFUSED):
    """Return whether a call raises RuntimeError. Its message must contain `words`."""
    try:
        call()
    except RuntimeError as error:
        text = str(error)
    else:
        return False
    assert words in text
    return True


def at(moment):
    """Make a function act at only one of its calls, counted from 0."""

    def decorate(function):
        count = itertools.count()
        return lambda: function() if next(count) == moment else None

    return decorate


def weights(seed=0, **options):
    return LSTMWeights.random(I, N, seed=seed, **options)


# Cells, LSTMs and lstm_pointwise. A call takes a number that selects its arguments. Some of the batches have equal
# sizes and some don't, as scratch is kept by size.

SIZES = (B, B, 2 * B + 1, 1)


def cell_calls(backend, *, out=False, resets=False, batch_invariant=False, **options):
    cell = LSTMCell(weights(**options), backend=backend, batch_invariant=batch_invariant)
    cases = [random_inputs(cell, size, seed) for seed, size in enumerate(SIZES)]
    others = [random_state(cell, size, np.random.default_rng(9 + size)) for size in SIZES]

    def call(number):
        x, state = cases[number]
        more = {}
        if resets:
            more = {"is_first": np.arange(len(x)) % 2 == 0, "reset_to": others[number]}
        if not out:
            return bits(cell(x, state, **more))
        to = cell.zero_state(len(x))
        assert cell(x, state, out=to, **more) is to
        return bits(to)

    return call


def lstm_calls(backend, *, lengths=False, step=False, batch_invariant=False, **options):
    layers = StackedWeights.random(I, N, 2, seed=0, **options)
    lstm = LSTM(layers, backend=backend, batch_invariant=batch_invariant)
    rng = np.random.default_rng(0)
    xs = [lstm.asarray(rng.normal(size=(6, size, I))) for size in SIZES]
    is_first = [rng.random((6, size)) < 0.3 for size in SIZES]
    counts = [rng.integers(0, 7, size) for size in SIZES]
    states = [lstm(each)[1] for each in xs]

    def call(number):
        if step:
            return bits(lstm.step(xs[number][0], states[number]))
        more = {"lengths": counts[number], "is_first": is_first[number]} if lengths else {}
        return bits(lstm(xs[number], states[number], **more))

    return call


def pointwise_calls(backend, **options):
    cell = LSTMCell(weights(), backend=backend)
    rng = np.random.default_rng(0)
    arrays = [(rng.normal(size=(size, 4 * N)), rng.normal(size=(size, N)), rng.normal(size=(3, N))) for size in SIZES]
    arrays = [tuple(map(cell.asarray, each)) for each in arrays]

    def call(number):
        gates, c, peephole = arrays[number]
        return bits(lstm_pointwise(gates, c, peephole=peephole, is_first=np.arange(len(c)) == 0, **options))

    return call


CALLS = {
    "cell": cell_calls,
    "cell, out": lambda backend: cell_calls(backend, out=True),
    "cell, resets": lambda backend: cell_calls(backend, resets=True),
    "cell, batch-invariant": lambda backend: cell_calls(backend, batch_invariant=True),
    "cell, float64": lambda backend: cell_calls(backend, dtype="float64", cell_clip=0.5),
    "cell, float16": lambda backend: cell_calls(backend, dtype="float16"),
    "cell, bfloat16, out": lambda backend: cell_calls(backend, dtype="bfloat16", out=True),
    "cell, projection": lambda backend: cell_calls(backend, proj_size=3, proj_clip=0.1, peephole=True),
    "cell, functions": lambda backend: cell_calls(backend, gate_activation="softsign", coupled_gate="input"),
    "lstm": lstm_calls,
    "lstm, lengths": lambda backend: lstm_calls(backend, lengths=True),
    "lstm, both directions": lambda backend: lstm_calls(backend, bidirectional=True),
    "lstm, batch-invariant": lambda backend: lstm_calls(backend, batch_invariant=True),
    "lstm.step": lambda backend: lstm_calls(backend, step=True),
    "lstm_pointwise": pointwise_calls,
}


class Inner:
    """A call to make in the middle of others. It checks its own results."""

    def __init__(self, call):
        self._call, self._wanted = call, [call(number) for number in range(len(SIZES))]
        self.made, self.wrong = 0, []

    def __call__(self):
        number = 1 + self.made % (len(SIZES) - 1)
        self.made += 1
        if self._call(number) != self._wanted[number]:
            self.wrong.append(number)

    def assert_outer_is_right(self, got):
        assert got == self._wanted[0]
        assert not self.wrong


@pytest.mark.parametrize("name", CALLS)
def test_inner_calls_at_every_line(name, backend):
    """An outer call and inner calls at each of its lines all return the same numbers as alone."""
    call = CALLS[name](backend)
    inner = Inner(call)
    got, lines = moments.lines(lambda: call(0), inner, once=backend != "numpy")
    inner.assert_outer_is_right(got)
    assert inner.made == lines > 20


@pytest.mark.parametrize("name", ["cell", "lstm"])
def test_one_inner_call_at_each_line(name):
    """Make one inner call at a time, as the next one could hide what the last one broke."""
    call = CALLS[name]("numpy")
    inner = Inner(call)
    _, lines = moments.lines(lambda: call(0), lambda: None)
    for moment in range(lines):
        got, _ = moments.lines(lambda: call(0), at(moment)(inner))
        inner.assert_outer_is_right(got)
    assert inner.made > 50


def test_sharing_one_workspace_is_detected(monkeypatch):
    """Plant a fault and find it: one workspace for all calls of a thread."""
    monkeypatch.setattr(scratch.Scratch, "take", lambda self: (self._unused or [scratch.Workspace(self._spec)])[-1])
    keep = scratch.Scratch.give_back
    monkeypatch.setattr(scratch.Scratch, "give_back", lambda self, one: None if self._unused else keep(self, one))
    found = []
    for name, make in CALLS.items():
        call = make("numpy")
        inner = Inner(call)
        got, _ = moments.lines(functools.partial(call, 0), inner)
        if got != inner._wanted[0]:
            found.append(name)
    assert set(found) == CALLS.keys() - {"lstm_pointwise"}, "only lstm_pointwise keeps no scratch"


@pytest.mark.parametrize("depth", [2, 7])
def test_calls_nest_to_any_depth(depth, monkeypatch):
    """Calls may nest to any depth, and only a few workspaces are kept afterwards."""
    cell = LSTMCell(weights(), backend="numpy")
    cases = [random_inputs(cell, B, seed) for seed in range(depth)]
    wanted = [bits(cell(*case)) for case in cases]
    levels, got, step_from_gates = iter(range(1, depth)), {}, numpy_cell.NumpyCell.step_from_gates

    def deeper(*arguments):
        for level in levels:
            got[level] = bits(cell(*cases[level]))
        step_from_gates(*arguments)

    monkeypatch.setattr(numpy_cell.NumpyCell, "step_from_gates", deeper)
    got[0] = bits(cell(*cases[0]))
    assert [got[level] for level in range(depth)] == wanted
    assert len(cell._engine.scratch._unused) == min(depth, scratch.Scratch.MOST_KEPT)


def test_two_cells_nest_in_each_other(backend):
    """Call each of two cells in the middle of the other."""
    one, other = cell_calls(backend), cell_calls(backend, seed=1)
    for outer, within in ((one, other), (other, one)):
        inner = Inner(within)
        wanted = outer(0)
        got, _ = moments.lines(lambda outer=outer: outer(0), inner, once=True)
        assert got == wanted
        assert not inner.wrong


def test_rows_shared_out_among_threads(monkeypatch):
    """The outer call, or both calls, share rows out among threads."""
    monkeypatch.setattr(products, "has_small_kernels", lambda: True)
    monkeypatch.setattr(threads, "_LEAST_WORK", 0)
    monkeypatch.setattr(threads, "_LEAST_STEP", 0)
    monkeypatch.setattr(blas, "threads", lambda: 3)
    cell = LSTMCell(weights(dtype="float64"), backend="numpy", batch_invariant=True)
    cases = [random_inputs(cell, size) for size in (40, 40, 7, 60)]

    def call(number):
        return bits(cell(*cases[number]))

    inner = Inner(call)
    got, lines = moments.lines(lambda: call(0), inner)
    inner.assert_outer_is_right(got)
    assert lines > 50


# What makes the inner call: a signal, the garbage collector, an argument.


@pytest.mark.parametrize("name", ["cell", "cell, out", "cell, batch-invariant", "lstm", "lstm.step"])
def test_calls_in_signal_handlers(name, backend):
    call = CALLS[name](backend)
    inner = Inner(call)
    most = 300 if backend == "numpy" else 10
    with moments.alarms(unless_capturing(inner, backend), 1e-3):
        while inner.made < most:
            inner.assert_outer_is_right(call(0))


def unless_capturing(call, backend):
    """Return a function that makes the call. On a GPU, it is refused while the call that it interrupts captures."""
    return call if backend == "numpy" else lambda: refused(call, CAPTURES)


class Cycle:
    """A reference cycle that makes a call when it is collected, and then creates another cycle."""

    def __init__(self, act, left):
        self.me, self.act, self.left = self, act, left

    def __del__(self):
        if self.left:
            self.act()
            Cycle(self.act, self.left - 1)


def collecting(call, act, times):
    """Run `call` while the garbage collector calls `act` up to `times` times."""
    before = gc.get_threshold()
    gc.collect()
    Cycle(act, times)
    gc.set_threshold(1)
    try:
        return call()
    finally:
        gc.set_threshold(*before)
        gc.collect()


@pytest.mark.parametrize("name", ["cell", "cell, out", "cell, batch-invariant", "lstm", "lstm.step", "lstm_pointwise"])
def test_calls_in_finalizers(name, backend):
    call = CALLS[name](backend)
    inner = Inner(call)
    inner.assert_outer_is_right(collecting(lambda: call(0), unless_capturing(inner, backend), 20))
    assert inner.made


class Flags:
    """An is_first that makes a call when it is read."""

    def __init__(self, flags, act):
        self._flags, self._act = flags, act

    def __array__(self, dtype=None, copy=None):
        self._act()
        return self._flags


class Shared:
    """An x of another library that makes a call when it is asked for its memory or device."""

    def __init__(self, array, act):
        self._array, self._act = array, act

    def __dlpack__(self, **options):
        self._act()
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        self._act()
        return self._array.__dlpack_device__()


def test_calls_in_callbacks_of_arguments(backend):
    call = cell_calls(backend)
    inner = Inner(call)
    cell = LSTMCell(weights(seed=3), backend=backend)
    x, state = random_inputs(cell, B, 0)
    first = np.arange(B) % 2 == 0
    wanted = bits(cell(x, state, is_first=first))
    got = cell(Shared(x, inner), state, is_first=Flags(first, inner))
    assert bits(got) == wanted
    assert inner.made >= 3
    assert not inner.wrong


# set_weights in the middle of a call, and calls in the middle of set_weights.


def owners(backend):
    """Return a maker, two sets of weights and a call that uses all weights, for a cell and an LSTM."""
    cells = [weights(seed=seed, proj_size=4, peephole=True) for seed in (0, 1)]
    layers = [StackedWeights.random(I, N, 2, seed=seed) for seed in (0, 1)]
    return {
        "cell": (lambda: LSTMCell(cells[0], backend=backend), cells, cell_of_weights),
        "lstm": (lambda: LSTM(layers[0], backend=backend), layers, lstm_of_weights),
    }


def cell_of_weights(cell):
    return bits(cell(*random_inputs(cell, B, 0)))


def lstm_of_weights(lstm):
    return bits(lstm(lstm.asarray(np.random.default_rng(0).normal(size=(3, B, I)))))


@pytest.mark.parametrize("kind", ["cell", "lstm"])
def test_weights_set_within_a_call(kind, backend):
    """The outer call uses all old or all new weights. On a GPU, set_weights is refused meanwhile."""
    make, variants, call = owners(backend)[kind]
    owner = make()
    wanted = [call(owner)]
    owner.set_weights(variants[1])
    wanted.append(call(owner))
    assert wanted[0] != wanted[1]
    _, lines = moments.lines(lambda: call(owner), lambda: None, once=True)
    refusals = []
    for moment in range(0, lines, 1 if backend == "numpy" else 7):
        owner = make()

        @at(moment)
        def act(owner=owner):
            refusals.append(refused(lambda: owner.set_weights(variants[1])))

        got, _ = moments.lines(lambda owner=owner: call(owner), act, once=True)
        assert got in wanted
        assert call(owner) == wanted[variants.index(owner.weights)]
    assert any(refusals) == (backend != "numpy")


@pytest.mark.parametrize("kind", ["cell", "lstm"])
def test_calls_while_weights_are_set(kind, backend):
    """Calls use all old or all new weights. While a GPU's weights are overwritten, calls raise."""
    make, variants, call = owners(backend)[kind]
    owner = make()
    old = call(owner)
    owner.set_weights(variants[1])
    wanted = {"old": old, "new": call(owner)}
    owner.set_weights(variants[0])
    got, refusals = [], []

    def act():
        refusals.append(refused(lambda: got.append(call(owner)), "the weights are being set"))

    moments.lines(lambda: owner.set_weights(variants[1]), act, once=True)
    assert all(each in wanted.values() for each in got)
    assert any(refusals) == (backend != "numpy")
    assert call(owner) == wanted["new"]


@pytest.mark.parametrize("kind", ["cell", "lstm"])
def test_interrupted_set_weights_is_atomic(kind, backend):
    """After an interrupt, all weights are the old ones or the new ones, as `weights` says."""
    make, variants, call = owners(backend)[kind]
    owner = make()
    wanted = [call(owner)]
    owner.set_weights(variants[1])
    wanted.append(call(owner))
    found = set()
    for moment in itertools.count(1, 1 if backend == "numpy" else 3):
        owner.set_weights(variants[0])
        if moments.interrupted(lambda: owner.set_weights(variants[1]), moment) is None:
            break
        which = variants.index(owner.weights)
        assert call(owner) == wanted[which], moment
        found.add(which)
    assert found == {0, 1}


# Interrupts.


@pytest.mark.parametrize("name", ["cell", "cell, out", "cell, batch-invariant", "lstm", "lstm, lengths", "lstm.step"])
def test_interrupted_at_every_moment(name):
    """After an interrupt, the next call returns the right numbers, and NumPy warns as before."""
    call = CALLS[name]("numpy")
    wanted, errors = call(0), np.geterr()
    for moment in itertools.count(1):
        if moments.interrupted(lambda: call(0), moment) is None:
            break
        assert call(0) == wanted
    assert moment > 20
    assert np.geterr() == errors


def test_scratch_after_interrupts():
    cell = LSTMCell(weights(), backend="numpy")
    x, state = random_inputs(cell, B)
    most = 0
    for moment in itertools.count(1):
        cell(x, state)  # so that each call has the same length
        if moments.interrupted(lambda: cell(x, state), moment) is None:
            break
        most = max(most, len(cell._engine.scratch._unused))
    assert most == 1


def test_thousands_of_interrupts():
    """A timer interrupts a cell's calls at random moments. Every later call returns the right numbers."""
    call = cell_calls("numpy")
    wanted, interrupts, calls = call(0), 0, 0

    def interrupt():
        if inside:
            raise moments.Interrupted

    inside = False
    with moments.alarms(interrupt, 2e-4):
        while interrupts < 1500:
            try:
                inside = True
                got = call(0)
                inside = False
                assert got == wanted
            except moments.Interrupted:
                inside = False
                interrupts += 1
            calls += 1
    assert call(0) == wanted


# Pools and Steppers.


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Each backend, and on a GPU both ways of stepping."""
    return backend_in_a_way(request, monkeypatch)


CAPACITY = 12


class PoolUser:
    """A pool and calls of its methods with fixed arguments."""

    def __init__(self, backend, path):
        self.cell = LSTMCell(weights(), backend=backend)
        self.x = random_inputs(self.cell, 3)[0]
        self.state = random_state(self.cell, 2, np.random.default_rng(2))
        self.filling = random_state(self.cell, 8, np.random.default_rng(3))
        self.path = path
        self.pool = self.fresh()
        self.pool.save(path)
        self.calls = {
            "step": lambda pool: pool.step(self.x, [5, -1, 2]),
            "read": lambda pool: pool.read([1, 2]),
            "write": lambda pool: pool.write([2, 0], self.state),
            "reset": lambda pool: pool.reset([2, 3]),
            "allocate": lambda pool: pool.allocate(2),
            "fork": lambda pool: pool.fork([5, 5]),
            "resize": lambda pool: pool.resize(CAPACITY + 4),
            "release": lambda pool: pool.release([7, 6]),
            "prepare": lambda pool: pool.prepare(20),
            "check": lambda pool: pool.check(),
            "save": lambda pool: pool.save(path),
            "load": lambda pool: pool.load(path),
        }

    def fresh(self):
        pool = StatePool(self.cell, CAPACITY)
        pool.write(pool.allocate(8), self.filling)
        return pool

    def contents(self, pool):
        slots = pool.slots
        return pool.capacity, slots.tolist(), bits(layers_of(self.cell, pool.read(slots)))

    def after(self, *names):
        """Return what a fresh pool holds after calls one after the other."""
        pool = self.fresh()
        for name in names:
            self.calls[name](pool)
        return self.contents(pool)


def within(user, outer, inner, *, every=1):
    """Make the inner call at every `every`-th line of the outer one, each time on a fresh pool.

    Yields the pool and whether the inner call was refused.
    """
    _, lines = moments.lines(functools.partial(user.calls[outer], user.fresh()), lambda: None, once=True)
    for moment in range(0, lines, every):
        pool, outcome = user.fresh(), []

        @at(moment)
        def act(pool=pool, outcome=outcome):
            outcome.append(refused(lambda: user.calls[inner](pool)))

        moments.lines(lambda pool=pool: user.calls[outer](pool), act, once=True)
        if outcome:  # a later call may have fewer lines than the first
            yield pool, outcome == [True]


OPERATIONS = ["step", "read", "write", "reset", "allocate", "release", "prepare", "check", "save", "load"]
OPERATIONS += ["fork", "resize"]


@pytest.mark.parametrize("outer", OPERATIONS)
def test_a_pools_call_within_another(outer, tmp_path):
    """The inner call is refused, or takes effect before or after the outer one. The pool stays usable."""
    user = PoolUser("numpy", tmp_path / "pool")
    alone = user.after(outer)
    for inner in OPERATIONS:
        if outer == inner == "release":  # releasing a slot twice is an error
            continue
        refusals = []
        orders = [user.after(outer, inner), user.after(inner, outer)]
        for pool, is_refused in within(user, outer, inner, every=1 if "step" in (outer, inner) else 3):
            refusals.append(is_refused)
            now = user.contents(pool)
            assert now == alone if is_refused else now in orders, inner
            pool.step(user.x, [0, 1, 2])
        assert any(refusals) == (inner != "release"), inner


@needs_cuda
@pytest.mark.parametrize("outer", ["step", "write", "allocate", "release", "load", "fork", "resize"])
def test_a_pools_call_within_another_on_a_gpu(outer, way, tmp_path):
    if way == "numpy":
        pytest.skip("every line is tried on NumPy")
    user = PoolUser(way, tmp_path / "pool")
    alone = user.after(outer)
    for inner in ("step", "release") if outer != "release" else ("step",):
        orders = [user.after(outer, inner), user.after(inner, outer)]
        for pool, is_refused in within(user, outer, inner, every=23):
            now = user.contents(pool)
            assert now == alone if is_refused else now in orders, inner


def test_cells_step_within_a_pools_step(way, tmp_path):
    """A cell may step inside a pool's step, except while a GPU captures a graph."""
    user = PoolUser(way, tmp_path / "pool")
    call = Inner(cell_calls(way, seed=0))
    wanted, refusals = user.after("step"), []
    case = random_inputs(user.cell, 3, 5)
    of_case = bits(user.cell(*case))

    def both():
        assert bits(user.cell(*case)) == of_case
        call()

    def act():
        refusals.append(refused(both, CAPTURES))

    pool = user.fresh()
    moments.lines(lambda: user.calls["step"](pool), act, once=True)
    assert user.contents(pool) == wanted
    assert not call.wrong
    assert call.made > 20
    assert not any(refusals) or way != "numpy"


def test_cells_step_while_a_stepper_is_made(way):
    """On a GPU, a cell's step is refused during a capture, as the graph would include it."""
    cell = LSTMCell(weights(), backend=way)
    x, state = random_inputs(cell, B)
    wanted, refusals = bits(cell(x, state)), []

    def call():
        assert bits(cell(x, state)) == wanted

    def act():
        refusals.append(refused(call, CAPTURES))

    stepper, _ = moments.lines(lambda: cell.stepper(B), act, once=True)
    assert any(refusals) == (way != "numpy")
    assert not all(refusals)
    other = cell.stepper(B)
    for each in (stepper, other):
        each.write(state)
    for _ in range(3):
        assert bits(stepper.step(x)) == bits(other.step(x))
    assert bits(stepper.read()) == bits(other.read())


@needs_cuda
def test_locks_are_reentrant():
    """Locks are reentrant, so that a call inside another doesn't wait for itself."""
    from fusedlstm.backends.cuda.runtime import cublaslt, kernel

    packed = LSTMCell(weights(), backend="cuda")._engine.weights
    for lock in (kernel._LOCK, cublaslt._LOCK, packed._lock):
        with lock:
            assert lock.acquire(blocking=False)
            lock.release()


@needs_cuda
def test_interleaved_weights_are_made_once(monkeypatch):
    """If an inner call makes them while the outer call does, both return the same object."""
    from fusedlstm.backends.cuda.device_weights import Interleaved

    packed = LSTMCell(weights(), backend="cuda")._engine.weights
    fill, inner = Interleaved.fill, []

    def fill_and_make(self, of):
        if not inner:
            inner.append(None)
            inner[0] = packed.interleaved(False)
        fill(self, of)

    monkeypatch.setattr(Interleaved, "fill", fill_and_make)
    assert packed.interleaved(False) is inner[0] is packed.interleaved(False)


KINDS = {
    "stepper": (lambda lstm: lstm.stepper(B), lambda stepper, x: stepper.step(x)),
    "sequencer": (lambda lstm: lstm.sequencer(1, B), lambda sequencer, x: sequencer.run(x[None])),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inner", ["step", "read", "write", "reset"])
def test_an_in_place_call_within_another(inner, kind, way):
    cell, lstm, (make, step) = LSTMCell(weights(), backend=way), LSTM(weights(), backend=way), KINDS[kind]
    x, *state = random_inputs(cell, B)
    other = [random_state(cell, B, np.random.default_rng(1))]
    calls = {
        "step": lambda stepper: step(stepper, x),
        "read": lambda stepper: stepper.read(),
        "write": lambda stepper: stepper.write(other),
        "reset": lambda stepper: stepper.reset(),
    }

    def after(*names):
        stepper = make(lstm)
        stepper.write(state)
        for name in names:
            calls[name](stepper)
        return bits(stepper.read())

    stepper = make(lstm)
    for name, outer in calls.items():
        alone, orders, refusals = after(name), [after(name, inner), after(inner, name)], []
        stepper.write(state)
        _, lines = moments.lines(functools.partial(outer, stepper), lambda: None, once=True)
        for moment in range(0, lines, 1 if way == "numpy" else 5):
            stepper.write(state)
            outcome = []

            @at(moment)
            def act(outcome=outcome):
                outcome.append(refused(lambda: calls[inner](stepper)))

            moments.lines(functools.partial(outer, stepper), act, once=True)
            now = bits(stepper.read())
            # A later call may have fewer lines than the first, and then the inner call isn't made.
            assert now in orders if outcome == [False] else now == alone, name
            refusals += outcome
        assert any(refusals), name


@pytest.mark.parametrize("where", ["signal", "finalizer", "callback"])
def test_pools_and_steppers_refuse_inner_calls(where, way, tmp_path):
    """Inner calls raise a clear error and never deadlock. The outer calls succeed."""
    user = PoolUser(way, tmp_path / "pool")
    stepper, said, pool = user.cell.stepper(3), [], user.fresh()
    x, first = user.x, np.zeros(3, bool)

    def act():
        for call in (lambda: pool.step(user.x, [0, 1, 2]), lambda: stepper.step(user.x)):
            try:
                call()
                said.append("done")
            except RuntimeError as error:
                said.append(str(error))

    def outer():
        inner = act if where == "callback" else None
        given = (Shared(x, inner), Flags(first, inner)) if inner else (x, first)
        pool.step(given[0], [5, -1, 2], is_first=given[1])
        stepper.step(*given)

    if where == "callback":
        outer()
        assert sum(REFUSED in text for text in said) >= 4
    elif where == "finalizer":
        collecting(outer, act, 20)
    else:
        wanted = 20 if way == "numpy" else 3
        with moments.alarms(act, 1e-3):
            while sum(REFUSED in text for text in said) < wanted:
                outer()
    assert said
    # On a GPU, the first steps of a size capture graphs.
    assert all(text == "done" or REFUSED in text or (way != "numpy" and CAPTURES in text) for text in said)
    pool.step(x, [0, 1, 2])
    stepper.step(x)


def test_a_finalizer_releases_its_slot(way):
    """A slot released by a finalizer in the middle of a call is free after that call."""
    pool = StatePool(LSTMCell(weights(), backend=way), CAPACITY)
    x = random_inputs(pool._cell, 2)[0]
    kept = pool.allocate(2)

    class Session:
        def __init__(self):
            (self.slot,) = pool.allocate()
            self.me = self

        def __del__(self):
            pool.release(self.slot)

    before = gc.get_threshold()
    for _ in range(30 if way == "numpy" else 5):
        Session()
        gc.set_threshold(1)
        pool.step(x, kept)
        gc.set_threshold(*before)
        gc.collect()
        assert pool.slots.tolist() == kept.tolist()


def test_releases_within_a_call_are_checked(monkeypatch):
    pool = StatePool(LSTMCell(weights(), backend="numpy"), 5)
    pool.allocate(3)
    x, step, said = random_inputs(pool._cell, 1)[0], pool._engine.step, []

    def release_and_step(*arguments):
        for slots in ([2], [2], [4], [9], [1, 1], "a", [0.5]):
            try:
                pool.release(slots)
            except (TypeError, ValueError) as error:
                said.append(str(error))
        assert pool.slots.tolist() == [0, 1]
        assert pool.live == 2
        step(*arguments)

    monkeypatch.setattr(pool._engine, "step", release_and_step)
    pool.step(x, [1])
    assert len(said) == 6
    assert pool.slots.tolist() == [0, 1]
    assert pool.allocate(3).tolist() == [2, 3, 4]


def test_a_slot_released_twice_within_its_release(monkeypatch):
    """The outer release raises, and the pool stays usable."""
    pool = StatePool(LSTMCell(weights(), backend="numpy"), 5)
    pool.allocate(3)
    mark, left = pool._engine.mark, [1]

    def release_again(slots, *, live):
        while left:
            left.pop()
            pool.release([2])
        mark(slots, live=live)

    monkeypatch.setattr(pool._engine, "mark", release_again)
    with pytest.raises(ValueError, match="2 .row 0., which is not live"):
        pool.release([2])
    assert pool.slots.tolist() == [0, 1]
    assert pool.allocate(3).tolist() == [2, 3, 4]


def test_an_interrupt_keeps_a_finalizers_release(monkeypatch):
    """Whenever the call is interrupted, the slot is freed in the end, and only once."""
    cell = LSTMCell(weights(), backend="numpy")
    x = random_inputs(cell, 1)[0]
    for moment in itertools.count(1, 3):
        pool = StatePool(cell, 5)
        kept, other = pool.allocate(2).tolist()
        clear, left, released = pool._engine.clear, [other], []

        def release_and_clear(slots, clear=clear, left=left, released=released, pool=pool):
            while left:
                pool.release(left[0])
                released.append(left.pop())
            clear(slots)

        monkeypatch.setattr(pool._engine, "clear", release_and_clear)
        ended = moments.interrupted(lambda pool=pool, kept=kept: pool.reset(kept), moment) is None
        if released:
            pool.step(x, kept)  # the next call frees it, and takes no other
            assert pool.slots.tolist() == [kept], moment
            assert pool.allocate(4).tolist() == [other, 2, 3, 4], moment
        if ended:
            break
    assert moment > 30


def test_properties_can_be_read_within_a_call(way, tmp_path):
    """A logger or a debugger may read sizes, memory, kernels and repr at any time."""
    user = PoolUser(way, tmp_path / "pool")
    pool = user.fresh()

    def act():
        assert pool.live == len(pool.slots) == 8
        assert pool.memory.states > 0
        assert pool.kernels(3)
        assert "live=8" in repr(pool)

    moments.lines(lambda: user.calls["step"](pool), act, once=way != "numpy")
    assert user.contents(pool) == user.after("step")


# Steppers and Sequencers that are interrupted.

TORN = "was interrupted or failed while it changed the state, which may be neither the old nor the new one"


@pytest.mark.parametrize("kind", KINDS)
def test_an_in_place_call_is_interrupted(kind, way):
    """The state is intact, or other calls raise until it is written or reset."""
    lstm = LSTM(StackedWeights.random(I, N, 2, seed=0), backend=way)
    rng, (make, step) = np.random.default_rng(0), KINDS[kind]
    x = lstm.asarray(rng.normal(size=(B, I)))
    stepper = make(lstm)
    step(stepper, x)
    state = stepper.read()
    before = bits(state)
    step(stepper, x)
    after = bits(stepper.read())
    outcomes, turn = set(), itertools.cycle([stepper.reset, lambda: stepper.write(state)])
    for moment in itertools.count(1):
        stepper.write(state)
        if moments.interrupted(lambda: step(stepper, x), moment) is None:
            break
        if refused(stepper.read, TORN):
            assert refused(lambda: step(stepper, x), TORN)
            next(turn)()
            outcomes.add("torn")
        else:
            now = bits(stepper.read())
            assert now in (before, after), moment
            outcomes.add(now == after)
        step(stepper, x)
        stepper.write(state)
        step(stepper, x)
        assert bits(stepper.read()) == after
    assert outcomes >= {False, "torn"}


@pytest.mark.parametrize("in_host", [False, True])
def test_flags_of_an_interrupted_step(in_host, way):
    """The flags of an interrupted step don't reset anything later."""
    cell = LSTMCell(weights(), backend=way)
    x, state = random_inputs(cell, B)
    stepper = cell.stepper(B, host=in_host)
    x, state = (host(x), state.to_numpy()) if in_host else (x, state)
    stepper.write(state)
    wanted, torn = bits(stepper.step(x)), 0
    for moment in itertools.count(1):
        stepper.write(state)
        if moments.interrupted(lambda: stepper.step(x, is_first=[True] * B), moment) is None:
            break
        torn += refused(stepper.read, TORN)
        stepper.write(state)
        assert bits(stepper.step(x)) == wanted, moment
    assert torn


@pytest.mark.parametrize("name", ["write", "reset"])
def test_a_steppers_other_calls_are_interrupted(name, way):
    cell = LSTMCell(weights(), backend=way)
    old, new = (random_state(cell, B, np.random.default_rng(seed)) for seed in (0, 1))
    stepper = cell.stepper(B)
    calls = {"write": lambda: stepper.write(new), "reset": stepper.reset}
    calls[name]()
    wanted = bits(old), bits(stepper.read())
    outcomes = set()
    for moment in itertools.count(1):
        stepper.write(old)
        if moments.interrupted(calls[name], moment) is None:
            break
        outcomes.add(refused(stepper.read, TORN))
        if False in outcomes and not refused(stepper.read, TORN):
            assert bits(stepper.read()) in wanted
    assert False in outcomes


@needs_cuda
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Python closes the file if `open` is interrupted
@pytest.mark.parametrize("name", ["step", "write", "allocate", "release", "reset", "load", "fork", "resize"])
def test_a_gpus_pool_is_interrupted(name, way, tmp_path):
    """A call does all its work or none, as no Python runs between the launches of a step."""
    if way == "numpy":
        pytest.skip("every moment is tried in test_pool.py")
    user = PoolUser(way, tmp_path / "pool")
    wanted = user.after(), user.after(name)
    for moment in itertools.count(1, 5):
        pool = user.fresh()
        user.after(name)  # so that each call has the same length
        if moments.interrupted(lambda pool=pool: user.calls[name](pool), moment) is None:
            break
        assert user.contents(pool) in wanted, moment
        free = pool.allocate(pool.capacity - pool.live)
        assert len(set(free.tolist()) | set(pool.slots.tolist())) == pool.capacity
        pool.step(user.x, [0, 1, 2])


def test_another_threads_call_is_waited_for():
    """A call waits for another thread's call. Only an inner call of the same thread raises."""
    pool = StatePool(LSTMCell(weights(), backend="numpy"), 4)
    pool.allocate(4)
    x = random_inputs(pool._cell, 2)[0]
    inside, go_on, done = threading.Event(), threading.Event(), []
    run = pool._engine.step

    def slow(*arguments):
        inside.set()
        assert go_on.wait(20)
        run(*arguments)

    pool._engine.step = slow
    thread = threading.Thread(target=lambda: (pool.step(x, [0, 1]), done.append("first")))
    thread.start()
    assert inside.wait(20)
    pool._engine.step = run
    threading.Timer(0.1, go_on.set).start()
    pool.step(x, [2, 3])
    done.append("second")
    thread.join()
    assert sorted(done) == ["first", "second"]
