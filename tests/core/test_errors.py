"""Bad arguments of a cell: every backend raises the same error in the same words, before any work is done."""

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMState, LSTMWeights

B, I, N, P = 5, 3, 4, 2


class Good:
    """The arguments of a valid call, for a case to spoil."""

    def __init__(self, backend, dtype="float32", proj_size=None):
        self.cell = LSTMCell(LSTMWeights.random(I, N, proj_size=proj_size, dtype=dtype, seed=0), backend=backend)
        rng = np.random.default_rng(0)
        self.x = self.cell.asarray(rng.normal(size=(B, I)))
        self.h, self.c = (a.copy() for a in self.parts(self.cell.zero_state(B)))
        self.options = {}

    @staticmethod
    def parts(state):
        return state.h, state.c

    def __call__(self):
        return self.cell(self.x, LSTMState(h=self.h, c=self.c), **self.options)


class Tensor:
    """The part of a PyTorch tensor that is read."""

    requires_grad = True


class Elsewhere:
    """An array of another library on a device that has no backend."""

    dtype = np.dtype(np.float32)

    def __dlpack_device__(self):
        return (8, 0)

    def copy(self):
        return self

    def __dlpack__(self, **_):
        raise AssertionError("its memory should not be read")


class Unshared(Elsewhere):
    """An array on the backend's device that its library doesn't share."""

    def __init__(self, device):
        self._device = (1, 0) if device == "cpu" else (2, 0)

    def __dlpack_device__(self):
        return self._device

    def __dlpack__(self, **_):
        raise BufferError("it is on several devices\nand more")


WITH_GRADIENT = "wanted an array without gradient; got a tensor that requires grad"
ELSEWHERE = "wanted an array on {device}; got a {tests}.Elsewhere on metal. Use cell.asarray(...) to make one"


def out(good, **changes):
    zero = good.cell.zero_state(B)
    return LSTMState(**{"h": zero.h, "c": zero.c, **changes})


def reset(good, rows=1, **changes):
    zero = good.cell.zero_state(rows)
    return {"is_first": [True] * B, "reset_to": LSTMState(**{"h": zero.h, "c": zero.c, **changes})}


# How to spoil the arguments, the error, and its whole message.
CASES = {
    "1-D x": (
        lambda g: setattr(g, "x", g.x[0]),
        ValueError,
        "x: wanted shape (B, I) = (B, 3); got shape (3,). For one row, use x[None]",
    ),
    "3-D x": (
        lambda g: setattr(g, "x", g.x[None]),
        ValueError,
        "x: wanted shape (B, I) = (B, 3); got shape (1, 5, 3). "
        "This takes one step. For a sequence (T, B, I), use LSTM(weights)(x)",
    ),
    "0-D x": (
        lambda g: setattr(g, "x", g.x[:1, 0].reshape(())),
        ValueError,
        "x: wanted shape (B, I) = (B, 3); got shape ()",
    ),
    "wide x": (
        lambda g: setattr(g, "x", g.x.repeat(2, axis=1)),
        ValueError,
        "x: wanted shape (B, I) = (5, 3); got shape (5, 6)",
    ),
    "float64 x": (
        lambda g: setattr(g, "x", g.x.astype("float64")),
        TypeError,
        'x: wanted dtype float32 (the cell\'s); got dtype float64. Use x.astype("float32")',
    ),
    "integer x": (
        lambda g: setattr(g, "x", g.x.astype("int64")),
        TypeError,
        'x: wanted dtype float32 (the cell\'s); got dtype int64. Use x.astype("float32")',
    ),
    "complex x": (
        lambda g: setattr(g, "x", g.cell.xp.zeros((B, I), "complex64")),
        TypeError,
        "x: wanted dtype float32 (the cell's); got dtype complex64. An LSTM takes real numbers: pass the real part",
    ),
    "x that requires grad": (
        lambda g: setattr(g, "x", Tensor()),
        TypeError,
        f"x: {WITH_GRADIENT}. Use x.detach(). To train, use fusedlstm.torch",
    ),
    "h that requires grad": (
        lambda g: setattr(g, "h", Tensor()),
        TypeError,
        f"state.h: {WITH_GRADIENT}. Use state.h.detach(). To train, use fusedlstm.torch",
    ),
    "x on another device": (lambda g: setattr(g, "x", Elsewhere()), ValueError, f"x: {ELSEWHERE}"),
    "h on another device": (lambda g: setattr(g, "h", Elsewhere()), ValueError, f"state.h: {ELSEWHERE}"),
    "mask on another device": (
        lambda g: g.options.update(is_first=Elsewhere()),
        ValueError,
        f"is_first: {ELSEWHERE}",
    ),
    "reset_to on another device": (
        lambda g: g.options.update(reset(g, c=Elsewhere())),
        ValueError,
        f"reset_to.c: {ELSEWHERE}",
    ),
    "out on another device": (
        lambda g: g.options.update(out=out(g, c=Elsewhere())),
        ValueError,
        f"out.c: {ELSEWHERE}",
    ),
    "x that is not shared": (
        lambda g: setattr(g, "x", Unshared(g.cell.device)),
        TypeError,
        "x: wanted an array whose memory can be shared; got a {tests}.Unshared: it is on several devices",
    ),
    "list x": (
        lambda g: setattr(g, "x", [[1.0, 2.0, 3.0]] * B),
        TypeError,
        "x: wanted a {module}.ndarray ({device}); got list. Use cell.asarray(...) to make one",
    ),
    "x is None": (lambda g: setattr(g, "x", None), TypeError, "x: wanted a {module}.ndarray ({device}); got None"),
    "x is a state": (
        lambda g: setattr(g, "x", g.cell.zero_state(B)),
        TypeError,
        "x: wanted a {module}.ndarray ({device}); got fusedlstm.state.LSTMState. Pass one of its arrays: x.h or .c",
    ),
    "h is None": (
        lambda g: setattr(g, "h", None),
        TypeError,
        "state.h: wanted a {module}.ndarray ({device}); got None",
    ),
    "h of another batch": (
        lambda g: setattr(g, "h", g.h[:3]),
        ValueError,
        "state.h: wanted shape (B, P) = (5, 4); got shape (3, 4)",
    ),
    "c of batch 1": (
        lambda g: setattr(g, "c", g.c[:1]),
        ValueError,
        "state.c: wanted shape (B, N) = (5, 4); got shape (1, 4). "
        "States don't broadcast: repeat the row with state.c.repeat(5, axis=0)",
    ),
    "h of batch 1": (
        lambda g: setattr(g, "h", g.h[:1]),
        ValueError,
        "state.h: wanted shape (B, P) = (5, 4); got shape (1, 4). "
        "States don't broadcast: repeat the row with state.h.repeat(5, axis=0)",
    ),
    "1-D c": (
        lambda g: setattr(g, "c", g.c[0]),
        ValueError,
        "state.c: wanted shape (B, N) = (5, 4); got shape (4,). For one row, use state.c[None]",
    ),
    "packed state as c": (
        lambda g: setattr(g, "c", g.c.repeat(2, axis=1)),
        ValueError,
        "state.c: wanted shape (B, N) = (5, 4); got shape (5, 8). "
        'This looks like a packed state: use unpack_state(packed, 4, order="ch") or order="hc"',
    ),
    "float64 h": (
        lambda g: setattr(g, "h", g.h.astype("float64")),
        TypeError,
        'state.h: wanted dtype float32 (the cell\'s); got dtype float64. Use state.h.astype("float32")',
    ),
    "16-bit c": (
        lambda g: setattr(g, "c", g.c.astype("float16")),
        TypeError,
        'state.c: wanted dtype float32 (the cell\'s); got dtype float16. Use state.c.astype("float32")',
    ),
    "mask of floats": (
        lambda g: g.options.update(is_first=np.zeros(B)),
        TypeError,
        "is_first: wanted booleans, True for the rows to reset before this step; got dtype float64. "
        "Use is_first != 0, as for Stable-Baselines3's episode_starts. If a flag says that a step ended an "
        "episode, use it for the next step: is_first[t + 1] = done[t]",
    ),
    "mask of integers": (
        lambda g: g.options.update(is_first=[0, 1, 0, 0, 1]),
        TypeError,
        "is_first: wanted booleans, True for the rows to reset before this step; got dtype int64. "
        "Use numpy.asarray(is_first) != 0, as for Stable-Baselines3's episode_starts. If a flag says that a step "
        "ended an episode, use it for the next step: is_first[t + 1] = done[t]",
    ),
    "ragged mask": (
        lambda g: g.options.update(is_first=[[True], [True, False]]),
        TypeError,
        "is_first: wanted booleans, True for the rows to reset before this step; got list",
    ),
    "reset_to of nothing": (
        lambda g: g.options.update(is_first=[True] * B, reset_to=LSTMState(h=None, c=None)),
        TypeError,
        "reset_to.h: wanted a {module}.ndarray ({device}); got None",
    ),
    "reset_to of lists": (
        lambda g: g.options.update(is_first=[True] * B, reset_to=LSTMState(h=[[0.0] * N], c=[[0.0] * N])),
        TypeError,
        "reset_to.h: wanted a {module}.ndarray ({device}); got list. Use cell.asarray(...) to make one",
    ),
    "short mask": (
        lambda g: g.options.update(is_first=[True] * 4),
        ValueError,
        "is_first: wanted shape (B,) = (5,); got shape (4,)",
    ),
    "column mask": (
        lambda g: g.options.update(is_first=np.ones((B, 1), bool)),
        ValueError,
        "is_first: wanted shape (B,) = (5,); got shape (5, 1)",
    ),
    "one boolean": (
        lambda g: g.options.update(is_first=True),
        ValueError,
        "is_first: wanted shape (B,) = (5,); got shape ()",
    ),
    "reset_to alone": (
        lambda g: g.options.update(reset_to=g.cell.zero_state(1)),
        ValueError,
        "reset_to: wanted None without is_first, which marks the rows to reset; got a state",
    ),
    "reset_to a tuple": (
        lambda g: g.options.update(is_first=[True] * B, reset_to=(g.h, g.c)),
        TypeError,
        "reset_to: wanted an LSTMState(h=..., c=...); got a tuple. "
        "Name the two: LSTMState(h=..., c=...), because PyTorch and Keras mean (h, c) "
        "while TensorFlow 1 and Flax mean (c, h)",
    ),
    "reset_to of 3 rows": (
        lambda g: g.options.update(reset(g, rows=3)),
        ValueError,
        "reset_to.h: wanted shape (B, P) = (5, 4); got shape (3, 4)",
    ),
    "reset_to of 1 and B rows": (
        lambda g: g.options.update(reset(g, c=g.c)),
        ValueError,
        "reset_to.h: wanted shape (B, P) = (5, 4); got shape (1, 4). "
        "States don't broadcast: repeat the row with reset_to.h.repeat(5, axis=0)",
    ),
    "reset_to of float64": (
        lambda g: g.options.update(reset(g, c=g.c[:1].astype("float64"))),
        TypeError,
        'reset_to.c: wanted dtype float32 (the cell\'s); got dtype float64. Use reset_to.c.astype("float32")',
    ),
    "out a tuple": (
        lambda g: g.options.update(out=(g.h, g.c)),
        TypeError,
        "out: wanted an LSTMState(h=..., c=...); got a tuple. "
        "Name the two: LSTMState(h=..., c=...), because PyTorch and Keras mean (h, c) "
        "while TensorFlow 1 and Flax mean (c, h)",
    ),
    "out of nothing": (
        lambda g: g.options.update(out=out(g, h=None)),
        TypeError,
        "out.h: wanted a {module}.ndarray ({device}); got None",
    ),
    "out of another batch": (
        lambda g: g.options.update(out=g.cell.zero_state(6)),
        ValueError,
        "out.h: wanted shape (B, P) = (5, 4); got shape (6, 4)",
    ),
    "out of float64": (
        lambda g: g.options.update(out=out(g, c=g.c.astype("float64"))),
        TypeError,
        'out.c: wanted dtype float32 (the cell\'s); got dtype float64. Use out.c.astype("float32")',
    ),
    "out not contiguous": (
        lambda g: g.options.update(out=out(g, h=g.h.repeat(2, axis=1)[:, ::2])),
        ValueError,
        "out.h: wanted a C-contiguous array; got strides (32, 8) for shape (5, 4)",
    ),
    "out is the state": (
        lambda g: g.options.update(out=LSTMState(h=g.h, c=g.c)),
        ValueError,
        "out.h: wanted memory apart from state.h, which would be overwritten while it is still read; "
        "got an overlapping range of addresses. Alternate two states: cell(x, a, out=b), then cell(x, b, out=a). "
        "out.c may be state.c",
    ),
    "out.h is c": (
        lambda g: g.options.update(out=out(g, h=g.c)),
        ValueError,
        "out.h: wanted memory apart from state.c; got an overlapping range of addresses",
    ),
    "out.c is h": (
        lambda g: g.options.update(out=out(g, c=g.h)),
        ValueError,
        "out.c: wanted memory apart from state.h; got an overlapping range of addresses",
    ),
    "out.h is out.c": (
        lambda g: g.options.update(out=out(g, **dict.fromkeys("hc", g.h.copy()))),
        ValueError,
        "out.h: wanted memory apart from out.c; got an overlapping range of addresses",
    ),
}

WITH_PROJECTION = {
    "swapped states": (
        lambda g: g.__dict__.update(h=g.c, c=g.h),
        ValueError,
        "state.h: wanted shape (B, P) = (5, 2); got shape (5, 4). "
        "h and c look swapped: h is the output, c the cell's memory",
    ),
    "h as c": (
        lambda g: setattr(g, "c", g.h.copy()),
        ValueError,
        "state.c: wanted shape (B, N) = (5, 4); got shape (5, 2)",
    ),
}


def assert_raises(good, spoil, error, message):
    spoil(good)
    target = good.options.get("out")
    whole = isinstance(target, LSTMState) and target.h is not None
    before = (target.h.copy(), target.c.copy()) if whole else None
    with pytest.raises(error) as caught:
        good()
    assert type(caught.value) is error
    module = good.cell.xp.__name__
    assert str(caught.value) == message.replace("{tests}", __name__).replace("{module}", module).replace(
        "{device}", good.cell.device
    )
    if before is not None:
        assert (good.cell.xp.asarray(before[0] == target.h)).all(), "nothing should be written"


@pytest.mark.parametrize("case", CASES)
def test_bad_argument(case, backend):
    assert_raises(Good(backend), *CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_bad_argument_after_good_calls(case, backend):
    """A bad argument raises even after valid calls, whose checks are cached."""
    good = Good(backend)
    good()
    target = good.cell.zero_state(B)
    for _ in range(2):
        good.cell(good.x, LSTMState(h=good.h, c=good.c), out=target, is_first=[False] * B)
    assert_raises(good, *CASES[case])


@pytest.mark.parametrize("case", WITH_PROJECTION)
def test_bad_argument_of_a_projecting_cell(case, backend):
    assert_raises(Good(backend, proj_size=P), *WITH_PROJECTION[case])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_c_of_sixteen_bit_cells(dtype, backend):
    good = Good(backend, dtype)
    good.c = good.c.astype(good.cell.dtype)
    message = rf"state\.c: wanted dtype float32 \(c's, with a 16-bit h\); got dtype {dtype}\. Use .*float32"
    with pytest.raises(TypeError, match=message):
        good()
    good.c = [[0.0] * N] * B
    with pytest.raises(TypeError, match=r'Use cell\.asarray\(\.\.\., "float32"\) to make one'):
        good()


def test_x_that_overlaps_a_cached_out(backend):
    """The pair of states is cached as valid, but x is checked at every call."""
    cell = LSTMCell(LSTMWeights.random(N, N, seed=0), backend=backend)
    state, target, x = cell.zero_state(B), cell.zero_state(B), cell.asarray(np.ones((B, N)))
    for _ in range(2):
        cell(x, state, out=target)
    for part in ("h", "c"):
        message = rf"out\.{part}: wanted memory apart from x; got an overlapping range of addresses"
        with pytest.raises(ValueError, match=message):
            cell(getattr(target, part), state, out=target)
    with pytest.raises(ValueError, match=r"out\.h: wanted memory apart from reset_to\.h"):
        cell(x, state, is_first=[True] * B, reset_to=target, out=target)


def test_a_mask_in_the_memory_of_out():
    """A mask that shares memory with out raises, even if the pair of states has passed before."""
    cell = LSTMCell(LSTMWeights.random(I, N, seed=0), backend="numpy")
    x, state, target = cell.asarray(np.zeros((B, I))), cell.zero_state(B), cell.zero_state(B)
    cell(x, state, out=target)
    for part in ("h", "c"):
        mask = getattr(target, part).reshape(-1).view(bool)[:B]
        with pytest.raises(ValueError, match=rf"out\.{part}: wanted memory apart from is_first"):
            cell(x, state, is_first=mask, out=target)


def test_a_transposed_c_is_not_in_place(backend):
    """The same memory in another order raises, as rows would be read after they are written."""
    cell = LSTMCell(LSTMWeights.random(I, N, seed=0), backend=backend)
    memory = cell.asarray(np.zeros((N, N)))
    state, target = (LSTMState(h=cell.zero_state(N).h, c=c) for c in (memory.T, memory))
    with pytest.raises(ValueError, match=r"out\.c: wanted state\.c itself, or memory apart from it"):
        cell(cell.asarray(np.zeros((N, I))), state, out=target)


def test_partly_overlapping_c(backend):
    cell = LSTMCell(LSTMWeights.random(I, N, seed=0), backend=backend)
    memory = cell.asarray(np.zeros((B + 1, N)))
    state = LSTMState(h=cell.zero_state(B).h, c=memory[:B])
    shifted = LSTMState(h=cell.zero_state(B).h, c=memory[1:])
    with pytest.raises(ValueError, match=r"out\.c: wanted state\.c itself, or memory apart from it"):
        cell(cell.asarray(np.zeros((B, I))), state, out=shifted)


def test_read_only_out():
    good = Good("numpy")
    target = good.cell.zero_state(B)
    target.c.flags.writeable = False
    good.options["out"] = target
    with pytest.raises(ValueError, match=r"out\.c: wanted an array that can be written; got a read-only one"):
        good()


def test_asarray_of_tensors():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    good = Good("numpy")
    good.x = torch.zeros(B, I, requires_grad=True)
    with pytest.raises(TypeError, match=r"x: .*requires grad. Use x\.detach\(\)"):
        good.cell.asarray(good.x)
    good.x = good.cell.asarray(good.x.detach())
    good()


def test_host_data_is_refused_on_a_gpu(backend):
    if backend == "numpy":
        return
    good = Good(backend)
    good.x = np.zeros((B, I), np.float32)
    with pytest.raises(
        TypeError, match=r"x: wanted a cupy\.ndarray \(cuda:0\); got numpy\.ndarray\. Use cell\.asarray"
    ):
        good()


def test_arrays_of_another_device_as_masks():
    class OnDevice:
        def __array__(self, *_, **__):
            raise TypeError("Implicit conversion to a NumPy array is not allowed")

    good = Good("numpy")
    good.options["is_first"] = OnDevice()
    with pytest.raises(TypeError, match=r"is_first: wanted booleans, .*; got .*OnDevice"):
        good()


def test_empty_batches_are_allowed(backend):
    cell = LSTMCell(LSTMWeights.random(I, N, seed=0), backend=backend)
    state = cell(cell.asarray(np.zeros((0, I))), cell.zero_state(0), is_first=[], out=cell.zero_state(0))
    assert state.to_numpy().h.shape == (0, N)
