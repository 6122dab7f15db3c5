"""Whole sequences on the emulated GPU: what each chunk's graph holds, what a call queues, and who owns the buffers."""

import collections
import threading

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, StackedWeights
from fusedlstm.backends.cuda import chunked_sequence

from driver import memory, observe
from support.backends import BACKENDS
from support.on_emulated_gpu import bits, bits_of, needs_own_memory, nodes_of, settle

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the fake driver")

B, I, N = 3, 8, 8
STEP = ["matmul", "lstm_pointwise"]


def make(layers=2, *, kernel="matmul", seed=0, **options):
    backend = {name: options.pop(name) for name in ("batch_first", "batch_invariant") if name in options}
    return LSTM(StackedWeights.random(I, N, layers, seed=seed, **options), backend="cuda", kernel=kernel, **backend)


def arguments(lstm, T, rows=B, seed=0):
    """Return random xs and states on the GPU."""
    rng = np.random.default_rng(seed)
    xs = lstm.asarray(rng.normal(size=(rows, T, I) if lstm.batch_first else (T, rows, I)))
    states = tuple(
        LSTMState(h=lstm.asarray(rng.uniform(-1, 1, s.h.shape)), c=lstm.asarray(rng.normal(size=s.c.shape), s.c.dtype))
        for s in lstm.zero_state(rows)
    )
    return xs, states


def parts(lstm):
    return [sequence for group in lstm._layers._sequence._groups for _, sequence in group]


def graphs(lstm, part=0):
    """Return the graphs that one part keeps, by their numbers of steps: those used last."""
    return parts(lstm)[part]._free[-1]._by_steps


def bits_of_call(called):
    return bits(called[0]), bits_of(called[1])


def by_steps(lstm, xs, states, **options):
    """Return what single steps give: outputs (T, B, width), and the last states."""
    outputs = []
    for t, x in enumerate(xs):
        more = {name: array[t] if name == "is_first" else array for name, array in options.items()}
        output, states = lstm.step(x, states, **more)
        outputs.append(output)
    return cupy.stack(outputs), states


@pytest.mark.parametrize(
    ("T", "most", "wanted"),
    [
        (1, 64, [1]),
        (7, 64, [4, 2, 1]),
        (63, 64, [32, 16, 8, 4, 2, 1]),
        (64, 64, [64]),
        (1000, 64, [64] * 15 + [32, 8]),
        (33, 16, [16, 16, 1]),
        (5, 1, [1] * 5),
    ],
)
def test_chunks_cover_all_steps(T, most, wanted):
    from fusedlstm.backends.cuda.chunked_sequence import chunks

    found = list(chunks(T, most))
    assert [steps for _, steps in found] == wanted
    assert [start for start, _ in found] == [0, *np.cumsum(wanted)[:-1]]


@pytest.mark.parametrize(
    ("kernel", "options", "before", "step", "after"),
    [
        ("matmul", {}, ["matmul"], STEP, []),
        ("matmul", {"proj_size": 4, "peephole": True}, ["matmul"], [*STEP, "matmul", "lstm_finish"], []),
        ("matmul", {"zoneout_h": 0.1}, ["matmul"], [*STEP, "lstm_finish"], []),
        ("simt", {}, [], ["lstm_step"], []),
    ],
)
@pytest.mark.parametrize("flags", [False, True])
def test_a_chunks_graph(flags, kernel, options, before, step, after):
    """A layer is one product for x, then a product and a launch for each step, or one launch. Flags add no node."""
    lstm = make(kernel=kernel, **options)
    xs, states = arguments(lstm, 4)
    lstm(xs, states, is_first=np.ones((4, B), bool) if flags else None)
    assert nodes_of(graphs(lstm)[4]) == (before + step * 4 + after) * 2


@pytest.mark.parametrize(("steps", "wanted"), [(16, {16: 1, 4: 1, 2: 1, 1: 1}), (5, {4: 5, 2: 1, 1: 1}), (0, {1: 23})])
def test_the_buffers_of_a_graph_are_bounded(steps, wanted, monkeypatch):
    """A chunk has at most so many steps, or one step."""
    monkeypatch.setattr("fusedlstm.backends.cuda.static_sequence._MOST_BUFFERS", steps * B * (I + 2 * N) * 4)
    lstm = make()
    xs, states = arguments(lstm, 23)
    lstm(xs, states)
    assert set(graphs(lstm)) == set(wanted)
    observe.clear()
    lstm(xs, states)
    assert [entry.kind for entry in observe.log()].count("graph") == sum(wanted.values())


@pytest.mark.parametrize(("steps", "products"), [(16, [16]), (7, [7, 7, 2]), (0, [1] * 16)])
def test_the_gates_of_a_graph_are_bounded(steps, products, monkeypatch):
    """A product multiplies the x of at most so many steps, or of one step."""
    monkeypatch.setattr("fusedlstm.backends.cuda.static_sequence._MOST_GATES", steps * B * 4 * N * 4)
    lstm = make(1)
    xs, states = arguments(lstm, 16)
    assert bits_of_call(lstm(xs, states)) == bits_of_call(by_steps(lstm, xs, states))
    assert nodes_of(graphs(lstm)[16]) == [node for count in products for node in ["matmul", *STEP * count]]


LAUNCHES = {1: 1, 7: 3, 64: 1, 1000: 17}  # of graphs, for one direction


@needs_own_memory
@pytest.mark.parametrize("T", LAUNCHES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_what_a_call_queues(bidirectional, T):
    """Besides graphs, a call queues two copies a chunk and four a layer. It doesn't wait, and its results are new."""
    lstm = make(bidirectional=bidirectional)
    xs, states = arguments(lstm, T)
    lstm(xs, states)
    made = memory.made()
    observe.clear()
    results = lstm(xs, states)
    kinds = collections.Counter((entry.kind, entry.what if entry.kind == "launch" else "") for entry in observe.log())
    runs, cells = (4, 4) if bidirectional else (1, 2)
    assert kinds == {("graph", ""): runs * LAUNCHES[T], ("launch", "memcpy2D"): runs * LAUNCHES[T] * 2 + cells * 4}
    assert {entry.stream for entry in observe.log()} == {0}
    assert memory.made() - made == 1 + 2 * cells + bidirectional  # and the outputs of the lower layer
    del results


@needs_own_memory
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("place", ["host", "device"])
def test_what_flags_add_to_a_call(place, bidirectional):
    """A chunk's flags are one launch. The host waits for nothing, wherever lengths, masks and flags are."""
    lstm, rng, T = make(bidirectional=bidirectional), np.random.default_rng(0), 7
    xs, states = arguments(lstm, T)
    is_first, reset_to = rng.random((T, B)) < 0.3, arguments(lstm, 1, 1)[1]
    given = {"lengths": np.array([7, 0, 3]), "is_first": is_first}
    given = {name: lstm.xp.asarray(array) for name, array in given.items()} if place == "device" else given
    for rule in ("zero", "last"):
        lstm(xs, states, masked_outputs=rule, reset_to=reset_to, **given)
        made = memory.made()
        observe.clear()
        results = lstm(xs, states, masked_outputs=rule, reset_to=reset_to, **given)
        log = observe.log()
        runs, cells = (4, 4) if bidirectional else (1, 2)
        assert [entry.kind for entry in log].count("graph") == runs * LAUNCHES[T]
        assert [entry.name for entry in log].count("lstm_sequence_flags") == runs * LAUNCHES[T]
        assert [entry.what for entry in log].count("matmul") == cells, "one for the states that rows are reset to"
        assert {entry.kind for entry in log} <= {"launch", "graph", "record"}
        assert memory.made() - made == 1 + 2 * cells + bidirectional + (2 if place == "host" else 0)
        del results


@pytest.mark.parametrize("kernel", ["matmul", "simt", "tensor_small"])
@pytest.mark.parametrize("T", [1, 7, 69])
def test_sequences_are_steps(T, kernel):
    """Graphs give the bits of single steps, with and without resets, whatever the chunks."""
    lstm = make(kernel=kernel, residual=True, dtype="bfloat16" if kernel == "tensor_small" else "float32")
    xs, states = arguments(lstm, T)
    is_first = np.random.default_rng(1).random((T, B)) < 0.3
    reset_to = arguments(lstm, 1, 1, seed=2)[1]
    for options in ({}, {"is_first": is_first}, {"is_first": is_first, "reset_to": reset_to}):
        assert bits_of_call(lstm(xs, states, **options)) == bits_of_call(by_steps(lstm, xs, states, **options))


@pytest.mark.parametrize("rule", ["zero", "last"])
@pytest.mark.parametrize("shape", ["forward", "reverse", "bidirectional"])
def test_chunks_of_any_size_agree(shape, rule, monkeypatch):
    """Chunks of one step give the bits of larger ones: h, c, resets and last outputs are carried between them."""
    rng, T, found = np.random.default_rng(0), 23, []
    is_first, lengths = rng.random((T, B)) < 0.3, np.array([23, 0, 9])
    for gates, buffers in ((1 << 24, 1 << 24), (1, 1), (5 * B * 4 * N * 4, 1 << 24)):
        monkeypatch.setattr("fusedlstm.backends.cuda.static_sequence._MOST_GATES", gates)
        monkeypatch.setattr("fusedlstm.backends.cuda.static_sequence._MOST_BUFFERS", buffers)
        lstm = make(bidirectional=shape == "bidirectional")
        xs, states = arguments(lstm, T)
        about = {"is_first": is_first, "lengths": lengths, "masked_outputs": rule, "reverse": shape == "reverse"}
        found.append(bits_of_call(lstm(xs, states, **about)))
    assert found[0] == found[1] == found[2]


def test_outputs_are_written_in_place():
    """Neither the order of axes nor the halves of two directions take a copy of all outputs."""
    lstm = make(1, bidirectional=True, batch_first=True)
    xs, states = arguments(lstm, 16)
    lstm(xs, states)
    made = memory.made()
    results = lstm(xs, states)
    assert memory.made() - made <= 5
    del results


def test_graphs_are_bounded():
    """The graphs of 8 forms are kept, and those used last stay."""
    lstm = make()
    for rows in range(1, 10):
        lstm(*arguments(lstm, 5, rows))
    kept = parts(lstm)[0]._free
    assert [each.form.B for each in kept] == [2, 3, 4, 5, 6, 7, 8, 9]
    lstm(*arguments(lstm, 5, 2))
    lstm(*arguments(lstm, 5, 1))
    assert [each.form.B for each in kept] == [4, 5, 6, 7, 8, 9, 2, 1]


def test_forms_in_turn_capture_once(monkeypatch):
    """Calls of several forms, each with several sizes of chunks, find their graphs again."""
    lstm, calls = make(), []
    for rows in (1, 2, 3):
        lstm(*arguments(lstm, 23, rows))
    monkeypatch.setattr(chunked_sequence, "captured", calls.append)
    for rows in (1, 2, 3):
        lstm(*arguments(lstm, 23, rows))
    assert not calls


@needs_own_memory
def test_dropped_graphs_are_freed():
    """The buffers of an LSTM and of dropped graphs are freed, once their work is done."""
    make()(*arguments(make(), 5))
    settle()
    alive = memory.alive()
    lstm = make()
    for rows in range(1, 9):
        lstm(*arguments(lstm, 23, rows))
    del lstm
    settle()
    assert memory.alive() == alive


def test_buffers_outlive_their_lstm():
    """The stream that made the buffers doesn't reuse their memory before another stream's call is done."""
    lstm = make()
    xs, states = arguments(lstm, 7)
    settle()
    one, two = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    with one:
        wanted = bits_of_call(lstm(xs, states))
    settle()
    with two:
        called = lstm(xs, states)
    del lstm
    with one:
        taken = [cupy.zeros((size,), np.float32) for size in (128, 7 * 128, 16 * N * N) for _ in range(20)]
        one.synchronize()
    with two:
        assert bits_of_call(called) == wanted
    assert not any(each.any() for each in taken)


def test_set_weights_reach_graphs():
    """Graphs read the weights in place, and the states that rows are reset to are multiplied anew."""
    lstm, other = make(), make(seed=1)
    xs, states = arguments(lstm, 7)
    options = {"is_first": np.random.default_rng(1).random((7, B)) < 0.3, "reset_to": arguments(lstm, 1, 1, seed=2)[1]}
    lstm(xs, states, **options)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        lstm.set_weights(other.weights)
    assert bits_of_call(lstm(xs, states, **options)) == bits_of_call(other(xs, states, **options))


def test_weights_wait_for_sequences():
    """New weights on another stream don't reach a call that was queued before."""
    lstm, other = make(), make(seed=1)
    xs, states = arguments(lstm, 7)
    wanted = bits_of_call(lstm(xs, states))
    one, two = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    settle()
    with one:
        called = lstm(xs, states)
    with two:
        lstm.set_weights(other.weights)
        two.synchronize()
    with one:
        assert bits_of_call(called) == wanted


def test_weights_wait_for_dropped_graphs():
    """They do so even if nothing else needs the call's graphs any more."""
    lstm, other = make(), make(seed=1)
    xs, states = arguments(lstm, 7)
    wanted = bits_of_call(lstm(xs, states))
    settle()
    one, two = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    with one:
        called = lstm(xs, states)
    parts(lstm)[0]._free.clear()
    with two:
        lstm.set_weights(other.weights)
        two.synchronize()
    with one:
        assert bits_of_call(called) == wanted


def test_new_buffers_wait_for_weights():
    """The first call with a new number of rows is on a stream other than that of new weights."""
    lstm, other = make(), make(seed=1)
    xs, states = arguments(lstm, 7)
    wanted = bits_of_call(other(xs, states))
    settle()
    one, two = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    with one:
        lstm.set_weights(other.weights)
    with two:
        assert bits_of_call(lstm(xs, states)) == wanted


def test_calls_on_two_streams():
    """A call waits for an earlier one on the same buffers, on any stream."""
    lstm, calls = make(), []
    cases = [arguments(lstm, 7, seed=seed) for seed in range(4)]
    flags = [np.random.default_rng(seed).random((7, B)) < 0.3 for seed in range(4)]
    wanted = [bits_of_call(lstm(*case, is_first=is_first)) for case, is_first in zip(cases, flags, strict=True)]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    settle()
    for k, (case, is_first) in enumerate(zip(cases, flags, strict=True)):
        with streams[k % 2]:
            calls.append(lstm(*case, is_first=is_first))
    for k, called in enumerate(calls):
        with streams[k % 2]:
            assert bits_of_call(called) == wanted[k]


def test_a_call_inside_a_call(monkeypatch):
    """A call in the middle of another one, as in a signal handler, gets its own buffers."""
    from fusedlstm.backends.cuda import chunked_sequence

    lstm = make()
    cases = [arguments(lstm, 7, seed=seed) for seed in range(2)]
    wanted, inner, copy = [bits_of_call(lstm(*case)) for case in cases], [], chunked_sequence.copy_steps

    def interrupted(*both):
        if not inner:
            inner.append(None)
            inner[0] = lstm(*cases[1])
        copy(*both)

    monkeypatch.setattr(chunked_sequence, "copy_steps", interrupted)
    assert bits_of_call(lstm(*cases[0])) == wanted[0]
    assert bits_of_call(inner[0]) == wanted[1]


def test_threads_call_at_once():
    lstm = make()
    cases = [arguments(lstm, 7, seed=seed) for seed in range(3)]
    wanted = [bits_of_call(lstm(*case)) for case in cases]
    settle()
    got = [[] for _ in cases]

    def work(k):
        with cupy.cuda.Stream(non_blocking=True):
            for _ in range(8):
                got[k].append(bits_of_call(lstm(*cases[k])))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [[each] * 8 for each in wanted]


def test_a_failed_call_leaves_no_trace(monkeypatch):
    """A call that raises between two chunks doesn't change the next one."""
    from fusedlstm.backends.cuda import chunked_sequence

    lstm = make()
    xs, states = arguments(lstm, 7)
    wanted, copies, copy = bits_of_call(lstm(xs, states)), [], chunked_sequence.copy_steps

    def failing(*both):
        copies.append(None)
        if len(copies) == 3:
            raise KeyboardInterrupt
        copy(*both)

    with monkeypatch.context() as patched:
        patched.setattr(chunked_sequence, "copy_steps", failing)
        with pytest.raises(KeyboardInterrupt):
            lstm(xs, states)
    assert bits_of_call(lstm(xs, states)) == wanted
    assert len(parts(lstm)[0]._free) == 1


def test_calls_without_graphs_keep_nothing(monkeypatch):
    """If no graph can be captured, the buffers are freed: nothing else would free them."""
    from fusedlstm.backends.cuda import chunked_sequence

    def failing(queue):
        raise MemoryError

    lstm = make()
    monkeypatch.setattr(chunked_sequence, "captured", failing)
    for rows in (1, 2):
        with pytest.raises(MemoryError):
            lstm(*arguments(lstm, 7, rows))
    assert not parts(lstm)[0]._free


def test_another_thread_takes_the_uploads(monkeypatch):
    """A call whose uploads are taken in between makes its own."""

    class Taken(list):
        def pop(self):
            self.clear()
            return super().pop()

    lstm = make()
    xs, states = arguments(lstm, 7)
    wanted = bits_of_call(lstm(xs, states, lengths=[1, 7, 3]))
    monkeypatch.setattr(lstm._layers._sequence, "_uploads", Taken(lstm._layers._sequence._uploads))
    assert bits_of_call(lstm(xs, states, lengths=[1, 7, 3])) == wanted


def test_a_captured_call_is_refused():
    """A user's graph would hold buffers that other calls use."""
    lstm = make()
    xs, states = arguments(lstm, 7)
    wanted = bits_of_call(lstm(xs, states))
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        try:
            with pytest.raises(RuntimeError, match="^an LSTM's call on sequences can't be captured"):
                lstm(xs, states)
        finally:
            stream.end_capture()
    assert bits_of_call(lstm(xs, states)) == wanted


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "uint64"])
def test_lengths_on_the_device_are_clamped(dtype):
    lstm, T = make(), 7
    xs, states = arguments(lstm, T)
    low = -1 if dtype.startswith("int") else 0
    lengths = cupy.asarray(np.array([low, 200, 3]).astype(dtype))
    assert bits_of_call(lstm(xs, states, lengths=lengths)) == bits_of_call(lstm(xs, states, lengths=[0, 7, 3]))
    row, value = (0, -1) if low else (1, 200)
    with pytest.raises(ValueError, match=f"^lengths: wanted lengths from 0 to T = 7; got {value} for row {row}"):
        lstm(xs, states, lengths=lengths, strict=True)
    lstm(xs, states, lengths=cupy.minimum(cupy.maximum(lengths, lengths.dtype.type(0)), 7), strict=True)


def test_arguments_of_another_gpu_are_refused():
    lstm = make()
    xs, states = arguments(lstm, 7)
    with cupy.cuda.Device(1):
        lengths, mask = cupy.zeros(B, np.int64), cupy.ones((7, B), bool)
    with pytest.raises(ValueError, match="^lengths: wanted an array on cuda:0; got one on cuda:1"):
        lstm(xs, states, lengths=lengths)
    with pytest.raises(ValueError, match="^mask: wanted an array on cuda:0; got one on cuda:1"):
        lstm(xs, states, mask=mask)


def test_the_kernel_is_the_cells():
    """Each layer that doesn't scan uses the kernel of a cell of its sizes."""
    lstm = LSTM(StackedWeights.random(I, 136, 2, proj_size=N, seed=0, dtype="bfloat16"), backend="cuda")
    cell = LSTMCell(lstm.weights.layers[0], backend="cuda")
    for rows in (1, 100, 100_000):
        assert lstm.kernels(7, rows)[0] == cell._engine.kernel_for(rows)
