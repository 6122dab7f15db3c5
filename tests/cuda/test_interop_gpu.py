"""Arrays of other libraries on the emulated GPU: stream order, lifetime of memory, two devices."""

import contextlib
import gc
import itertools
import types
import weakref

import ml_dtypes
import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, lstm_pointwise
from fusedlstm.arrays.exchange import Exchange
from fusedlstm.backends.select import backend_of

from driver import observe
from support import moments
from support.backends import BACKENDS
from support.foreign import B, Case, I, N, bits
from support.gpu_libraries import pretended_torch
from support.gpu_libraries.dlpack import Immutable, OnlyDlpack, WithNamespace
from support.gpu_libraries.interface import OnlyInterface
from support.on_emulated_gpu import assert_after

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
CUDARuntimeError = cupy.cuda.runtime.CUDARuntimeError
pytestmark = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the emulated GPU")

DTYPES = ["float64", "float32", "float16", "bfloat16"]


@pytest.fixture
def torch(monkeypatch):
    """Return the pretended PyTorch, with its default stream current."""
    with pretended_torch.installed(monkeypatch) as torch:
        yield torch


def own_stream(torch, device=0):
    """Give PyTorch a current stream of its own on a GPU. Return its handle."""
    with cupy.cuda.Device(device):
        stream = cupy.cuda.Stream(non_blocking=True)
    torch.cuda.set_stream(stream, device)
    return stream.ptr


def tensors(case, device=0):
    with cupy.cuda.Device(device):
        x, h, c = (pretended_torch.Tensor(cupy.asarray(a)) for a in (case.x, case.h, case.c))
        cupy.cuda.Device().synchronize()  # CuPy's stream made them, and PyTorch's will use them
    return x, LSTMState(h=h, c=c)


def kinds():
    return [entry.kind for entry in observe.log()]


def launches():
    """Return the streams that work was launched on."""
    return {entry.stream for entry in observe.log() if entry.kind == "launch"}


def first_and_last_launch():
    """Return their places in the log."""
    places = [place for place, kind in enumerate(kinds()) if kind == "launch"]
    return places[0], places[-1]


@pytest.mark.parametrize("own", [False, True])
def test_torch_runs_on_its_current_stream(torch, own):
    """All work is on that stream, so it needs no event. CuPy's current stream stays."""
    case = Case("cuda")
    handle = own_stream(torch) if own else 0
    x, state = tensors(case)
    gates = torch.Tensor(cupy.zeros((B, 4 * N), np.float32))
    observe.clear()
    got = case.cell(x, state)
    assert launches() == {handle}
    assert set(kinds()) == {"launch"}
    assert cupy.cuda.get_current_stream().ptr == 0
    case.cell.zero_state(B, like=x)
    lstm_pointwise(gates, state.c)
    case.cell(x, state, out=got, is_first=[True] * B)
    assert launches() == {handle}


def test_default_stream_handles_are_equal(torch):
    """0 and cudaStreamLegacy are two handles of one stream."""
    case = Case("cuda")
    torch.cuda.set_stream(types.SimpleNamespace(ptr=cupy.cuda.runtime.streamLegacy))
    x, state = tensors(case)
    observe.clear()
    case.cell(x, LSTMState(h=state.h.array, c=state.c))
    assert launches() == {0}
    assert set(kinds()) == {"launch"}


def test_cupy_runs_on_its_own_current_stream(torch):
    case = Case("cuda")
    x, state = tensors(case)
    stream = cupy.cuda.Stream()
    observe.clear()
    with stream:
        case.cell(x.array, LSTMState(h=state.h.array, c=state.c.array))
    assert launches() == {stream.ptr}
    assert set(kinds()) == {"launch"}


@pytest.mark.parametrize("argument", ["state", "is_first", "reset_to", "out"])
@pytest.mark.parametrize("ours", ["torch", "cupy"])
def test_streams_of_other_arguments(torch, ours, argument):
    """The work waits for the other library's current stream, which then waits for the work."""
    case = Case("cuda")
    handle = own_stream(torch)
    mine, other = (handle, 0) if ours == "torch" else (0, handle)

    def of(array, library):
        array = cupy.asarray(array)
        return torch.Tensor(array) if library == "torch" else array

    theirs = {"torch": "cupy", "cupy": "torch"}[ours]
    place = dict.fromkeys(("state", "is_first", "reset_to", "out"), ours) | {argument: theirs}
    options = {
        "is_first": of(case.first, place["is_first"]),
        "reset_to": LSTMState(h=of(case.reset_h, place["reset_to"]), c=of(case.reset_c, place["reset_to"])),
        "out": LSTMState(h=of(case.h, place["out"]), c=of(case.c, place["out"])),
    }
    x, state = of(case.x, ours), LSTMState(h=of(case.h, place["state"]), c=of(case.c, place["state"]))
    observe.clear()
    case.cell(x, state, **options)
    assert launches() == {mine}
    first, last = first_and_last_launch()
    assert assert_after(other, mine) < first
    assert_after(mine, other, last)
    assert kinds().count("wait") == 2, "each stream should wait once, however many arrays there are"


@pytest.mark.parametrize("kind", [LSTMCell, LSTM])
def test_weights_are_set_in_order(torch, kind):
    """They are set on CuPy's stream, after PyTorch's earlier work and before its next."""
    weights = LSTMWeights.random(I, N, seed=0)
    made = kind(weights, backend="cuda")
    handle = own_stream(torch)
    observe.clear()
    made.set_weights(weights)
    assert launches() == {0}
    first, last = first_and_last_launch()
    assert assert_after(handle, 0) < first
    assert_after(0, handle, last)


def test_a_failed_call_restores_streams(torch):
    case = Case("cuda")
    own_stream(torch)
    x, state = tensors(case)
    with pytest.raises(ValueError, match="state"):
        case.cell(x, LSTMState(h=state.h, c=state.c[:1]))
    assert cupy.cuda.get_current_stream().ptr == 0
    assert cupy.cuda.Device().id == 0


def test_a_failed_ordering_restores_streams(torch, monkeypatch):
    case = Case("cuda")
    own_stream(torch)
    x, state = tensors(case)

    def wait(self, event):
        if self.ptr == 0:  # the wait that comes after the work
            raise CUDARuntimeError(999)

    monkeypatch.setattr(cupy.cuda.stream._BaseStream, "wait_event", wait)
    with cupy.cuda.Device(1), pytest.raises(CUDARuntimeError):
        case.cell(x, LSTMState(h=state.h.array, c=state.c))
    assert cupy.cuda.get_current_stream(0) is cupy.cuda.Stream.null
    assert cupy.cuda.Device().id == 0


@pytest.mark.parametrize("entered", [False, True])
def test_a_stream_made_current_by_use_stays(torch, entered):
    """A call enters and leaves another library's stream without changing it."""
    case = Case("cuda")
    own_stream(torch)
    x, state = tensors(case)
    used = cupy.cuda.Stream()
    with cupy.cuda.Stream() if entered else contextlib.nullcontext():
        used.use()
        case.cell(x, state)
        assert cupy.cuda.get_current_stream() is used
    cupy.cuda.Stream.null.use()


def test_dlpack_gets_our_stream(torch):
    """The producer orders our stream after its own. A consumer orders its own after ours."""
    case = Case("cuda")
    handle = own_stream(torch)
    x, state = tensors(case)
    theirs, stream = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    h = Immutable(state.h.array, theirs)
    observe.clear()
    case.cell(x, LSTMState(h=h, c=state.c))
    assert h.asked == [handle]
    assert_after(theirs.ptr, handle)
    x = WithNamespace(x.array, theirs)
    observe.clear()
    with stream:
        case.cell(x, LSTMState(h=h, c=state.c.array))
    assert launches() == {stream.ptr}
    assert h.asked == [handle, stream.ptr]
    assert_after(stream.ptr, theirs.ptr, first_and_last_launch()[1])


def test_dlpack_inputs_live_until_work_is_done(torch, monkeypatch):
    """Their library can't be made to wait before it reuses the memory."""
    from fusedlstm.backends.cuda.runtime import streams as ours

    gc.collect()  # other tests' garbage may be kept until its work is done, too
    ours._unfinished.clear()
    case = Case("cuda")
    done = []
    monkeypatch.setattr(cupy.cuda.runtime, "eventQuery", lambda event: 0 if done else 600)
    memory = cupy.asarray(case.h)
    noted = weakref.ref(memory)
    h = OnlyDlpack(memory)
    x, state = tensors(case)
    case.cell(x, LSTMState(h=h, c=state.c))
    del h, memory
    gc.collect()
    assert noted() is not None, "the array should stay while work may read it"
    assert len(ours._unfinished) == 1
    case.cell(x, state)
    assert len(ours._unfinished) == 1
    done.append(True)
    case.cell(x, state)
    gc.collect()
    assert not ours._unfinished
    assert noted() is None
    done.clear()
    case.cell.asarray(OnlyDlpack(cupy.asarray(case.h)), "float64")
    assert len(ours._unfinished) == 1, "the array should stay while the cast may read it"
    ours._unfinished.clear()


def test_kept_arrays_are_released_in_order(monkeypatch):
    """Release arrays up to the first unfinished one, without querying later events.

    Work that has failed counts as finished.
    """
    from fusedlstm.backends.cuda.runtime import streams as ours

    ours._unfinished.clear()
    events = [cupy.cuda.Event() for _ in range(6)]
    for event in events:
        ours._keep_until(event, [np.zeros(1)])
    asked, status = [], {events[0].ptr: 0, events[1].ptr: 700, events[3].ptr: 600}

    def query(event):
        asked.append(event)
        if event == events[2].ptr:
            raise CUDARuntimeError(709)
        return status[event]

    monkeypatch.setattr(cupy.cuda.runtime, "eventQuery", query)
    ours._release_finished()
    assert [kept.event for kept in ours._unfinished] == events[3:]
    assert asked == [event.ptr for event in events[:4]]
    ours._unfinished.clear()


def test_freeing_an_array_may_enter_again():
    from fusedlstm.backends.cuda.runtime import streams as ours

    class Reentrant:
        def __del__(self):
            ours._release_finished()
            freed.append(len(ours._unfinished))

    freed = []
    ours._unfinished.clear()
    for _ in range(3):
        ours._keep_until(cupy.cuda.Event(), [Reentrant()])
    ours._release_finished()
    assert freed == [0, 0, 0]


def test_interrupts_dont_stop_releases(monkeypatch):
    """Whenever a release is interrupted, the next one frees what is done, and only that."""
    from fusedlstm.backends.cuda.runtime import streams as ours

    gc.collect()  # other tests' garbage may be kept until its work is done, too
    events = [cupy.cuda.Event() for _ in range(4)]
    monkeypatch.setattr(cupy.cuda.runtime, "eventQuery", lambda event: 600 if event == events[2].ptr else 0)
    for moment in itertools.count(1):
        ours._unfinished.clear()
        for event in events:
            ours._keep_until(event, [np.zeros(1)])
        outcome = moments.interrupted(ours._release_finished, moment)
        ours._release_finished()
        assert [kept.event for kept in ours._unfinished] == events[2:]
        if outcome is None:
            break
    ours._unfinished.clear()
    assert moment > 3


@pytest.mark.parametrize("argument", ["x", "h", "first", "out"])
def test_streams_of_the_interface_are_ordered(argument):
    """A stream named by the interface is ordered before and after the work. The host doesn't wait."""
    case = Case("cuda")
    theirs = cupy.cuda.Stream(non_blocking=True)

    def named(name, array):
        return OnlyInterface(cupy.asarray(array), stream=theirs) if name == argument else cupy.asarray(array)

    made = {name: named(name, getattr(case, name)) for name in ("x", "h", "c", "first", "reset_h", "reset_c")}
    target = case.out(lambda array: named("out", array))
    observe.clear()
    case.call(None, out=target, **{name: lambda _, array=array: array for name, array in made.items()})
    assert "synchronize" not in kinds()
    assert launches() == {0}
    first, last = first_and_last_launch()
    assert assert_after(theirs.ptr, 0) < first
    assert_after(0, theirs.ptr, last)


@pytest.mark.parametrize("kind", [OnlyDlpack, WithNamespace, OnlyInterface])
@pytest.mark.parametrize("own", [False, True])
def test_out_of_a_library_without_a_known_stream(torch, kind, own):
    """The host waits after the last launch, so `out` is complete on return. It doesn't wait for inputs."""
    case = Case("cuda")
    handle = own_stream(torch) if own else 0
    x, state = tensors(case)
    theirs = LSTMState(h=kind(state.h.array), c=kind(state.c.array))
    target = case.out(lambda array: kind(cupy.asarray(array)))
    observe.clear()
    case.cell(x, theirs)
    assert "synchronize" not in kinds()
    case.cell(x, state, out=target)
    assert [entry.stream for entry in observe.log() if entry.kind == "synchronize"] == [handle]
    assert kinds().index("synchronize") > first_and_last_launch()[1]


def test_an_interface_is_viewed_once(torch, monkeypatch):
    """One view is created, though the array's GPU is known only from a view."""
    case = Case("cuda")
    backend, seen = case.cell._backend, []
    view = type(backend).from_interface
    monkeypatch.setattr(type(backend), "from_interface", lambda *of: seen.append(of) or view(*of))
    x, state = tensors(case)
    case.cell(OnlyInterface(x.array), LSTMState(h=state.h.array, c=state.c.array))
    assert len(seen) == 1


def test_the_current_stream_is_asked_for_once(torch):
    case = Case("cuda")
    x, state = tensors(case)
    options = {"is_first": torch.Tensor(cupy.asarray(case.first)), "out": case.out(lambda a: tensor_of(torch, a))}
    for first in (x, x.array):
        torch.asked.clear()
        case.cell(first, state, **options)
        assert torch.asked == [0]


def tensor_of(torch, array):
    return torch.Tensor(cupy.asarray(array))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [0, B])
def test_torch_results_are_torchs_own_tensors(torch, monkeypatch, dtype, batch):
    """They are not exports of CuPy's, so PyTorch frees them in the order of its streams."""
    monkeypatch.setattr(torch, "from_dlpack", None)
    case = Case("cuda", dtype, batch=batch)
    x, state = tensors(case)
    torch.made.clear()
    results = [case.cell(x, state), case.cell.zero_state(batch, like=x)]
    if batch:
        narrow = torch.Tensor(cupy.zeros((batch, 4 * N), case.x.dtype))
        results.append(lstm_pointwise(narrow, state.c))
    lent = [array for result in results for array in (result.h, result.c)]
    assert [id(array) for array in lent] == [id(array()) for array in torch.made]
    assert [array.shape for array in lent] == [(batch, N)] * len(lent)
    assert [array.dtype for array in lent] == [state.h.dtype, state.c.dtype] * len(results)


def test_torch_results_of_layers(torch, monkeypatch):
    """Tensors are made for results alone."""
    monkeypatch.setattr(torch, "from_dlpack", None)
    lstm = LSTM(StackedWeights.random(I, N, 2, seed=0), backend="cuda")
    xs = torch.Tensor(cupy.zeros((6, B, I), np.float32))
    torch.made.clear()
    outputs, states = lstm(xs)
    assert {id(array()) for array in torch.made} == {
        id(outputs),
        *(id(array) for state in states for array in (state.h, state.c)),
    }
    output, news = lstm.step(xs[0], states)
    assert output is news[-1].h


def test_arrays_that_are_not_lent_are_freed(torch):
    """They are freed before the call ends. A view is lent as another tensor over the memory."""
    case = Case("cuda", "bfloat16")
    x, _ = tensors(case)
    torch.made.clear()
    with Exchange(case.cell._backend, x) as exchange:
        array = exchange.empty((B, N), np.dtype(np.float32))
        view = exchange.lend(array[1:])
        assert view.data_ptr() == array[1:].data.ptr
        assert exchange.lend(array) is exchange.lend(array) is torch.made[0]()
        del view
        gc.collect()
        del array
        assert torch.made[0]() is None
        assert not exchange._made


def test_negative_bit_tensors_are_refused(torch):
    """The memory of such a tensor holds other numbers than the tensor shows."""
    case = Case("cuda")
    x, state = tensors(case)
    negative = torch.Tensor(x.array, negative=True)
    message = r"^x: wanted an array whose memory can be shared; got a .*Tensor: its negative bit is set"
    with pytest.raises(TypeError, match=message):
        case.cell(negative, state)
    with pytest.raises(TypeError, match=message):
        case.cell.asarray(negative)
    np.testing.assert_array_equal(Case("numpy").cell.asarray(negative), -case.x)


def test_read_only_interfaces():
    case = Case("cuda")
    x, h, c = (cupy.asarray(a) for a in (case.x, case.h, case.c))
    target = LSTMState(h=cupy.zeros(h.shape, "f4"), c=OnlyInterface(cupy.zeros(c.shape, "f4"), read_only=True))
    with pytest.raises(ValueError, match=r"^out\.c: wanted an array that can be written; got a read-only one$"):
        case.cell(x, LSTMState(h=h, c=c), out=target)


def test_two_devices(torch, monkeypatch):
    """A cell on the second GPU runs on PyTorch's current stream there. Arrays of the first GPU raise."""
    cell = LSTMCell(LSTMWeights.random(I, N, seed=0), backend="cuda:1")
    case = Case("cuda")
    own_stream(torch, 0)
    handle = own_stream(torch, 1)
    x, state = tensors(case, 1)
    observe.clear()
    got = cell(x, state)
    assert launches() == {handle}
    assert got.h.device.index == got.c.device.index == 1
    wanted = case.cell(*tensors(case))
    for device in (0, 1):
        cupy.cuda.Device(device).synchronize()
    np.testing.assert_array_equal(got.h.array.get(), wanted.h.array.get())
    with cupy.cuda.Device(1):
        gates = torch.Tensor(got.c.array.repeat(4, axis=1))
    assert lstm_pointwise(gates, got.c).h.device.index == 1
    assert backend_of(x).device == "cuda:1"
    assert backend_of(OnlyInterface(x.array)).device == "cuda:1"
    assert cell.zero_state(B, like=x).h.device.index == 1
    hint = r"\. Use cell\.asarray\(\.\.\.\) to make one$"
    with pytest.raises(ValueError, match=r"^x: wanted an array on cuda:0; got a .*Tensor on cuda:1" + hint):
        case.cell(x, tensors(case)[1])
    with pytest.raises(ValueError, match=r"^state\.c: wanted an array on cuda:1; got a .*Tensor on cuda:0" + hint):
        cell(x, LSTMState(h=state.h, c=tensors(case)[1].c))
    with cupy.cuda.Device(1):
        first = torch.Tensor(cupy.asarray(case.first))
    with pytest.raises(ValueError, match=r"^is_first: wanted an array on cuda:0; got a .*Tensor on cuda:1"):
        case.cell(*tensors(case), is_first=first)
    with pytest.raises(ValueError, match=r"^like: wanted an array on cuda:0; got a .*Tensor on cuda:1"):
        case.cell.zero_state(1, like=x)
    for kind in (OnlyDlpack, OnlyInterface):
        with pytest.raises(ValueError, match=r"^x: wanted an array on cuda:0; got a .* on cuda:1" + hint):
            case.cell(kind(x.array), tensors(case)[1])
    assert cupy.cuda.Device().id == 0


def test_host_tensors_on_a_gpu(torch):
    """They raise an error with their name. Masks on the host are copied."""
    case = Case("cuda")
    x, state = tensors(case)
    hint = r"\. Use cell\.asarray\(\.\.\.\) to make one$"
    with pytest.raises(ValueError, match=r"^x: wanted an array on cuda:0; got a .*Tensor on cpu" + hint):
        case.cell(torch.Tensor(case.x), state)
    with pytest.raises(ValueError, match=r"^state\.h: wanted an array on cuda:0; got a .*Tensor on cpu" + hint):
        case.cell(x, LSTMState(h=torch.Tensor(case.h), c=state.c))
    with pytest.raises(TypeError, match=r"^state\.h: wanted a cupy\.ndarray \(cuda:0\); got numpy\.ndarray" + hint):
        case.cell(x, LSTMState(h=case.h, c=state.c))
    wanted = case.cell(x, state, is_first=cupy.asarray(case.first)).to_numpy()
    for mask in (case.first, case.first.tolist(), torch.Tensor(case.first), torch.Tensor(cupy.asarray(case.first))):
        np.testing.assert_array_equal(case.cell(x, state, is_first=mask).to_numpy().h, wanted.h)
    with pytest.raises(TypeError, match=r"^is_first: wanted booleans.*got dtype float32"):
        case.cell(x, state, is_first=torch.Tensor(np.zeros(B, "f4")))


def test_gpu_arrays_on_the_cpu(torch):
    case = Case("numpy")
    x = torch.Tensor(cupy.asarray(case.x))
    state = case.cell.zero_state(B)
    for array, name, place in (
        (x, "Tensor", "cuda:0"),
        (x.array, r"cupy\.ndarray", "cuda:0"),
        (OnlyDlpack(x.array), "OnlyDlpack", "cuda:0"),
        (OnlyInterface(x.array), "OnlyInterface", "cuda"),
    ):
        with pytest.raises(
            ValueError, match=rf"^x: wanted an array on cpu; got a .*{name} on {place}\. Use cell\.asarray"
        ):
            case.cell(array, state)
    with pytest.raises(ValueError, match=r"^is_first: wanted an array on cpu; got a .*Tensor on cuda:0"):
        case.cell(case.x, state, is_first=torch.Tensor(cupy.asarray(case.first)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_asarray_copies_gpu_arrays_to_the_cpu(dtype):
    """cell.asarray takes every protocol, as the error's hint says."""
    case = Case("numpy", dtype)
    with cupy.cuda.Device(1):
        x = cupy.asarray(case.x)
    for array in (x, OnlyDlpack(x), OnlyInterface(x)):
        np.testing.assert_array_equal(bits(case.cell.asarray(array)), bits(case.x))


def test_gpu_tensors_that_require_grad(torch):
    case = Case("cuda")
    x, state = tensors(case)
    with pytest.raises(TypeError, match=r"^x: .*requires grad\. Use x\.detach\(\)\."):
        case.cell(torch.Tensor(x.array, requires_grad=True), state)


def test_asarray_of_tensors(torch):
    """On the cell's GPU, asarray copies nothing, and waits for the stream. From another GPU, it copies."""
    cell = LSTMCell(LSTMWeights.random(I, N, dtype="bfloat16", seed=0), backend="cuda")
    values = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
    tensor = torch.Tensor(cupy.asarray(values))
    handle = own_stream(torch)
    for array in (tensor, OnlyDlpack(tensor.array), OnlyInterface(tensor.array)):
        taken = cell.asarray(array)
        assert (taken.dtype, taken.data.ptr) == (values.dtype, tensor.data_ptr())
    assert_after(handle, 0)
    assert cell.asarray(tensor, "float32").dtype == np.float32
    with cupy.cuda.Device(1):
        far = torch.Tensor(cupy.asarray(values))
    for handle in (own_stream(torch, 1), 0):  # each GPU has its own default stream
        if not handle:
            torch.cuda.set_stream(None, 1)
        observe.clear()
        near = cell.asarray(far)
        assert near.device.id == 0
        np.testing.assert_array_equal(near.get(), values)
        assert_after(handle, 0)
    np.testing.assert_array_equal(cell.asarray(torch.Tensor(values)).get(), values)
    with pytest.raises(TypeError, match=r"x: .*requires grad"):
        cell.asarray(torch.Tensor(tensor.array, requires_grad=True))


@pytest.mark.parametrize("of", ["torch", "cupy", "DLPack", "interface"])
@pytest.mark.parametrize("contiguous", [True, False])
def test_asarray_of_another_gpu_is_in_order(torch, of, contiguous):
    """The order: its library's stream, a contiguous copy there, the transfer, and back."""
    case = Case("cuda")
    with cupy.cuda.Device(1):
        far = cupy.asarray(case.x.T.copy()).T if not contiguous else cupy.asarray(case.x)
        used = cupy.cuda.Stream().use()  # CuPy's current stream on that GPU
        named = cupy.cuda.Stream()
    here = cupy.cuda.Stream()
    handle = own_stream(torch, 1)
    source, theirs = {
        "torch": (torch.Tensor(far), handle),
        "cupy": (far, None),
        "DLPack": (OnlyDlpack(far), None),
        "interface": (OnlyInterface(far, stream=named), named.ptr),
    }[of]
    observe.clear()
    with here:
        near = case.cell.asarray(source)
    with cupy.cuda.Device(1):
        cupy.cuda.Stream.null.use()
    work = [(entry.stream, entry.what) for entry in observe.log() if entry.kind == "launch"]
    assert work == [(used.ptr, "kernel")] * (not contiguous) + [(here.ptr, "memcpy")]
    first, last = first_and_last_launch()
    if not contiguous:
        assert first < assert_after(used.ptr, here.ptr, first) < last
    if theirs is not None:
        assert assert_after(theirs, used.ptr) < first
    assert assert_after(used.ptr, here.ptr) < last
    back = assert_after(here.ptr, used.ptr, last)
    if theirs is not None:
        assert assert_after(used.ptr, theirs, back) > back
    if of == "DLPack":
        assert source.asked == [used.ptr]
    assert cupy.cuda.Device().id == 0
    np.testing.assert_array_equal(near.get(), case.x)


def test_an_array_on_an_unavailable_gpu(torch, monkeypatch):
    """The error gives the reason, even if only the array named the GPU."""
    from fusedlstm import BackendUnavailableError
    from fusedlstm.backends import select

    monkeypatch.setattr(select, "unavailable_reason", lambda name, index=0: "CuPy is not installed")
    with pytest.raises(BackendUnavailableError, match=r"gates is on cuda:0, and cuda can't run here: CuPy is not"):
        lstm_pointwise(torch.Tensor(cupy.zeros((B, 4 * N), "f4")), None)
