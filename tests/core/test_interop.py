"""Arrays of other libraries are taken and returned without a copy, with the bits of a native call."""

import gc
import itertools

import numpy as np
import pytest

from fusedlstm import LSTMState, lstm_pointwise
from fusedlstm.arrays.exchange import Exchange
from fusedlstm.backends.select import backend_of

from support.foreign import ON_CPU, ON_GPU, B, Case, DlpackOnCpu, I, N, Native, OnlyDlpack, P, assert_state, bits

DTYPES = ["float64", "float32", "float16", "bfloat16"]


@pytest.fixture(params=[*ON_CPU, *ON_GPU], ids=lambda library: library.__name__)
def library(request, monkeypatch):
    return request.param(monkeypatch)


def results_of(library):
    """Return the library that results are in."""
    return library if library.gives else Native(library.backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("proj_size", [None, P])
def test_results_are_in_the_library_of_x(library, dtype, proj_size):
    """Masks and reset states are the library's arrays, too."""
    case, result = Case(library.backend, dtype, proj_size), results_of(library)
    got = case.call(library.make)
    assert isinstance(got.h, result.type)
    assert isinstance(got.c, result.type)
    assert_state(result, got, case.wanted())
    again = case.cell(library.make(case.x), got)  # a result can be passed in again
    assert isinstance(again.h, result.type)


def test_empty_batch(library):
    case, result = Case(library.backend, batch=0), results_of(library)
    got = case.cell(library.make(case.x), LSTMState(h=library.make(case.h), c=library.make(case.c)))
    assert isinstance(got.h, result.type)
    assert library.host(got.h).shape == (0, N) if library.gives else got.h.shape == (0, N)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arguments_are_not_copied(library, dtype):
    """The backend's view has the address, shape, strides and type of the library's array."""
    case = Case(library.backend, dtype)
    array, mask = library.make(case.x), library.make(case.first)
    with Exchange(case.cell._backend, array) as exchange:
        view, first = exchange.borrow("x", array), exchange.borrow_mask("is_first", mask)
    assert isinstance(view, case.native.type)
    assert (view.shape, view.strides, view.dtype) == (case.x.shape, case.x.strides, case.x.dtype)
    assert case.native.address(view) == library.address(array)
    assert case.native.address(first) == library.address(mask)


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_not_copied(library, dtype, monkeypatch):
    """The result is at the address that the backend wrote to."""
    case, written = Case(library.backend, dtype), []
    if not library.gives:
        pytest.skip("results are the backend's own")
    engine = case.cell._engine
    run = engine.run

    def spy(x, h, c, h_out, c_out, *rest):
        written.extend((h_out, c_out))
        run(x, h, c, h_out, c_out, *rest)

    monkeypatch.setattr(engine, "run", spy)
    for _ in range(3):  # addresses differ in their alignment
        got = case.call(library.make)
        for part, array in zip((got.h, got.c), written[-2:], strict=True):
            assert library.address(part) == case.native.address(array)


def test_results_outlive_the_call(library):
    """A result keeps its memory alive, even if nothing else refers to it."""
    case = Case(library.backend)
    got, wanted = case.call(library.make), case.wanted()
    gc.collect()
    [case.call(library.make) for _ in range(5)]
    assert_state(results_of(library), got, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_out(library, dtype):
    """The call writes and returns `out` itself, or raises if the library's arrays are immutable."""
    case = Case(library.backend, dtype)
    target = case.out(library.make)
    addresses = library.address(target.h), library.address(target.c)
    if not library.written or (isinstance(library, DlpackOnCpu) and dtype == "bfloat16"):
        before = library.host(target.h).copy()
        error, got = library.refusal
        with pytest.raises(error, match=rf"^out\.h: wanted an array that can be written; got {got}$"):
            case.call(library.make, out=target)
        np.testing.assert_array_equal(bits(library.host(target.h)), bits(before))
        return
    for _ in range(2):
        assert case.call(library.make, out=target) is target
        assert (library.address(target.h), library.address(target.c)) == addresses
        assert_state(library, target, case.wanted())


def test_native_and_foreign_out_mix_with_any_x(library):
    """`out` is written if x is foreign and `out` native, and the other way round."""
    case = Case(library.backend)
    target = case.out(case.native.make)
    assert case.call(library.make, out=target) is target
    assert_state(case.native, target, case.wanted())
    if library.written:
        target = case.out(library.make)
        assert case.call(case.native.make, out=target) is target
        assert_state(library, target, case.wanted())


def test_mixed_libraries(library):
    """One argument is in another library than the rest. Results are in the library of x."""
    case = Case(library.backend)
    for name in ("x", "h", "c", "first", "reset_h", "reset_c"):
        got = case.call(library.make, **{name: case.native.make})
        result = case.native if name == "x" else results_of(library)
        assert_state(result, got, case.wanted())
        got = case.call(case.native.make, **{name: library.make})
        result = results_of(library) if name == "x" else case.native
        assert isinstance(got.h, result.type)
        assert_state(result, got, case.wanted())


def test_all_libraries_at_once(monkeypatch):
    for libraries in (ON_CPU, ON_GPU):
        made = [library(monkeypatch) for library in libraries]
        if not made:
            continue
        case = Case(made[0].backend)
        makes = [library.make for library in made]
        names = ("x", "h", "c", "first", "reset_h", "reset_c")
        for start in range(len(makes)):
            chosen = dict(zip(names, itertools.islice(itertools.cycle(makes), start, None), strict=False))
            got = case.call(None, **chosen)
            assert_state(results_of(made[start]), got, case.wanted())


def strided(make, array, layout):
    """Return an array in one of several layouts, as a view of a larger one of its library."""
    if layout == "transposed":
        return make(np.ascontiguousarray(array.T)).T
    wide = make(np.repeat(array, 2, axis=1) if layout == "columns" else np.repeat(array, 2, axis=0))
    return wide[:, ::2] if layout == "columns" else wide[::2]


@pytest.mark.parametrize("layout", ["transposed", "columns", "rows"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [kind for kind in (*ON_CPU, *ON_GPU) if "Torch" in kind.__name__])
def test_strided_tensors(kind, dtype, layout, monkeypatch):
    library = kind(monkeypatch)
    case = Case(library.backend, dtype)

    def make(array):
        return strided(library.make, array, layout) if array.ndim == 2 else library.make(array)

    assert not case.x.T.flags.c_contiguous
    assert_state(library, case.call(make), case.wanted())
    with pytest.raises(ValueError, match=r"^out\.h: wanted a C-contiguous array"):
        case.call(make, out=case.out(make))


def test_overlaps_are_found(library):
    """Views of one memory are found to overlap, whichever object they come from."""
    if not library.written:
        pytest.skip("this library's arrays are immutable")
    case = Case(library.backend)
    x, h, c, target = library.make(case.x), library.make(case.h), library.make(case.c), case.out(library.make)
    with pytest.raises(ValueError, match=r"^out\.h: wanted memory apart from state\.h"):
        case.cell(x, LSTMState(h=h, c=c), out=LSTMState(h=h, c=target.c))
    for _ in range(2):
        same = LSTMState(h=target.h, c=c)
        assert case.cell(x, LSTMState(h=h, c=c), out=same) is same
    with pytest.raises(ValueError, match=r"^out\.h: wanted memory apart from state\.c"):
        case.cell(x, LSTMState(h=h, c=c), out=LSTMState(h=c, c=target.c))
    if hasattr(library.type, "__dlpack__"):  # another object over the same memory
        with Exchange(case.cell._backend, h) as exchange:
            native = exchange.borrow("h", h)
        with pytest.raises(ValueError, match=r"^out\.h: wanted memory apart from state\.h"):
            case.cell(x, LSTMState(h=native, c=c), out=LSTMState(h=h, c=target.c))


def test_zero_state(library):
    case = Case(library.backend, "bfloat16", P)
    x, result = library.make(case.x), results_of(library)
    state = case.cell.zero_state(B, like=x)
    assert isinstance(state.h, result.type)
    for part, (width, dtype) in {"h": (P, "bfloat16"), "c": (N, "float32")}.items():
        values = result.host(getattr(state, part))
        assert (values.shape, values.dtype.name) == ((B, width), dtype)
        assert not values.astype(float).any()
    whole = library.make(case.first)  # of any dtype and shape
    assert isinstance(case.cell.zero_state(0, like=whole).h, result.type)
    assert isinstance(case.cell.zero_state(1, case.native.make(case.x)).h, case.native.type)


def test_pointwise(library):
    rng = np.random.default_rng(0)
    gates, c = rng.normal(size=(B, 4 * N)).astype("f4"), rng.normal(size=(B, N)).astype("f4")
    values = {
        "gates_h": gates[::-1].copy(), "bias": gates[0].copy(), "peephole": gates[:3, :N].copy(),
        "is_first": np.arange(B) > 2, "reset_c": c[:1] * 2,
    }  # fmt: skip
    native, result = Native(library.backend), results_of(library)

    def call(make, gates_by, **options):
        made = {name: make(value) for name, value in values.items()}
        return lstm_pointwise(gates_by(gates), make(c), **made, **options)

    wanted = call(native.make, native.make).to_numpy()
    got = call(library.make, library.make)
    assert isinstance(got.h, result.type)
    assert_state(result, got, wanted)
    assert_state(native, call(library.make, native.make), wanted)
    if library.written:
        target = LSTMState(h=library.make(c * 0), c=library.make(c * 0))
        assert call(native.make, library.make, out=target) is target
        assert_state(library, target, wanted)
    assert backend_of(library.make(gates)).name == library.backend
    with pytest.raises(TypeError, match=r"^c: wanted dtype float32 \(that of gates\); got dtype float64"):
        lstm_pointwise(library.make(gates), library.make(c.astype(float)))
    with pytest.raises(TypeError, match=r"^reset_c: wanted dtype float32 \(c's, with a 16-bit h\); got dtype float16"):
        narrow, first = library.make(gates.astype("f2")), library.make(values["is_first"])
        lstm_pointwise(narrow, library.make(c), is_first=first, reset_c=library.make(c.astype("f2")))


# Errors.


def test_dtype_errors_use_the_librarys_words(library):
    case = Case(library.backend)
    case.x = case.x.astype("f8")
    with pytest.raises(TypeError) as caught:
        case.call(library.make)
    assert str(caught.value) == f"x: wanted dtype float32 (the cell's); got dtype float64. Use {library.cast}"
    case.x, case.c = case.x.astype("f4"), case.c.astype("f2")
    with pytest.raises(TypeError) as caught:
        case.call(library.make)
    cast = library.cast.replace("x", "state.c", 1)
    assert str(caught.value) == f"state.c: wanted dtype float32 (the cell's); got dtype float16. Use {cast}"
    case = Case(library.backend, "bfloat16")
    case.c = case.c.astype("f2")
    with pytest.raises(TypeError, match=r"state\.c: wanted dtype float32 \(c's, with a 16-bit h\); got dtype float16"):
        case.call(library.make)


def test_shapes(library):
    case = Case(library.backend)
    case.x = case.x[:, :2].copy()
    with pytest.raises(ValueError, match=r"^x: wanted shape \(B, I\) = \(5, 3\); got shape \(5, 2\)$"):
        case.call(library.make)


def test_masks_of_numbers(library):
    case = Case(library.backend)
    case.first = case.first.astype("f4")
    with pytest.raises(TypeError, match=r"^is_first: wanted booleans, .*; got dtype float32\. Use .* != 0, as"):
        case.call(library.make)


@pytest.mark.parametrize("name", ["x", "h", "c", "reset_h", "reset_c"])
def test_a_list_among_tensors(library, name):
    case = Case(library.backend)
    argument = {"h": "state.h", "c": "state.c", "reset_h": "reset_to.h", "reset_c": "reset_to.c"}.get(name, name)
    with pytest.raises(TypeError) as caught:
        case.call(library.make, **{name: np.ndarray.tolist})
    wanted = f"a {case.native.module.__name__}.ndarray ({case.cell.device})"
    assert str(caught.value) == f"{argument}: wanted {wanted}; got list. Use cell.asarray(...) to make one"


def test_tensors_that_require_grad():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    case = Case("numpy")
    state = LSTMState(h=torch.zeros(B, N), c=torch.zeros(B, N))
    x = torch.zeros(B, I, requires_grad=True)
    with pytest.raises(TypeError, match=r"^x: wanted an array without gradient; .*\. Use x\.detach\(\)\. To train"):
        case.cell(x, state)
    assert type(case.cell(x.detach(), state).h) is torch.Tensor
    bad = LSTMState(h=state.h, c=torch.zeros(B, N, requires_grad=True))
    for options, name in (
        ({"out": bad}, "out"),
        ({"is_first": [True] * B, "reset_to": bad}, "reset_to"),
    ):
        with pytest.raises(TypeError, match=rf"^{name}\.c: .*requires grad\. Use {name}\.c\.detach\(\)\."):
            case.cell(x.detach(), state, **options)
    with pytest.raises(TypeError, match=r"^gates: .*requires grad\. Use gates\.detach\(\)\."):
        lstm_pointwise(torch.zeros(B, 4 * N, requires_grad=True), state.c)


def test_tensors_without_plain_memory():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    case = Case("numpy")
    state = case.cell.zero_state(B)
    for strange in (
        torch.zeros(B, I).to_sparse(),
        torch.zeros(B, I, dtype=torch.cfloat).conj().imag,
    ):
        with pytest.raises(TypeError, match=r"^x: wanted an array whose memory can be shared; got a torch\.Tensor: "):
            case.cell(strange, state)
    with pytest.raises(
        ValueError, match=r"^x: wanted an array on cpu; got a torch\.Tensor on meta\. Use cell\.asarray"
    ):
        case.cell(torch.zeros(B, I, device="meta"), state)
    with pytest.raises(ValueError, match=r"gates: wanted an array on cpu or cuda; got a torch\.Tensor on meta"):
        lstm_pointwise(torch.zeros(B, 4 * N, device="meta"), state.c)
    with pytest.raises(TypeError, match=r"got dtype complex64\. An LSTM takes real numbers"):
        case.cell(torch.zeros(B, I, dtype=torch.cfloat), state)


@pytest.fixture
def jax():
    """Return JAX, on the CPU even where it has a GPU."""
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    with jax.default_device(jax.devices("cpu")[0]):
        yield jax


def test_traced_arrays_are_refused(jax):
    case = Case("numpy")
    with pytest.raises(TypeError, match=r"^x: wanted "):
        jax.jit(lambda x: case.cell(x, case.cell.zero_state(B)).h)(case.x)


def test_torch_results_are_writable_views():
    """Results are the memory that NumPy wrote. Writing doesn't warn (warnings are errors here)."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    case = Case("numpy")
    got = case.call(torch.from_numpy)
    got.h.zero_()
    assert not got.h.numpy().any()


def test_torch_sees_changes_of_x():
    """A tensor is a view, so the next call sees what is written to the tensor."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    case = Case("numpy")
    x, state = torch.zeros(B, I), case.cell.zero_state(B)
    before = case.cell(x, state)
    x += 1
    after = case.cell(x, state)
    wanted = case.cell(np.ones((B, I), "f4"), state)
    np.testing.assert_array_equal(after.h.numpy(), wanted.h)
    assert not torch.equal(before.h, after.h)


def test_pending_jax_results_are_waited_for(jax):
    case = Case("numpy")
    slow = jax.jit(lambda m: jax.lax.fori_loop(0, 30, lambda _, m: jax.numpy.tanh(m @ m), m))
    x = slow(jax.numpy.ones((600, 600), "float32") * 1e-3)[:B, :I]
    got = case.cell(x, case.cell.zero_state(B))
    np.testing.assert_array_equal(np.asarray(got.h), case.cell(np.asarray(x).copy(), case.cell.zero_state(B)).h)


def test_read_only_arrays_of_dlpack():
    """A producer's read-only flag matters for `out`, but not for x."""
    case, kind = Case("numpy"), DlpackOnCpu(None)
    target = case.out(kind.make)
    for part in (target.h, target.c):
        part.array.flags.writeable = False
    if np.lib.NumpyVersion(np.__version__) < "2.1.0":
        return  # older NumPy doesn't export read-only arrays
    with pytest.raises(ValueError, match=r"^out\.h: wanted an array that can be written; got a read-only one$"):
        case.call(kind.make, out=target)
    case.cell(kind.make(case.x), target)


def test_deleted_jax_arrays_are_refused(jax):
    case = Case("numpy")
    gone = jax.numpy.ones((B, I))
    gone.delete()
    message = r"^x: wanted an array on cpu; got a jaxlib.* on an unknown device \("
    with pytest.raises(ValueError, match=message):
        case.cell(gone, case.cell.zero_state(B))
    with pytest.raises(ValueError, match=r"gates: wanted an array on cpu or cuda; got a jaxlib.* on an unknown device"):
        lstm_pointwise(gone, case.c)


@pytest.mark.parametrize("dtype", DTYPES)
def test_asarray_of_dlpack(dtype):
    """An array with DLPack alone is taken without a copy on the CPU."""
    case, array = Case("numpy", dtype), OnlyDlpack(Case("numpy", dtype).x)
    taken = case.cell.asarray(array)
    assert (type(taken), taken.dtype, taken.ctypes.data) == (np.ndarray, case.cell.dtype, array.array.ctypes.data)
    np.testing.assert_array_equal(bits(taken), bits(array.array))
    with pytest.raises(TypeError, match="x: wanted real numbers; got dtype complex64"):
        case.cell.asarray(OnlyDlpack(np.zeros(3, np.complex64)))
