"""Bad arguments of a pool: every backend raises the same error in the same words, and nothing changes."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, StatePool

from support.pools import layers_of, make_pool, random_layers, state_of

B, I, N, P = 3, 4, 5, 2
CAPACITY, LIVE = 8, 6
WANTED = "slots: wanted live slots, each once; got "
WANTED_PARENTS = "parents: wanted live slots; got "
OF_A_STEP = "slots: wanted live slots, each once, or -1 for a padding row; got "


class Good:
    """A pool with live slots 0 to 5 and the arguments of a valid step, for a case to spoil."""

    def __init__(self, backend, *, stacked=False):
        weights = [LSTMWeights.random(I, N, proj_size=P, seed=0), LSTMWeights.random(P, N, seed=1)]
        self.owner = (
            LSTM(StackedWeights(weights), backend=backend) if stacked else LSTMCell(weights[0], backend=backend)
        )
        self.width = N if stacked else P
        self.pool = make_pool(self.owner, CAPACITY)
        self.pool.allocate(LIVE)
        self.set(B)
        self.write(range(LIVE))
        self.x = self.owner.asarray(np.random.default_rng(0).normal(size=(B, I)))
        self.slots, self.options = [0, 3, 5], {}

    def set(self, B):
        self.state = state_of(self.owner, random_layers(self.owner, B, np.random.default_rng(B)))

    def write(self, slots):
        self.set(len(slots))
        self.pool.write(slots, self.state)
        self.set(B)

    def out(self, rows=B, width=None, dtype=None):
        return self.owner.asarray(np.zeros((rows, self.width if width is None else width)), dtype)

    def __call__(self):
        return self.pool.step(self.x, self.slots, **self.options)

    def contents(self):
        slots = self.pool.slots
        return slots.tolist(), [(s.h.tobytes(), s.c.tobytes()) for s in layers_of(self.owner, self.pool.read(slots))]


def refused(good, call, error, message):
    """Assert that the call raises exactly this error and that the pool doesn't change."""
    before = good.contents()
    kind = good.owner.xp.ndarray
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert str(caught.value) == message.format(module=kind.__module__, tests=__name__, device=good.owner.device)
    assert good.contents() == before


class OnGpu:
    """An array on a device that no backend uses."""

    def __dlpack_device__(self):
        return (8, 0)

    def __dlpack__(self, **_):
        raise AssertionError("its memory should not be read")


# Bad slots, and the error of every call that takes slots.
SLOTS = {
    "a float": (2.0, TypeError, "slots: wanted integers in host memory; got float"),
    "a bool": (True, TypeError, "slots: wanted integers in host memory; got bool"),
    "None": (None, TypeError, "slots: wanted integers in host memory; got None"),
    "text": ("012", TypeError, "slots: wanted integers in host memory; got str"),
    "a set": ({0, 1, 2}, TypeError, "slots: wanted integers in host memory; got set"),
    "floats": ([0.0, 1.0, 2.0], TypeError, "slots[0]: wanted an int; got float"),
    "bools": ([True, False, True], TypeError, "slots[0]: wanted an int; got bool"),
    "a bool among ints": ([0, 1, True], TypeError, "slots[2]: wanted an int; got bool"),
    "NumPy's bool among ints": ([0, np.True_, 2], TypeError, "slots[1]: wanted an int; got numpy.bool"),
    "a list of lists": ([[0], [1], [2]], TypeError, "slots[0]: wanted an int; got list"),
    "an array of floats": (np.arange(3.0), TypeError, "slots: wanted integers; got dtype float64"),
    "a mask": (
        np.array([True, False, True]),
        TypeError,
        "slots: wanted integers; got dtype bool. For a mask, use numpy.flatnonzero(mask)",
    ),
    "an array of objects": (np.array([0, 1, 2], object), TypeError, "slots: wanted integers; got dtype object"),
    "a column": (np.array([[0], [1], [2]]), ValueError, "slots: wanted shape (B,); got shape (3, 1)"),
    "an array of no dimension": (np.array(2), ValueError, "slots: wanted shape (B,); got shape ()"),
    "an array elsewhere": (
        OnGpu(),
        ValueError,
        "slots: wanted an array on {device}; got a {tests}.OnGpu on metal. Use cell.asarray(...) to make one",
    ),
    "a slot twice": ([3, 1, 3], ValueError, "3 twice (rows 0 and 2)"),
    "slots twice": (np.array([4, 1, 1]), ValueError, "1 twice (rows 1 and 2)"),
    "a free slot": ([0, 6, 7], ValueError, "6 (row 1), which is not live"),
    "a slot above the capacity": ([0, 1, 8], ValueError, "8 (row 2), and the capacity is 8"),
    "far above it": ([0, 2**70, 1], ValueError, "1180591620717411303424 (row 1), and the capacity is 8"),
    "far above it, unsigned": (
        np.array([0, 1, 2**64 - 1], np.uint64),
        ValueError,
        "18446744073709551615 (row 2), and the capacity is 8",
    ),
    "a negative slot": ([-2, 0, 1], ValueError, "-2 (row 0)"),
    "far below": ([0, -(2**70), 1], ValueError, "-1180591620717411303424 (row 1)"),
}

CALLS = {
    "release": lambda g, slots: g.pool.release(slots),
    "reset": lambda g, slots: g.pool.reset(slots),
    "read": lambda g, slots: g.pool.read(slots),
    "write": lambda g, slots: g.pool.write(slots, g.state),
    "step": lambda g, slots: g.pool.step(g.x, slots),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("case", SLOTS)
def test_slots(case, name, backend):
    good = Good(backend)
    slots, error, message = SLOTS[case]
    if not message.startswith("slots"):
        message = (OF_A_STEP if name == "step" else WANTED) + message
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        message = message.replace("numpy.bool", "numpy.bool_")
    if case == "an array elsewhere" and backend != "numpy":
        pytest.skip("only NumPy names the device of slots")
    refused(good, lambda: CALLS[name](good, slots), error, message)


@pytest.mark.parametrize("case", [case for case in SLOTS if "twice" not in case])
def test_parents(case, backend):
    """A fork's errors are those of other calls, but parents may repeat."""
    good = Good(backend)
    slots, error, message = SLOTS[case]
    message = message.replace("slots", "parents", 1) if message.startswith("slots") else f"{WANTED_PARENTS}{message}"
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        message = message.replace("numpy.bool", "numpy.bool_")
    if case == "an array elsewhere" and backend != "numpy":
        pytest.skip("only NumPy names the device of slots")
    refused(good, lambda: good.pool.fork(slots), error, message)


def test_padding_is_no_parent(backend):
    good = Good(backend)
    message = f"{WANTED_PARENTS}-1 (row 1). Only a step takes -1, for a padding row"
    refused(good, lambda: good.pool.fork([0, -1, 2]), ValueError, message)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "step"])
def test_only_a_step_has_padding(name, backend):
    good = Good(backend)
    message = f"{WANTED}-1 (row 1). Only a step takes -1, for a padding row"
    refused(good, lambda: CALLS[name](good, [0, -1, 2]), ValueError, message)


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ([-1, 3, -1, 3, -1], "3 twice (rows 1 and 3)"),
        ([-1, 3, -1, 6, -1], "6 (row 3), which is not live"),
        ([-1, 3, -1, 8, -1], "8 (row 3), and the capacity is 8"),
        ([-1, 3, -2, 4, -1], "-2 (row 2)"),
    ],
)
def test_slots_among_padding(slots, message, backend):
    good = Good(backend)
    x = good.owner.asarray(np.zeros((5, I)))
    refused(good, lambda: good.pool.step(x, slots), ValueError, OF_A_STEP + message)


@pytest.mark.parametrize("slots", [8, 6, -2, -1])
def test_one_slot(slots, backend):
    """A single int raises the same error as a list of it."""
    good = Good(backend)
    for name, call in CALLS.items():
        good.x, good.state = good.x[:1], good.owner.zero_state(1)
        if name == "step" and slots == -1:
            continue
        with pytest.raises(ValueError, match=r"^slots: wanted live slots, each once") as one:
            call(good, slots)
        with pytest.raises(ValueError, match=r"^slots: wanted live slots, each once") as several:
            call(good, [slots])
        assert str(one.value) == str(several.value)


def test_duplicate_slots_are_found_anywhere(backend):
    """Duplicates are found even in a batch that is checked in parts."""
    owner = LSTMCell(LSTMWeights.random(1, 1, seed=0), backend=backend)
    pool = make_pool(owner, 10_000)
    slots = np.random.default_rng(0).permutation(pool.allocate(10_000))
    for first, second in ((0, 9_999), (4095, 4096), (17, 23), (8191, 8192), (5000, 9_000)):
        bad = slots.copy()
        bad[second] = bad[first]
        with pytest.raises(ValueError, match=rf"got {bad[first]} twice \(rows {first} and {second}\)$"):
            pool.read(bad)
    pool.release(slots[8500])
    with pytest.raises(ValueError, match=rf"got {slots[8500]} \(row 8500\), which is not live$"):
        pool.read(slots)


# How to spoil a step's arguments, the error, and its whole message.
STEPS = {
    "1-D x": (
        lambda g: setattr(g, "x", g.x[0]),
        ValueError,
        "x: wanted shape (B, I) = (B, 4); got shape (4,). For one row, use x[None]",
    ),
    "3-D x": (
        lambda g: setattr(g, "x", g.x[None]),
        ValueError,
        "x: wanted shape (B, I) = (B, 4); got shape (1, 3, 4). "
        "This takes one step. For a sequence (T, B, I), use LSTM(weights)(x)",
    ),
    "narrow x": (
        lambda g: setattr(g, "x", g.x[:, :2]),
        ValueError,
        "x: wanted shape (B, I) = (3, 4); got shape (3, 2)",
    ),
    "float64 x": (
        lambda g: setattr(g, "x", g.x.astype("float64")),
        TypeError,
        'x: wanted dtype float32 (the cell\'s); got dtype float64. Use x.astype("float32")',
    ),
    "list x": (
        lambda g: setattr(g, "x", [[0.0] * I] * B),
        TypeError,
        "x: wanted a {module}.ndarray ({device}); got list. Use cell.asarray(...) to make one",
    ),
    "x elsewhere": (
        lambda g: setattr(g, "x", OnGpu()),
        ValueError,
        "x: wanted an array on {device}; got a {tests}.OnGpu on metal. Use cell.asarray(...) to make one",
    ),
    "too few slots": (
        lambda g: setattr(g, "slots", [0, 3]),
        ValueError,
        "slots: wanted shape (B,) = (3,); got shape (2,)",
    ),
    "too many slots": (
        lambda g: setattr(g, "slots", np.arange(4)),
        ValueError,
        "slots: wanted shape (B,) = (3,); got shape (4,)",
    ),
    "one slot for several rows": (
        lambda g: setattr(g, "slots", 2),
        ValueError,
        "slots: wanted shape (B,) = (3,); got shape (1,)",
    ),
    "mask of integers": (
        lambda g: g.options.update(is_first=[0, 1, 0]),
        TypeError,
        "is_first: wanted booleans, True for the rows to reset before this step; got dtype int64. "
        "Use numpy.asarray(is_first) != 0, as for Stable-Baselines3's episode_starts. If a flag says that a step "
        "ended an episode, use it for the next step: is_first[t + 1] = done[t]",
    ),
    "short mask": (
        lambda g: g.options.update(is_first=[True, False]),
        ValueError,
        "is_first: wanted shape (B,) = (3,); got shape (2,)",
    ),
    "strict a number": (lambda g: g.options.update(strict=1), TypeError, "strict: wanted a bool; got int"),
    "out a list": (
        lambda g: g.options.update(out=[[0.0] * P] * B),
        TypeError,
        "out: wanted a {module}.ndarray ({device}); got list. Use cell.asarray(...) to make one",
    ),
    "out a state": (
        lambda g: g.options.update(out=g.owner.zero_state(B)),
        TypeError,
        "out: wanted a {module}.ndarray ({device}); got fusedlstm.state.LSTMState. Pass one of its arrays: out.h or .c",
    ),
    "out of other rows": (
        lambda g: g.options.update(out=g.out(rows=2)),
        ValueError,
        "out: wanted shape (B, P) = (3, 2); got shape (2, 2)",
    ),
    "out of another width": (
        lambda g: g.options.update(out=g.out(width=N)),
        ValueError,
        "out: wanted shape (B, P) = (3, 2); got shape (3, 5)",
    ),
    "out of float64": (
        lambda g: g.options.update(out=g.out(dtype="float64")),
        TypeError,
        'out: wanted dtype float32 (the cell\'s); got dtype float64. Use out.astype("float32")',
    ),
    "out not contiguous": (
        lambda g: g.options.update(out=g.out(width=2 * P)[:, ::2]),
        ValueError,
        "out: wanted a C-contiguous array; got strides (16, 8) for shape (3, 2)",
    ),
    "out in x": (
        lambda g: g.options.update(out=g.x.reshape(-1)[: B * P].reshape(B, P)),
        ValueError,
        "out: wanted memory apart from x; got an overlapping range of addresses",
    ),
}


@pytest.mark.parametrize("case", STEPS)
def test_a_steps_arguments(case, backend):
    """Errors repeat on the second call, when signatures are known. Valid arguments still work afterwards."""
    good = Good(backend)
    good()
    spoil, error, message = STEPS[case]
    x, slots = good.x, good.slots
    spoil(good)
    for _ in range(2):
        refused(good, good, error, message)
    good.x, good.slots, good.options = x, slots, {"out": good.out(), "is_first": [True] * B, "strict": True}
    good()


def test_out_that_is_read_only():
    good = Good("numpy")
    out = good.out()
    out.flags.writeable = False
    good.options["out"] = out
    refused(good, good, ValueError, "out: wanted an array that can be written; got a read-only one")


def test_out_in_the_memory_of_a_mask():
    good = Good("numpy")
    out = good.out()
    good.options.update(out=out, is_first=out.reshape(-1).view(bool)[:B])
    refused(good, good, ValueError, "out: wanted memory apart from is_first; got an overlapping range of addresses")


def test_immutable_out_is_refused():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    good = Good("numpy")
    good.options["out"] = jax.numpy.zeros((B, P))
    refused(
        good,
        good,
        TypeError,
        "out: wanted an array that can be written; got a jaxlib._jax.ArrayImpl, which is immutable",
    )


# States.

STATES = {
    "None": (
        lambda g: None,
        TypeError,
        "state: wanted an LSTMState(h=..., c=...); got None. Start from zero_state(batch)",
    ),
    "a tuple": (
        lambda g: (g.state.h, g.state.c),
        TypeError,
        "state: wanted an LSTMState(h=..., c=...); got a tuple. Name the two: LSTMState(h=..., c=...), because PyTorch "
        "and Keras mean (h, c) while TensorFlow 1 and Flax mean (c, h)",
    ),
    "a tuple of one": (
        lambda g: (g.state,),
        TypeError,
        "state: wanted an LSTMState(h=..., c=...); got a tuple of 1 LSTMState. Use state[0]",
    ),
    "a list of two": (
        lambda g: [g.state, g.state],
        TypeError,
        "state: wanted an LSTMState(h=..., c=...); got a list of 2 LSTMState. Pass one of them: a cell has one state",
    ),
    "swapped": (
        lambda g: LSTMState(h=g.state.c, c=g.state.h),
        ValueError,
        "state.h: wanted shape (B, P) = (3, 2); got shape (3, 5). h and c look swapped: h is the output, c the cell's "
        "memory",
    ),
    "other rows": (
        lambda g: g.owner.zero_state(2),
        ValueError,
        "state.h: wanted shape (B, P) = (3, 2); got shape (2, 2)",
    ),
    "one row": (
        lambda g: LSTMState(h=g.state.h, c=g.state.c[:1]),
        ValueError,
        "state.c: wanted shape (B, N) = (3, 5); got shape (1, 5). States don't broadcast: repeat the row with "
        "state.c.repeat(3, axis=0)",
    ),
    "float64": (
        lambda g: LSTMState(h=g.state.h, c=g.state.c.astype("float64")),
        TypeError,
        'state.c: wanted dtype float32 (the cell\'s); got dtype float64. Use state.c.astype("float32")',
    ),
    "lists": (
        lambda g: LSTMState(h=[[0.0] * P] * B, c=g.state.c),
        TypeError,
        "state.h: wanted a {module}.ndarray ({device}); got list. Use cell.asarray(...) to make one",
    ),
    "elsewhere": (
        lambda g: LSTMState(h=g.state.h, c=OnGpu()),
        ValueError,
        "state.c: wanted an array on {device}; got a {tests}.OnGpu on metal. Use cell.asarray(...) to make one",
    ),
}

STATES_OF_LAYERS = {
    "one": (
        lambda g: g.state[0],
        TypeError,
        "state: wanted a tuple of 2 LSTMState, one for each layer and direction; got one LSTMState. "
        "If its arrays are (L*D, B, N), use unstack_states(h=..., c=...)",
    ),
    "too few": (
        lambda g: g.state[:1],
        ValueError,
        "state: wanted a tuple of 2 LSTMState, one for each layer and direction; got 1",
    ),
    "none": (
        lambda g: None,
        TypeError,
        "state: wanted a tuple of 2 LSTMState, one for each layer and direction; got None. Start from "
        "zero_state(batch)",
    ),
    "arrays": (
        lambda g: (g.state[0].h, g.state[0].c),
        TypeError,
        "state: wanted a tuple of 2 LSTMState, one for each layer and direction; got a tuple of arrays. "
        "For PyTorch's (h, c), each (L*D, B, N), use unstack_states(h=..., c=...)",
    ),
    "other rows of the second": (
        lambda g: (g.state[0], g.owner.zero_state(4)[1]),
        ValueError,
        "state[1].h: wanted shape (B, P) = (3, 5); got shape (4, 5)",
    ),
    "lists": (
        lambda g: (LSTMState(h=[[0.0] * P] * B, c=g.state[0].c), g.state[1]),
        TypeError,
        "state[0].h: wanted a {module}.ndarray ({device}); got list. Use lstm.asarray(...) to make one",
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_states(case, backend):
    good = Good(backend)
    make, error, message = STATES[case]
    refused(good, lambda: good.pool.write([0, 1, 2], make(good)), error, message)


@pytest.mark.parametrize("case", STATES_OF_LAYERS)
def test_states_of_layers(case, backend):
    good = Good(backend, stacked=True)
    make, error, message = STATES_OF_LAYERS[case]
    refused(good, lambda: good.pool.write([0, 1, 2], make(good)), error, message)


# Other arguments.

OTHERS = {
    "allocate a float": (lambda g: g.pool.allocate(1.0), TypeError, "n: wanted an int; got float"),
    "allocate a bool": (lambda g: g.pool.allocate(True), TypeError, "n: wanted an int; got bool"),
    "allocate -1": (lambda g: g.pool.allocate(-1), ValueError, "n: wanted at least 0; got -1"),
    "resize to a float": (lambda g: g.pool.resize(9.0), TypeError, "capacity: wanted an int; got float"),
    "resize to 0": (lambda g: g.pool.resize(0), ValueError, "capacity: wanted at least 1; got 0"),
    "resize to too many": (
        lambda g: g.pool.resize(2**31),
        ValueError,
        "capacity: wanted at most 2147483647; got 2147483648",
    ),
    "resize to less than a live slot": (
        lambda g: g.pool.resize(LIVE - 1),
        ValueError,
        "capacity: wanted more than 5, which is a live slot; got 5. Release it first. "
        "To keep its state, use read, and write it to another slot",
    ),
    "prepare for a float": (lambda g: g.pool.prepare(2.0), TypeError, "max_batch: wanted an int; got float"),
    "prepare for -1": (lambda g: g.pool.prepare(-1), ValueError, "max_batch: wanted at least 0; got -1"),
    "read like a list": (
        lambda g: g.pool.read([0], like=[1.0]),
        TypeError,
        "like: wanted a {module}.ndarray ({device}); got list. Use cell.asarray(...) to make one",
    ),
    "read like an array elsewhere": (
        lambda g: g.pool.read([0], like=OnGpu()),
        ValueError,
        "like: wanted an array on {device}; got a {tests}.OnGpu on metal. Use cell.asarray(...) to make one",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_arguments(case, backend):
    good = Good(backend)
    call, error, message = OTHERS[case]
    refused(good, lambda: call(good), error, message)


def test_arguments_of_a_pool(backend):
    cell = LSTMCell(LSTMWeights.random(I, N, seed=0), backend=backend)
    both = LSTM(StackedWeights.random(I, N, bidirectional=True, seed=0), backend=backend)
    for arguments, error, message in (
        (
            (cell.weights, 3),
            TypeError,
            "cell: wanted an LSTMCell or an LSTM; got fusedlstm.weights.LSTMWeights. Use LSTMCell(weights)",
        ),
        ((None, 3), TypeError, "cell: wanted an LSTMCell or an LSTM; got None"),
        (
            (both, 3),
            ValueError,
            "cell: wanted a cell, or an LSTM whose layers are all forward; got bidirectional=True. "
            "The backward direction needs whole sequences",
        ),
        ((cell, 3.0), TypeError, "capacity: wanted an int; got float"),
        ((cell, True), TypeError, "capacity: wanted an int; got bool"),
        ((cell, 0), ValueError, "capacity: wanted at least 1; got 0"),
        ((cell, 2**31), ValueError, "capacity: wanted at most 2147483647; got 2147483648"),
    ):
        for make in (StatePool, StatePool.memory_for):
            with pytest.raises(error) as caught:
                make(*arguments)
            assert str(caught.value) == message
