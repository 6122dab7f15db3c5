"""Steppers with host buffers on the emulated GPU: what is copied, and what kernels read and write in pinned memory."""

import gc
import itertools

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMWeights, StackedWeights

from driver import observe
from support.backends import BACKENDS
from support.cells import host
from support.on_emulated_gpu import FORCED, bits, bits_of, nodes, settle

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the fake driver")

UPLOAD, MATMUL = "memcpy2D", "matmul"
STEP, PROJECT = "lstm_step", "lstm_project"
PLANNED, FINISH, RESET = "lstm_planned", "lstm_finish", "lstm_reset"
# These need the kernels of test_fused_stepper.py.
PROJECTED = {"sizes": (23, 37), "proj_size": 5, "proj_clip": 0.1, "peephole": True, "cell_clip": 0.8}
RESIDUAL = {"sizes": (8, 40), "proj_size": 8, "proj_clip": 0.5, "residual": True}


def make(layers=1, kernel="simt", sizes=(7, 12), precision="highest", **options):
    """Return an LSTM."""
    weights = StackedWeights.random(*sizes, layers, seed=0, **options)
    return LSTM(weights, backend="cuda", kernel=kernel, precision=precision)


def inputs(owner, B, seed=0):
    return host(owner.asarray(np.random.default_rng(seed).normal(size=(B, owner.weights.layers[0].input_size))))


def graphs(stepper):
    """Return the nodes of a step without flags, of one with a flag, and of the next one without."""
    found = []
    for flag in (False, True, False):
        stepper.is_first[-1:] = flag
        found.append(nodes(stepper))
        stepper.step()
    return found


# What a step is.


@pytest.mark.parametrize(
    ("layers", "options", "each"),
    [
        (1, {}, [STEP]),
        (1, {"residual": True, "sizes": (12, 12)}, [STEP]),
        (3, {"peephole": True, "cell_clip": 1.0, "zoneout_h": 0.2}, [STEP]),
        (1, {"proj_size": 4}, [STEP]),
        (1, {"sizes": (8, 40), "proj_size": 4}, [STEP, PROJECT]),
        (1, {"sizes": (8, 40), "proj_size": 4, "zoneout_h": 0.2}, [STEP, PROJECT]),
        (2, RESIDUAL, [STEP, PROJECT]),
    ],
)
def test_one_kernel_steps_without_copies(layers, options, each):
    """Kernels read x and the flags in the host's memory, and write the output there."""
    assert graphs(make(layers, **options).stepper(5, host=True)) == [each * layers] * 3


@pytest.mark.parametrize(
    ("layers", "options", "each"),
    [
        (1, {}, [MATMUL, PLANNED]),
        (1, {"residual": True, "sizes": (12, 12)}, [MATMUL, PLANNED]),
        (1, {"zoneout_h": 0.2}, [MATMUL, PLANNED, FINISH]),
        (1, {"proj_size": 4, "proj_clip": 0.5}, [MATMUL, PLANNED, MATMUL, FINISH]),
        (1, {"proj_size": 4, "zoneout_h": 0.2}, [MATMUL, PLANNED, MATMUL, FINISH]),
        (2, RESIDUAL, [MATMUL, PLANNED, MATMUL, FINISH]),
    ],
)
def test_a_matmul_needs_a_copy_of_x(layers, options, each):
    """The operand is [x | h]. Only steps with flags reset rows. The last kernel writes the output."""
    wanted = [[UPLOAD, *each * layers], [UPLOAD, RESET, *each * layers], [UPLOAD, *each * layers]]
    assert graphs(make(layers, "matmul", **options).stepper(5, host=True)) == wanted


def test_a_plain_projection_adds_a_kernel():
    """The top layer's projection is a matmul, which writes h. So a kernel writes the output, in place of a copy."""
    lstm = make(2, "matmul", proj_size=4)
    lower, top = [MATMUL, PLANNED, MATMUL, FINISH], [MATMUL, PLANNED, MATMUL]
    assert nodes(lstm.stepper(5)) == [*lower, *top]
    assert nodes(lstm.stepper(5, host=True)) == [UPLOAD, *lower, *top, FINISH]


@pytest.mark.parametrize(
    ("B", "I", "N", "kernel", "dtype", "residual", "copies"),
    [
        (8, 128, 128, "tensor_small", "bfloat16", False, False),  # 2048 bytes, read by 16 columns of blocks
        (8, 129, 128, "tensor_small", "bfloat16", False, True),
        (8, 128, 129, "tensor_small", "bfloat16", False, True),
        (8, 128, 128, "tensor_small", "bfloat16", True, True),  # and again, to add it
        (32, 64, 128, "tensor_medium", "bfloat16", False, False),  # 4096 bytes, 8 times
        (33, 64, 128, "tensor_medium", "bfloat16", False, True),
        (128, 128, 32, "simt", "float32", False, True),  # 65536 bytes, twice
        (128, 32, 32, "simt", "float32", False, False),  # 16384 bytes, twice
    ],
)
def test_large_inputs_are_copied(B, I, N, kernel, dtype, residual, copies):
    """All blocks together read up to 32 KiB of x in the host's memory."""
    if residual:
        weights = StackedWeights([LSTMWeights.random(I, N, seed=0, dtype=dtype)], residual=[True])
        stepper = LSTM(weights, backend="cuda", kernel=kernel).stepper(B, host=True)
    else:
        stepper = make(1, kernel, sizes=(I, N), dtype=dtype).stepper(B, host=True)
    assert nodes(stepper) == [*[UPLOAD] * copies, STEP]
    assert (stepper._engine._step._x.data.ptr == stepper.x.ctypes.data) != copies


@pytest.mark.parametrize(("kernel", "dtype", "precision"), FORCED)
@pytest.mark.parametrize("options", [{}, PROJECTED])
def test_host_buffers_take_the_same_kernels(kernel, dtype, precision, options):
    """Rows of x are aligned there, too. So `fusedlstm compile` knows all instances."""
    lstm = make(1, kernel, dtype=dtype, precision=precision, **options)
    of_device, of_host = (observe.steps(lstm.stepper(5, host=on_host)._engine._graph) for on_host in (False, True))
    assert of_host == of_device


def test_steps_wait_even_with_flags():
    stepper = make().stepper(5, host=True)
    with cupy.cuda.Stream() as stream:
        stepper.step()
        stepper.is_first[...] = True
        observe.clear()
        for _ in range(2):
            stepper.step()
    assert [entry[:2] for entry in observe.log()] == [("graph", stream.ptr), ("synchronize", stream.ptr)] * 2


# Flags.

WAYS = [("simt", {}), ("simt", {"sizes": (8, 40), "proj_size": 4, "zoneout_h": 0.2}), ("matmul", {})]


@pytest.mark.parametrize(("kernel", "options"), WAYS)
def test_kernels_leave_flags_on_the_host(kernel, options):
    """Clearing them in a kernel would take a barrier of all blocks. The host clears them after the step."""
    stepper = make(2, kernel, **options).stepper(5, host=True)
    stepper.is_first[...] = flags = np.array([True, False, True, True, False])
    stepper._engine._graph.launch(cupy.cuda.get_current_stream())
    cupy.cuda.get_current_stream().synchronize()
    np.testing.assert_array_equal(stepper.is_first, flags)
    stepper.step()
    assert not stepper.is_first.any()


@pytest.mark.parametrize(("kernel", "options"), WAYS)
def test_any_flag_is_seen(kernel, options):
    """The first, the last, and one that isn't 1 in memory."""
    lstm = make(1, kernel, **options)
    x = inputs(lstm, 5)
    for row, value in itertools.product(range(5), (1, 255)):
        stepper, plain = lstm.stepper(5, host=True), lstm.stepper(5)
        for _ in range(2):
            stepper.step(x)
            plain.step(lstm.asarray(x))
        stepper.is_first.view(np.uint8)[row] = value
        got = stepper.step(x)
        assert bits(got) == bits(plain.step(lstm.asarray(x), np.arange(5) == row))
        assert bits_of(stepper.read()) == bits_of(plain.read())


# Numbers.


def assert_as_on_device(lstm, B, reset_to=None, steps=6):
    """Step with changing inputs, flags and streams, and compare with a Stepper on the device, bit for bit."""
    stepper, plain = lstm.stepper(B, host=True, reset_to=reset_to), lstm.stepper(B, reset_to=reset_to)
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    kept = []
    for k in range(steps):
        x, first = inputs(lstm, B, k), np.arange(B) % 3 == k % 3 if k % 2 else None
        with streams[k % 2]:
            got = stepper.step(x, first, copy=k % 3 == 1)
        want = host(plain.step(lstm.asarray(x), first))
        assert bits(got) == bits(want)
        kept.append((got, want) if k % 3 == 1 else (got.copy(), want))
    assert all(bits(got) == bits(want) for got, want in kept)
    assert bits_of(stepper.read()) == bits_of(plain.read())
    stepper.write(stepper.read())
    assert bits(stepper.step(x)) == bits(host(plain.step(lstm.asarray(x))))
    stepper.reset()
    plain.reset()
    assert bits(stepper.step()) == bits(host(plain.step()))


@pytest.mark.sampled
@pytest.mark.parametrize(("kernel", "dtype", "precision"), [*FORCED, ("matmul", "float32", "highest")])
@pytest.mark.parametrize("options", [{}, PROJECTED])
@pytest.mark.parametrize("B", [3, 70])
def test_bits_are_those_on_the_device(kernel, dtype, precision, options, B):
    lstm = make(2, kernel, dtype=dtype, precision=precision, **options)
    reset_to = tuple(lstm.zero_state(1)) if B == 3 else None
    assert_as_on_device(lstm, B, reset_to)


@pytest.mark.parametrize("kernel", ["simt", "matmul"])
@pytest.mark.parametrize("B", [3, 70])
def test_bits_of_residual_layers(kernel, B):
    assert_as_on_device(make(2, kernel, **RESIDUAL), B)


@pytest.mark.parametrize("kernel", ["simt", "matmul"])
def test_bits_with_a_copy_of_x(kernel):
    assert_as_on_device(make(1, kernel, sizes=(130, 70)), 40)


@pytest.mark.parametrize("kernel", ["simt", "matmul"])
def test_new_weights_count_for_host_buffers(kernel):
    lstm = make(1, kernel)
    stepper, x = lstm.stepper(5, host=True), inputs(lstm, 5)
    stepper.step(x)
    new = StackedWeights.random(7, 12, 1, seed=1)
    lstm.set_weights(new)
    stepper.reset()
    other = LSTM(new, backend="cuda", kernel=kernel).stepper(5, host=True)
    assert bits(stepper.step(x)) == bits(other.step(x))


@pytest.mark.parametrize("kernel", ["simt", "matmul"])
@pytest.mark.parametrize("options", [{}, {"proj_size": 4}, {"residual": True, "sizes": (12, 12)}])
def test_host_buffers_begin_as_zeros(kernel, options):
    """Making the graphs runs steps, but their output is cleared."""
    stepper = make(1, kernel, **options).stepper(5, host=True)
    cupy.cuda.Device().synchronize()
    for array in (stepper.x, stepper.output, stepper.is_first):
        assert type(array) is np.ndarray
        assert not array.any()
    assert not any(part.any() for state in stepper.read() for part in (state.h, state.c))


# Interrupts and memory.


class Interrupting(cupy.cuda.Stream):
    """A stream that raises KeyboardInterrupt when the host waits for it."""

    def synchronize(self):
        raise KeyboardInterrupt


def interrupt(stepper, *arguments):
    """Interrupt a step after it was queued. Return its stream, which may still run it."""
    stream = Interrupting(non_blocking=True)
    with stream, pytest.raises(KeyboardInterrupt):
        stepper.step(*arguments)
    return stream


@pytest.mark.parametrize("kernel", ["simt", "matmul"])
@pytest.mark.parametrize("name", ["write", "reset"])
def test_an_interrupted_step_may_still_run(kernel, name):
    """It may read new inputs and flags, and write an old output. The next step's state and output are right."""
    lstm = make(2, kernel)
    x, new = inputs(lstm, 5), inputs(lstm, 5, seed=1)
    stepper, plain = lstm.stepper(5, host=True), lstm.stepper(5)
    plain.step(lstm.asarray(x))
    state = tuple(each.to_numpy() for each in plain.read())
    for _ in range(2):
        plain.reset() if name == "reset" else plain.write(tuple(map(lstm_state(lstm), state)))
        interrupt(stepper, x, [True, False, True, False, True])
        stepper.reset() if name == "reset" else stepper.write(state)
        for first in ([False, True, True, False, False], None):
            got, want = stepper.step(new, first), plain.step(lstm.asarray(new), first)
            assert bits(got) == bits(host(want))
        assert bits_of(stepper.read()) == bits_of(plain.read())


def lstm_state(lstm):
    """Return a function that takes a state to the GPU."""
    return lambda state: type(state)(h=lstm.asarray(state.h), c=cupy.asarray(state.c))


@pytest.mark.parametrize("kernel", ["simt", "matmul"])
def test_host_buffers_outlive_queued_work(kernel):
    """If an interrupted Stepper is deleted, nothing else gets its pinned memory before the step is done."""
    from fusedlstm.backends.cuda.runtime import pinned

    lstm = make(1, kernel, sizes=(128, 128))
    settle()
    stepper = lstm.stepper(5, host=True)
    stream = interrupt(stepper, inputs(lstm, 5), [True] * 5)
    del stepper
    gc.collect()
    taken = [pinned.zeros((5, 128), np.dtype(np.float32)) for _ in range(4)]
    for array in taken:
        array.fill(7)
    super(Interrupting, stream).synchronize()
    assert all((array == 7).all() for array in taken)


def test_mapped_memory_stays_alive():
    from fusedlstm.backends.cuda.runtime import pinned

    array = pinned.mapped(pinned.zeros((1000,), np.dtype(np.float32)))
    gc.collect()
    for other in [pinned.zeros((1000,), np.dtype(np.float32)) for _ in range(4)]:
        other.fill(7)
    assert not (array + 0).get().any()


def test_mapped_memory_is_the_hosts():
    """Kernels read and write it, on every GPU."""
    from fusedlstm.backends.cuda.runtime import pinned

    for device in range(2):
        with cupy.cuda.Device(device):
            array = pinned.zeros((3, 4), np.dtype(np.float32))
            there = pinned.mapped(array)
            assert there.device.id == device
            assert there.data.ptr == array.ctypes.data
            array[...] = 1
            there += 1
            cupy.cuda.get_current_stream().synchronize()
            assert (array == 2).all()
