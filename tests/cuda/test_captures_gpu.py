"""Captures on the emulated GPU: garbage that is collected meanwhile destroys no graph and no stream."""

import contextlib
import gc
import os
import threading

import pytest

from fusedlstm import LSTMCell, LSTMWeights
from fusedlstm.backends.cuda.runtime import graphs, streams

from driver import observe
from support import moments
from support.backends import BACKENDS
from support.on_emulated_gpu import bits_of, settle

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
collector = pytest.importorskip("fusedlstm.backends.cuda.runtime.collector")
pytestmark = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the fake driver")


@contextlib.contextmanager
def collecting_soon():
    """Collect garbage at nearly each allocation of a container."""
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(5, 1, 1)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def in_a_cycle(*held):
    """Make garbage that only a collection frees."""
    cycle = list(held)
    cycle.append(cycle)


def stepped_on_its_own_stream(cell):
    """Return a Stepper that holds the last reference to the stream of its last step."""
    stepper = cell.stepper(2)
    with cupy.cuda.Stream(non_blocking=True):
        stepper.step()
    return stepper


@pytest.mark.parametrize("kernel", ["matmul", "simt"])
def test_dead_steppers_outlive_captures(kernel):
    """While a Stepper is being made, a dead one and its cell are collected before each line."""
    weights = LSTMWeights.random(8, 8, seed=0)

    def cell():
        return LSTMCell(weights, backend="cuda", kernel=kernel)

    owner = cell()
    lines = moments.lines(lambda: owner.stepper(2), lambda: None, once=True)[1]
    dead = [stepped_on_its_own_stream(cell()) for _ in range(lines + 20)]  # `keep_deferred` will run more
    deferred = []

    def act():
        in_a_cycle(*dead[-1:])
        del dead[-1:]
        gc.collect()
        deferred.append(len(streams._deferred))

    stepper, _ = moments.lines(lambda: owner.stepper(2), act, once=True)
    assert max(deferred) > 10
    assert not streams._deferred
    other = owner.stepper(2)
    for each in (stepper, other):
        each.step(owner.asarray([[1.0] * 8] * 2))
    assert bits_of(stepper.read()) == bits_of(other.read())
    settle()


def test_deferred_graphs_are_freed_afterwards():
    cell = LSTMCell(LSTMWeights.random(8, 8, seed=0), backend="cuda")
    settle()
    graph = [stepped_on_its_own_stream(cell)]
    gone = []

    def queue():
        if graph:
            held = graph.pop()
            gone.append(held._engine._graph.graphExec)
            del held

    observe.clear()
    graphs.captured(queue)
    assert gone
    assert not streams._deferred
    settle()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="InvalidValue"):
        cupy.cuda.runtime.graphLaunch(gone[0], 0)


def test_anyones_garbage_outlives_a_capture():
    """Streams in a user's cycles are not destroyed in a capture, as no collection begins there."""
    ours, collected = [cupy.cuda.Stream(non_blocking=True) for _ in range(20)], []

    def queue():
        if cupy.cuda.get_current_stream().is_capturing():
            for _ in range(20):
                in_a_cycle(ours.pop())

    def note(phase, _):
        collected.append((phase, cupy.cuda.get_current_stream().is_capturing()))

    gc.callbacks.append(note)
    try:
        with collecting_soon():
            graphs.captured(queue)
            assert gc.isenabled()
            kept = [[] for _ in range(100)]
    finally:
        gc.callbacks.remove(note)
    del kept
    assert collected
    assert not any(captures for _, captures in collected)


def test_the_collector_waits_for_the_last_capture():
    """Pauses of two threads overlap. The first to begin is the first to end."""
    inside, leave = threading.Event(), threading.Event()

    def pause():
        with collector.paused():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=pause)
    thread.start()
    inside.wait(60)
    with collector.paused():
        leave.set()
        thread.join()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_disabled_collector_stays_disabled():
    gc.disable()
    try:
        for _ in range(2):
            with collector.paused():
                assert not gc.isenabled()
            assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_interrupted_pause_ends():
    after = []

    def call():
        gc.enable()
        try:
            with collector.paused():
                pass
        finally:
            after.append(gc.isenabled())

    moment = 0
    while moments.interrupted(call, moment := moment + 1) is not None:
        assert not collector._paused_by
    assert len(after) > 5
    assert all(after)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:os.fork:RuntimeWarning")  # JAX has threads
def test_a_child_collects_garbage():
    """A thread may fork while another captures."""
    with collector.paused():
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert not gc.isenabled()
