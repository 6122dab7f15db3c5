"""Run threads, signals, interrupts, finalizers, saves and loads together, and compare every result bit for bit.

    python tests/soak.py --seconds 600 [--seed S]
    python tests/soak.py --operations 200          for each thread, instead of a time

Eight threads call cells, LSTMs, lstm_pointwise, Steppers, Sequencers and pools. In the main thread, a timer's signal
handler makes calls in the middle of other calls, or raises KeyboardInterrupt. All expected states are computed
beforehand, without interruptions. Each thread records how far along its sequence each slot and row is. Prints what was
done, and exits with 1 if any bit was wrong.
"""

import argparse
import collections
import gc
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import numpy as np

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, StatePool, lstm_pointwise
from fusedlstm.backends.numpy import threads as rows

I, N, P = 6, 16, 5
TRACKS, STEPS, SEQUENCE = 24, 40, 5
CAPACITY, OF_A_THREAD = 600, 12
THREADS = 8
REFUSED = "is in the middle of a call in this thread"
TORN = "was interrupted or failed while it changed the state"


class Wrong(Exception):  # noqa: N818
    """A result that differs from the expected one."""


def check(got, wanted, what):
    """Raise Wrong unless two arrays have the same bits."""
    if got.shape != wanted.shape or got.tobytes() != wanted.tobytes():
        raise Wrong(f"{what}: {np.count_nonzero(got != wanted)} of {got.size} numbers differ")


class Tracks:
    """Sequences of inputs, and an owner's states after each step, from zeros, computed once.

    A place is a pair of a track and its number of steps.
    """

    def __init__(self, owner, seed):
        self.owner, self.is_cell = owner, isinstance(owner, LSTMCell)
        xs = np.random.default_rng(seed).normal(size=(STEPS, TRACKS, owner.weights.input_size))
        self.xs = xs.astype(owner.dtype)
        zeros = state = owner.zero_state(TRACKS)
        self.states, self.firsts = [self.layers(state)], []
        for x in self.xs:
            self.firsts.append(self.layers(self.after(x, zeros)))
            state = self.after(x, state)
            self.states.append(self.layers(state))
        self.known = {
            self.row_bits(layers, track) for layers in (*self.states, *self.firsts) for track in range(TRACKS)
        }

    def after(self, x, state):
        return self.owner(x, state) if self.is_cell else self.owner.step(x, state)[1]

    def layers(self, state):
        return (state,) if self.is_cell else tuple(state)

    @staticmethod
    def row_bits(layers, row):
        return b"".join(array[row].tobytes() for layer in layers for array in (layer.h, layer.c))

    def x_at(self, places):
        return np.stack([self.xs[t, track] for track, t in places])

    def at(self, places, table=None):
        """Return the states at places. In the table `firsts`, they are those after one step from zeros."""
        table = self.states if table is None else table
        layers = tuple(
            LSTMState(
                h=np.stack([table[t][k].h[track] for track, t in places]),
                c=np.stack([table[t][k].c[track] for track, t in places]),
            )
            for k in range(len(self.states[0]))
        )
        return layers[0] if self.is_cell else layers

    def check(self, state, places, what, table=None):
        for got, wanted in zip(self.layers(state), self.layers(self.at(places, table)), strict=True):
            check(got.h, wanted.h, f"{what}, h")
            check(got.c, wanted.c, f"{what}, c")


def on(places, steps=1):
    """Return the places some steps later."""
    return [(track, t + steps) for track, t in places]


class World:
    """Everything that threads share."""

    def __init__(self, folder, seed):
        self.folder, self.seed = folder, seed
        weights = LSTMWeights.random(I, N, seed=seed, peephole=True)
        layers = [
            LSTMWeights.random(I, N, proj_size=P, seed=seed),
            LSTMWeights.random(P, N, proj_size=P, seed=seed + 1),
        ]
        lstm = LSTM(StackedWeights(layers, residual=[False, True]), backend="numpy", batch_invariant=True)
        half = LSTMCell(LSTMWeights.random(I, N, seed=seed, dtype="float16"), backend="numpy", batch_invariant=True)
        self.cell = Tracks(LSTMCell(weights, backend="numpy", batch_invariant=True), seed)
        self.half, self.lstm = Tracks(half, seed), Tracks(lstm, seed)
        self.outputs = [
            lstm.step(x, self.lstm.at([(k, t) for k in range(TRACKS)]))[0] for t, x in enumerate(self.lstm.xs)
        ]
        self.pool = StatePool(lstm, CAPACITY)
        # While this cell's weights change, a result must come from one or the other.
        self.variants = [LSTMWeights.random(I, N, seed=number) for number in (7, 8)]
        self.changing = LSTMCell(self.variants[0], backend="numpy", batch_invariant=True)
        self.of_variants = []
        for variant in self.variants[::-1]:
            self.changing.set_weights(variant)
            self.of_variants.append(self.of_changing())
        rng = np.random.default_rng(seed)
        self.gates, self.c = rng.normal(size=(9, 4 * N)).astype("f4"), rng.normal(size=(9, N)).astype("f4")
        self.of_gates = lstm_pointwise(self.gates, self.c)
        self.counts, self.failures, self.stop = collections.Counter(), [], threading.Event()

    def of_changing(self):
        state = self.changing(self.cell.xs[0], self.changing.zero_state(TRACKS))
        return state.h.tobytes() + state.c.tobytes()


class Session:
    """A sequence whose finalizer releases its slot, in the middle of any call."""

    def __init__(self, user):
        (slot,) = user.world.pool.allocate()
        self.slot, self.user, self.me = int(slot), user, self

    def __del__(self):
        try:
            self.user.world.pool.release(self.slot)
            self.user.call_cell()
            self.user.counts["finalizers"] += 1
        except BaseException:
            self.user.fail()


class User:
    """One thread: its slots, Stepper and pool, and their places."""

    def __init__(self, world, number):
        self.world, self.number = world, number
        self.chance = random.Random(f"{world.seed} {number}")
        self.counts = collections.Counter()
        self.places = {}  # places of its slots in the shared pool
        self.own_pool, self.own_places = StatePool(world.lstm.owner, 40), {}
        self.path = world.folder / str(number)
        self.saved = None
        self.stepper = world.lstm.owner.stepper(3)
        self.at_stepper = self.beginnings(3)
        self.sequencer = world.lstm.owner.sequencer(SEQUENCE, 3)
        self.at_sequencer = self.beginnings(3)
        self.about = {}  # slots that a call is about to change, with their new places

    operations = (
        *["call_cell", "call_half", "call_lstm", "step_lstm", "call_pointwise", "call_changing", "set_weights"],
        *[
            "step_stepper",
            "step_stepper",
            "run_sequencer",
            "step_pool",
            "step_pool",
            "step_pool",
            "read_pool",
            "reset_pool",
            "write_pool",
        ],
        *["allocate", "release", "end_session", "save_all", "own_step", "own_allocate", "own_release", "save", "load"],
    )

    def play(self):
        name = self.chance.choice(self.operations)
        getattr(self, name)()
        self.counts[name] += 1

    def play_within(self):
        """Make one call in the middle of another call of this thread. The pool may refuse it."""
        name = self.chance.choice([name for name in self.operations if name != "end_session"])
        try:
            getattr(self, name)()
            self.counts[f"within a call: {name}"] += 1
        except RuntimeError as error:
            if REFUSED not in str(error):
                raise
            self.counts["pool: refused within a call"] += 1

    def fail(self):
        self.world.failures.append(f"thread {self.number}: {traceback.format_exc()}")
        self.world.stop.set()

    def tracks(self, n):
        return [self.chance.randrange(TRACKS) for _ in range(n)]

    def beginnings(self, n):
        return [(track, 0) for track in self.tracks(n)]

    def random_places(self, steps=1):
        n = self.chance.choice([1, 2, 7, 8, 9, 33])
        return [(track, self.chance.randrange(STEPS - steps + 1)) for track in self.tracks(n)]

    # Cells and LSTMs.

    def call_cell(self):
        self._call(self.world.cell)

    def call_half(self):
        self._call(self.world.half)

    def _call(self, tracks):
        places = self.random_places()
        x, state, way = tracks.x_at(places), tracks.at(places), self.chance.randrange(3)
        if way == 0:
            tracks.check(tracks.owner(x, state), on(places), "cell")
        elif way == 1:
            out = tracks.owner.zero_state(len(x))
            tracks.check(tracks.owner(x, state, out=out), on(places), "cell, out")
        else:
            tracks.check(tracks.owner(x, state, is_first=[True] * len(x)), places, "cell, is_first", tracks.firsts)

    def call_lstm(self):
        tracks, places = self.world.lstm, self.random_places(SEQUENCE)
        outputs, state = tracks.owner(self.xs_at(places), tracks.at(places))
        tracks.check(state, on(places, SEQUENCE), "lstm")
        self.check_sequence(outputs, places, "lstm")

    def xs_at(self, places):
        return np.stack([self.world.lstm.x_at(on(places, k)) for k in range(SEQUENCE)])

    def check_sequence(self, outputs, places, what):
        for k, output in enumerate(outputs):
            self.check_outputs(output, on(places, k), what)

    def step_lstm(self):
        tracks, places = self.world.lstm, self.random_places()
        output, state = tracks.owner.step(tracks.x_at(places), tracks.at(places))
        tracks.check(state, on(places), "lstm.step")
        self.check_outputs(output, places, "lstm.step")

    def check_outputs(self, output, places, what):
        check(output, np.stack([self.world.outputs[t][track] for track, t in places]), f"{what}, output")

    def call_pointwise(self):
        got, wanted = lstm_pointwise(self.world.gates, self.world.c), self.world.of_gates
        check(got.h, wanted.h, "lstm_pointwise")
        check(got.c, wanted.c, "lstm_pointwise")

    def call_changing(self):
        if self.world.of_changing() not in self.world.of_variants:
            raise Wrong("a call has neither the old weights nor the new ones")

    def set_weights(self):
        self.world.changing.set_weights(self.chance.choice(self.world.variants))

    # A Stepper and a Sequencer.

    def step_stepper(self):
        tracks = self.world.lstm
        if any(t == STEPS for _, t in self.at_stepper):
            self.at_stepper = self.beginnings(3)
            self.stepper.reset()
        places = self.at_stepper
        output = self.stepper.step(tracks.x_at(places))
        self.at_stepper = on(places)
        self.check_outputs(output, places, "Stepper")
        tracks.check(self.stepper.read(), self.at_stepper, "Stepper")

    def run_sequencer(self):
        tracks = self.world.lstm
        if any(t + SEQUENCE > STEPS for _, t in self.at_sequencer):
            self.at_sequencer = self.beginnings(3)
            self.sequencer.reset()
        places = self.at_sequencer
        outputs = self.sequencer.run(self.xs_at(places))
        self.at_sequencer = on(places, SEQUENCE)
        self.check_sequence(outputs, places, "Sequencer")
        tracks.check(self.sequencer.read(), self.at_sequencer, "Sequencer")

    # The shared pool: others step their slots at the same time.

    def some(self, places, steps=0):
        slots = [slot for slot, (_, t) in places.items() if t + steps <= STEPS]
        return self.chance.sample(slots, self.chance.randint(0, len(slots)))

    def step_pool(self):
        self._step(self.world.pool, self.places)

    def _step(self, pool, places):
        tracks, slots = self.world.lstm, self.some(places, 1)
        if not slots:
            return
        before = [places[slot] for slot in slots]
        self.about = dict(zip(slots, on(before), strict=True))
        output = pool.step(tracks.x_at(before), slots)
        places.update(self.about)
        self.check_outputs(output, before, "pool.step")
        self.check_pool(pool, places, slots)

    def check_pool(self, pool, places, slots):
        if slots:
            self.world.lstm.check(pool.read(slots), [places[slot] for slot in slots], "pool.read")

    def read_pool(self):
        self.check_pool(self.world.pool, self.places, list(self.places))

    def reset_pool(self):
        slots = self.some(self.places)
        self.about = {slot: (self.chance.randrange(TRACKS), 0) for slot in slots}
        self.world.pool.reset(slots)
        self.places.update(self.about)

    def write_pool(self):
        slots = self.some(self.places)
        if slots:
            places = [(track, self.chance.randrange(STEPS)) for track in self.tracks(len(slots))]
            self.about = dict(zip(slots, places, strict=True))
            self.world.pool.write(slots, self.world.lstm.at(places))
            self.places.update(self.about)

    def allocate(self):
        n = self.chance.randint(0, OF_A_THREAD - len(self.places))
        slots = self.world.pool.allocate(n).tolist()
        if set(slots) & set(self.places):
            raise Wrong("a slot was given twice")
        self.places.update({slot: (self.chance.randrange(TRACKS), 0) for slot in slots})
        self.check_pool(self.world.pool, self.places, slots)

    def release(self):
        slots = self.some(self.places)
        self.world.pool.release(slots)
        for slot in slots:
            del self.places[slot]

    def end_session(self):
        Session(self)
        if self.chance.random() < 0.2:
            gc.collect()

    def save_all(self):
        """Save the shared pool. Whatever other threads do, each saved state belongs to a sequence."""
        path = self.path.with_suffix(".all")
        self.world.pool.save(path)
        pool = StatePool(self.world.lstm.owner, CAPACITY)
        pool.load(path)
        slots = pool.slots
        if slots.size:
            layers = pool.read(slots)
            for row in range(len(slots)):
                if self.world.lstm.row_bits(layers, row) not in self.world.lstm.known:
                    raise Wrong("a saved state belongs to no sequence")
        for slot in self.places:
            if slot not in slots:
                raise Wrong("a live slot was not saved")
        self.check_pool(pool, self.places, list(self.places))

    # The thread's own pool.

    def own_step(self):
        self._step(self.own_pool, self.own_places)

    def own_allocate(self):
        n = self.chance.randint(0, 40 - len(self.own_places))
        for slot in self.own_pool.allocate(n).tolist():
            self.own_places[slot] = self.chance.randrange(TRACKS), 0

    def own_release(self):
        slots = self.some(self.own_places)
        self.own_pool.release(slots)
        for slot in slots:
            del self.own_places[slot]

    def save(self):
        self.own_pool.save(self.path)
        self.saved = dict(self.own_places)

    def load(self):
        if self.saved is not None:
            self.own_pool.load(self.path)
            self.own_places = dict(self.saved)
            self.check_own()

    def check_own(self):
        if self.own_pool.slots.tolist() != sorted(self.own_places):
            raise Wrong("the wrong slots are live")
        self.check_pool(self.own_pool, self.own_places, list(self.own_places))


class Disturbed(User):
    """The main thread. In its calls, the signal handler makes other calls, or raises KeyboardInterrupt."""

    def __init__(self, world, number):
        super().__init__(world, number)
        self.within = User(world, f"{number}, within")  # the handler's calls have their own sequences
        self.may_interrupt = self.in_handler = self.is_over = False

    def arm(self):
        if not self.is_over:
            signal.setitimer(signal.ITIMER_REAL, self.within.chance.uniform(5e-5, 2e-3))

    def handler(self, _, frame):
        if self.in_handler:
            return
        self.in_handler = True
        try:
            self.counts["signals"] += 1
            if self.may_interrupt and self.within.chance.random() < 0.6 and not in_finalizer(frame):
                self.may_interrupt = False
                self.counts["interrupts"] += 1
                raise KeyboardInterrupt
            self.call_within()
        except Wrong:
            self.fail()
        finally:
            self.in_handler = False
            self.arm()

    def call_within(self):
        self.within.play_within()
        calls = {"pool": lambda: self.world.pool.read([]), "Stepper": self.stepper.read}
        for name, call in (*calls.items(), ("Sequencer", self.sequencer.read)):
            try:
                call()
                self.counts[f"{name}: calls within others"] += 1
            except RuntimeError as error:
                if REFUSED not in str(error) and TORN not in str(error):
                    raise
                self.counts[f"{name}: refused within a call"] += 1

    def play(self):
        name = self.chance.choice(self.operations)
        if self.chance.random() < 0.3:
            getattr(self, name)()
        else:
            self.interrupted(name)
        self.counts[name] += 1

    def interrupted(self, name):
        """Make a call that may be interrupted. Afterwards, the states must be as before it or as after it."""
        if name in (
            "allocate",
            "release",
            "save_all",
            "end_session",
        ):  # their slots could be confused with other threads'
            getattr(self, name)()
            return
        before = dict(self.places), dict(self.own_places), self.at_stepper, self.at_sequencer, self.saved
        self.about = {}
        try:
            try:
                self.may_interrupt = True
                getattr(self, name)()
            finally:
                self.may_interrupt = False
        except KeyboardInterrupt:
            self.settle(name, *before)

    def settle(self, name, places, own, at_stepper, at_sequencer, saved):
        """Find out whether an interrupted call left the old or the new states. Raise Wrong if neither."""
        if name == "step_stepper":
            self.at_stepper = self.settled_in_place(self.stepper, at_stepper, self.at_stepper, 1)
        elif name == "run_sequencer":
            self.at_sequencer = self.settled_in_place(self.sequencer, at_sequencer, self.at_sequencer, SEQUENCE)
        elif name == "own_step":
            self.own_places = self.settled(self.own_pool, own)
        elif name in ("step_pool", "reset_pool", "write_pool"):
            self.places = self.settled(self.world.pool, places)
        else:
            self.settle_own(own, saved)

    def settled(self, pool, places):
        """Return the places of slots, before or after the call that was about to change some."""
        got = self.bits_of(pool, list(places))
        for which, possible in (("old", places), ("new", places | self.about)):
            if got == self.bits_at(possible):
                self.counts[f"interrupted: {which}"] += 1
                return possible
        raise Wrong("an interrupted call left states that are neither old nor new")

    def bits_of(self, pool, slots):
        """Return the bits of the slots' states, by slot."""
        states = pool.read(slots) if slots else ()
        return {slot: self.world.lstm.row_bits(states, row) for row, slot in enumerate(slots)}

    def bits_at(self, places):
        """Return the bits that slots at these places must have."""
        tracks = self.world.lstm
        return {slot: tracks.row_bits(tracks.states[t], track) for slot, (track, t) in places.items()}

    def settled_in_place(self, owner, places, newer, steps):
        """Return the places of a Stepper's or Sequencer's rows, before or after the call, or new ones if it is torn."""
        name = type(owner).__name__
        try:
            state = owner.read()
        except RuntimeError as error:
            if TORN not in str(error):
                raise
            self.counts[f"{name}: torn"] += 1
            owner.reset()
            return self.beginnings(3)
        for possible in (places, on(places, steps), newer, on(newer, steps)):
            if any(t > STEPS for _, t in possible):
                continue
            pairs = zip(state, self.world.lstm.at(possible), strict=True)
            if all(got.h.tobytes() == old.h.tobytes() and got.c.tobytes() == old.c.tobytes() for got, old in pairs):
                return possible
        raise Wrong(f"an interrupted {name} has a state that is neither old nor new")

    def settle_own(self, own, saved):
        """Find out what an interrupted call left in the thread's own pool."""
        live = self.own_pool.slots.tolist()
        got = self.bits_of(self.own_pool, live)
        for possible in (own, saved or {}):
            if got == self.bits_at(possible):
                self.own_places = dict(possible)
                break
        else:  # more slots, with zeros, or fewer
            self.own_places = {slot: own.get(slot, (0, 0)) for slot in live}
            if got != self.bits_at(self.own_places):
                raise Wrong("an interrupted call changed a slot that it doesn't name, or a new slot isn't zeros")
        self.own_pool.save(self.path)  # after an interrupted save, the file may be the old or the new one
        self.saved = dict(self.own_places)
        self.check_own()


def in_finalizer(frame):
    """Return whether a finalizer called this frame. It would swallow an interrupt."""
    while frame is not None and frame.f_code is not Session.__del__.__code__:
        frame = frame.f_back
    return frame is not None


def work(user, wanted, deadline):
    """Play until enough operations are done, or the time is over."""
    world, done = user.world, 0
    try:
        while not world.stop.is_set() and (done < wanted if wanted else time.monotonic() < deadline):
            user.play()
            done += 1
    except BaseException:
        user.fail()


def soak(seed, seconds, operations):
    """Play, and return the counts and the failures."""
    rows._LEAST_WORK = rows._LEAST_STEP = 0  # split rows among threads, however few
    sys.setswitchinterval(1e-4)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), seed)
        # Import now the modules that a save needs: an interrupt within an import damages CPython 3.11's own locks.
        LSTMWeights.random(1, 1, seed=0).save(world.folder / "weights")
        deadline = time.monotonic() + (seconds or 0)
        users = [User(world, number) for number in range(1, THREADS)]
        main = Disturbed(world, 0)
        threads = [threading.Thread(target=work, args=(user, operations, deadline)) for user in users]
        for thread in threads:
            thread.start()
        before = signal.signal(signal.SIGALRM, main.handler)
        main.arm()
        try:
            work(main, operations, deadline)
        finally:
            main.is_over = True
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        for thread in threads:
            thread.join()
        gc.collect()
        everybody = [*users, main, main.within]
        if not world.failures:
            live = sorted(slot for user in everybody for slot in user.places)
            if world.pool.slots.tolist() != live or world.pool.live != len(live):
                world.failures.append(f"{world.pool.live} slots are live, not {len(live)}")
            for user in everybody:
                user.read_pool()
                user.check_own()
            if "warn" not in np.geterr().values():
                world.failures.append(f"NumPy's warnings are off: {np.geterr()}")
        return sum((user.counts for user in everybody), collections.Counter()), world.failures


def main(arguments):
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--operations", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if (options.seconds is None) == (options.operations is None):
        parser.error("one of --seconds and --operations is needed")
    start = time.monotonic()
    counts, failures = soak(options.seed, options.seconds, options.operations)
    for name, count in sorted(counts.items()):
        print(f"{count:10}  {name}")
    print(f"seed {options.seed}, {time.monotonic() - start:.0f} s, {len(failures)} failures")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
