"""cuBLASLt in the stand-in: like nvmath-python's bindings, and stricter."""

import ctypes
import inspect
import types

import ml_dtypes
import numpy as np
import pytest

import stand_in
from stand_in import arrays, cublaslt, graphs, memory, streams

needs_nvmath = pytest.mark.skipif("cublasLt" not in stand_in.real, reason="nvmath-python is not installed")


def defined(kind):
    """Return the public names that the stand-in itself defines."""
    own = [value for value in vars(cublaslt).values() if getattr(value, "__module__", None) == cublaslt.__name__]
    return [value.__name__ for value in own if kind(value) and not value.__name__.startswith("_")]


@needs_nvmath
def test_names_are_nvmaths():
    assert set(defined(inspect.isclass)) <= set(dir(stand_in.real["cublasLt"]))
    assert len(defined(inspect.isfunction)) == 13


@needs_nvmath
@pytest.mark.parametrize("name", defined(inspect.isfunction))
def test_parameters_are_nvmaths(name):
    ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (cublaslt, stand_in.real["cublasLt"]))
    assert list(ours) == list(theirs)


@needs_nvmath
@pytest.mark.parametrize("name", ["MatmulDescAttribute", "MatmulPreferenceAttribute"])
def test_constants_are_nvmaths(name):
    ours, theirs = getattr(cublaslt, name), getattr(stand_in.real["cublasLt"], name)
    assert {member.name: int(member) for member in ours}.items() <= {m.name: int(m) for m in theirs}.items()


@needs_nvmath
def test_results_are_nvmaths():
    """The struct's layout and its fields' Python types are nvmath's."""
    real = stand_in.real["cublasLt"]
    ours, theirs = cublaslt.matmul_heuristic_result_dtype, real.matmul_heuristic_result_dtype
    assert ours.itemsize == theirs.itemsize
    assert [(n, ours.fields[n][1]) for n in ours.names] == [(n, theirs.fields[n][1]) for n in theirs.names]
    assert {n for n in dir(cublaslt.MatmulHeuristicResult) if n[0] != "_"} <= set(dir(real.MatmulHeuristicResult))
    for size in (1, 3):
        ours, theirs = cublaslt.MatmulHeuristicResult(size), real.MatmulHeuristicResult(size)
        assert len(ours) == len(theirs) == size
        for name in ("ptr", "workspace_size", "state", "waves_count"):
            assert type(getattr(ours, name)) is type(getattr(theirs, name)), name
        for each in (ours, theirs):
            last = each[size - 1]
            assert last.ptr - each.ptr == (size - 1) * 96
            assert isinstance(last.workspace_size, int)
            assert each.algo.ctypes.data == each.ptr
    assert cublaslt.cuBLASLtError.__bases__ == real.cuBLASLtError.__bases__


KINDS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


class Product:
    """Compute d <- a @ weight.T for row-major a (B, K), weight (M, K) and d (B, M).

    In column-major terms, this is d.T <- op(weight) @ a.T.
    """

    def __init__(self, library, a, weight, d, compute=COMPUTE_32F, workspace=1 << 20, alignment=None, transposed=True):
        self.cupy, lt = library.cupy, library.cublasLt
        self.lt, self.a, self.weight, self.d = lt, a, weight, d
        self.factors = np.array([1, 0], np.float64 if compute == COMPUTE_64F else np.float32)
        self.handle = lt.create()
        self.operation = lt.matmul_desc_create(compute, 1 if compute == COMPUTE_64F else 0)
        transpose = np.array([transposed], np.int32)
        lt.matmul_desc_set_attribute(self.operation, lt.MatmulDescAttribute.TRANSA, transpose.ctypes.data, 4)
        self.layouts = {"a": self.layout(weight), "b": self.layout(a), "c": self.layout(d), "d": self.layout(d)}
        self.preference = lt.matmul_preference_create()
        self.prefer("MAX_WORKSPACE_BYTES", np.uint64(workspace))
        for letter in "ABCD" if alignment else "":
            self.prefer(f"MIN_ALIGNMENT_{letter}_BYTES", np.uint32(alignment))

    def layout(self, array):
        rows, columns = array.shape
        return self.lt.matrix_layout_create(KINDS[array.dtype.name], columns, rows, array.strides[0] // array.itemsize)

    def prefer(self, name, value):
        value = np.array([value])
        attribute = getattr(self.lt.MatmulPreferenceAttribute, name)
        self.lt.matmul_preference_set_attribute(self.preference, attribute, value.ctypes.data, value.itemsize)

    def choose(self, results=1):
        found, count = self.lt.MatmulHeuristicResult(results), np.zeros(1, np.int32)
        self.lt.matmul_algo_get_heuristic(
            self.handle, self.operation, *(self.layouts[letter] for letter in "abcd"), self.preference, results,
            found.ptr, count.ctypes.data,
        )  # fmt: skip
        assert count[0] >= 1
        self.found, self.count = found, int(count[0])
        self.workspace = self.cupy.empty(max(1, found[0].workspace_size), np.uint8)
        return self

    def run(self, stream=0, **changes):
        one = self.factors.ctypes.data
        d = self.d.data.ptr
        values = {
            "light_handle": self.handle, "compute_desc": self.operation, "alpha": one,
            "a": self.weight.data.ptr, "adesc": self.layouts["a"], "b": self.a.data.ptr, "bdesc": self.layouts["b"],
            "beta": one + self.factors.itemsize, "c": d, "cdesc": self.layouts["c"], "d": d, "ddesc": self.layouts["d"],
            "algo": self.found.ptr, "workspace": self.workspace.data.ptr,
            "workspace_size_in_bytes": self.found[0].workspace_size, "stream": stream,
        }  # fmt: skip
        self.lt.matmul(*{**values, **changes}.values())


def operands(library, dtype="float32", out=None, shape=(2, 4, 8)):
    """Return a (B, K), weight (M, K), and d (B, M) of NaN."""
    B, M, K = shape
    rng = np.random.default_rng(0)
    a, weight = (rng.normal(size=size).astype(dtype_of(dtype)) for size in ((B, K), (M, K)))
    d = np.full((B, M), np.nan, dtype_of(out or dtype))
    return [library.cupy.asarray(array) for array in (a, weight, d)]


def wanted(a, weight):
    wide = np.float64 if a.dtype == np.float64 else np.float32
    return a.get().astype(wide) @ weight.get().astype(wide).T


# Like cuBLASLt.


@pytest.mark.parametrize(
    ("dtype", "out", "compute", "tolerance"),
    [
        ("float32", "float32", COMPUTE_32F, 1e-5),
        ("float32", "float32", COMPUTE_32F_FAST_TF32, 5e-3),
        ("float64", "float64", COMPUTE_64F, 1e-12),
        ("float16", "float32", COMPUTE_32F, 1e-4),
        ("float16", "float16", COMPUTE_32F, 5e-3),
        ("bfloat16", "float32", COMPUTE_32F, 1e-4),
        ("bfloat16", "bfloat16", COMPUTE_32F, 4e-2),
    ],
)
def test_products(library, dtype, out, compute, tolerance):
    """C is NaN, and must not be read when beta is 0."""
    a, weight, d = operands(library, dtype, out, (16, 32, 64))
    Product(library, a, weight, d, compute).choose().run()
    np.testing.assert_allclose(d.get().astype(float), wanted(a, weight), rtol=tolerance, atol=8 * tolerance)


def test_products_of_views(library):
    """Leading dimensions exceed the rows of operands and result. Addresses have a small alignment."""
    rng = np.random.default_rng(0)
    a, weight, d = (library.cupy.asarray(rng.normal(size=(n, 24)).astype("f4")) for n in (3, 5, 3))
    product = Product(library, a[:, 4:12], weight[:, 8:16], d[:, 2:7], alignment=4)
    before = d.get()
    product.choose().run()
    np.testing.assert_allclose(product.d.get(), wanted(product.a, product.weight), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(d.get()[:, 7:], before[:, 7:])


def test_products_without_transposes_and_sums(library):
    """Compute D <- A @ B + C in place."""
    a, weight, d = operands(library, shape=(3, 4, 4))
    d.fill(2)
    product = Product(library, a, weight, d, transposed=False).choose()
    product.factors[1] = 1
    product.run()
    np.testing.assert_allclose(d.get(), 2 + a.get() @ weight.get(), rtol=1e-5, atol=1e-5)


def test_heuristics_return_all_found(library):
    product = Product(library, *operands(library, shape=(16, 32, 64))).choose(results=4)
    assert 1 <= product.count <= 4
    for k in range(product.count):
        assert product.found[k].state == 0
        assert product.found[k].workspace_size <= 1 << 20
    without = Product(library, *operands(library), workspace=0).choose()
    assert without.found.workspace_size == 0
    without.run(workspace=0)
    np.testing.assert_allclose(without.d.get(), wanted(without.a, without.weight), rtol=1e-5, atol=1e-5)


def test_products_are_recorded(library):
    """A graph keeps the factors of the capture."""
    product = Product(library, *operands(library)).choose()
    stream = library.cupy.cuda.Stream(non_blocking=True)
    product.run(stream.ptr)
    stream.synchronize()
    product.d.fill(7)
    library.cupy.cuda.runtime.deviceSynchronize()
    stream.begin_capture()
    product.run(stream.ptr)
    graph = stream.end_capture()
    product.factors[...] = 3
    np.testing.assert_array_equal(product.d.get(), 7)
    for _ in range(2):
        graph.launch(stream)
        stream.synchronize()
        np.testing.assert_allclose(product.d.get(), wanted(product.a, product.weight), rtol=1e-5, atol=1e-5)
        product.a[...] = product.a * 2
        library.cupy.cuda.runtime.deviceSynchronize()


def test_versions(library):
    assert library.cublasLt.get_version() > 120000


# Stricter than cuBLASLt.


STAND_IN = types.SimpleNamespace(cupy=stand_in.modules()["cupy"], cublasLt=cublaslt)


@pytest.fixture
def product():
    return Product(STAND_IN, *operands(STAND_IN, shape=(6, 4, 8))).choose()


def refuses(product, match, **changes):
    before = product.d.get()
    with pytest.raises((cublaslt.cuBLASLtError, MemoryError), match=match):
        product.run(**changes)
    np.testing.assert_array_equal(product.d.get(), before)


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_pointers_need_the_heuristics_alignment(product, name):
    """The default alignment is 256 bytes."""
    refuses(product, f"{name.upper()} at 0x.* is not aligned to 256", **{name: product.d.data.ptr + 32})
    product.prefer(f"MIN_ALIGNMENT_{'ABDC'['abdc'.index(name)]}_BYTES", np.uint32(32))
    refuses(product, "is not aligned to 256", **{name: product.d.data.ptr + 32})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"workspace_size_in_bytes": 0}, "a workspace of 0 bytes, where the algorithm needs 256"),
        ({"workspace_size_in_bytes": 255}, "a workspace of 255 bytes"),
        ({"workspace_size_in_bytes": 257}, "257 bytes at 0x.* are not all in one array"),
        ({"workspace": 0}, "256 bytes at 0x0 are not all in one array"),
        ({"algo": 0}, "no algorithm"),
        ({"light_handle": 5}, "no such handle"),
        ({"compute_desc": 5}, "is no operation"),
        ({"adesc": 5}, "is no layout"),
        ({"a": 1 << 40}, "not all in one array"),
    ],
)
def test_products_refuse(product, changes, match):
    refuses(product, match, **changes)


def test_workspaces_are_aligned_and_apart(product):
    workspace = arrays.empty(1024, np.uint8)
    refuses(product, "the workspace at .* is not aligned to 256", workspace=workspace.data.ptr + 128)
    product.run(workspace=workspace.data.ptr + 256)
    shared = arrays.zeros((16, 32), np.float32)
    refuses(
        product, "the workspace overlaps an operand",
        b=shared.data.ptr, workspace=shared.data.ptr, workspace_size_in_bytes=1024,
    )  # fmt: skip


def test_workspaces_are_overwritten(product):
    """All of the given workspace is written."""
    workspace = arrays.zeros(1024, np.uint8)
    product.run(workspace=workspace.data.ptr, workspace_size_in_bytes=1000)
    np.testing.assert_array_equal(workspace.get(), [255] * 1000 + [0] * 24)


def test_algorithms_belong_to_descriptors(product):
    """Any difference is refused. Equal content is accepted at any address."""
    copy = ctypes.create_string_buffer(ctypes.string_at(product.found.ptr, 64))
    again = product.layout(product.a)
    product.run(algo=ctypes.addressof(copy), bdesc=again)
    wide = arrays.zeros((6, 9), np.float32)
    refuses(product, "not given this algorithm for these", b=wide.data.ptr, bdesc=product.layout(wide[:, :8]))
    refuses(product, "not given this algorithm for these", algo=product.found.ptr + 8)
    other = product.lt.matmul_desc_create(COMPUTE_32F_FAST_TF32, 0)
    one = np.array([1], np.int32)
    product.lt.matmul_desc_set_attribute(other, 3, one.ctypes.data, 4)
    refuses(product, "not given this algorithm for these", compute_desc=other)


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [("adesc", 7, 4), ("adesc", 8, 5), ("bdesc", 7, 6), ("bdesc", 8, 5), ("cdesc", 5, 6), ("ddesc", 4, 5)],
)
def test_dimensions_agree(product, name, rows, columns):
    refuses(product, "op.A. is", **{name: product.lt.matrix_layout_create(0, rows, columns, rows)})


def test_leading_dimensions_are_checked(product):
    """One that is too small is refused at once, and a too large one where the memory ends."""
    lt = product.lt
    refuses(product, "leading dimension is too small", bdesc=lt.matrix_layout_create(0, 8, 6, 7))
    product.layouts["b"] = lt.matrix_layout_create(0, 8, 6, 16)
    product.choose()
    refuses(product, "not all in one array")


def test_types_must_fit(product):
    lt = product.lt
    for name, kind in (("a", 2), ("c", 1), ("d", 2)):
        layouts, product.layouts = product.layouts, {**product.layouts}
        rows, columns = {"a": (8, 4), "c": (4, 6), "d": (4, 6)}[name]
        product.layouts[name] = lt.matrix_layout_create(kind, rows, columns, rows)
        with pytest.raises(cublaslt.cuBLASLtError, match="NOT_SUPPORTED.*types") as caught:
            product.choose()
        assert caught.value.status == 15
        product.layouts = layouts
    for compute, scale in ((COMPUTE_32F, 1), (COMPUTE_64F, 0)):
        with pytest.raises(cublaslt.cuBLASLtError, match="factors of another type"):
            lt.matmul_desc_create(compute, scale)
    with pytest.raises(cublaslt.cuBLASLtError, match="type 8 is of no use"):
        lt.matrix_layout_create(8, 1, 1, 1)


def test_attributes_are_checked(product):
    lt, value = product.lt, np.array([1, 0], np.int32)
    at = value.ctypes.data
    for work, match in (
        (
            lambda: lt.matmul_desc_set_attribute(product.operation, lt.MatmulDescAttribute.EPILOGUE, at, 4),
            "attribute 7",
        ),
        (lambda: lt.matmul_desc_set_attribute(product.operation, 3, at, 8), "has 8 bytes, not 4"),
        (lambda: lt.matmul_desc_set_attribute(product.preference, 3, at, 4), "is no operation"),
        (lambda: lt.matmul_preference_set_attribute(product.preference, 0, at, 4), "attribute 0"),
        (lambda: lt.matmul_preference_set_attribute(product.preference, 1, at, 4), "has 4 bytes, not 8"),
        (lambda: lt.matmul_preference_set_attribute(product.preference, 5, at, 8), "has 8 bytes, not 4"),
    ):
        with pytest.raises(cublaslt.cuBLASLtError, match=match):
            work()
    value[0] = 3
    with pytest.raises(cublaslt.cuBLASLtError, match="3 is no operation"):
        lt.matmul_desc_set_attribute(product.operation, 3, at, 4)


@pytest.mark.parametrize("what", ["operation", "a", "c", "preference", "handle"])
def test_destroyed_objects_are_refused(product, what):
    lt = product.lt
    if what == "operation":
        lt.matmul_desc_destroy(product.operation)
    elif what == "preference":
        lt.matmul_preference_destroy(product.preference)
        product.run()
    elif what == "handle":
        lt.destroy(product.handle)
    else:
        lt.matrix_layout_destroy(product.layouts[what])
    for use in (product.choose,) if what == "preference" else (product.choose, product.run):
        with pytest.raises(cublaslt.cuBLASLtError, match="destroyed|no such handle"):
            use()
    if what == "a":
        with pytest.raises(cublaslt.cuBLASLtError, match="destroyed"):
            lt.matrix_layout_destroy(product.layouts["a"])


def test_other_devices_than_the_handles_raise(product):
    with arrays.Device(1):
        other = streams.Stream()
        there = arrays.zeros((6, 8), np.float32)
        with pytest.raises(cublaslt.cuBLASLtError, match="the handle is another device's"):
            product.run()
    refuses(product, "the stream is another device's", stream=other.ptr)
    refuses(product, "another device's memory", b=there.data.ptr)


def test_results_must_not_overlap_operands(product):
    refuses(product, "D overlaps an operand", c=product.weight.data.ptr, d=product.weight.data.ptr)
    spare = arrays.zeros((64, 8), np.float32)
    refuses(product, "D overlaps an operand", c=spare.data.ptr, b=spare.data.ptr + 512, d=spare.data.ptr + 512)
    product.run(c=spare.data.ptr)


def test_freed_memory_of_a_product_is_found(product):
    """Operands, result and workspace must be alive, in a graph too."""
    address = arrays.zeros((6, 8), np.float32).data.ptr
    refuses(product, "not all in one array", b=address)
    for name in ("a", "weight", "d", "workspace"):
        stream = streams.Stream(non_blocking=True)
        stream.begin_capture()
        product.run(stream.ptr)
        graph = stream.end_capture()
        assert graphs.kinds(graph) == ["matmul"]
        graph.launch(stream)
        held = memory.alive()
        replaced = getattr(product, name)
        setattr(product, name, replaced.copy())
        del replaced
        assert memory.alive() == held
        with pytest.raises(MemoryError, match="the graph uses freed memory"):
            graph.launch(stream)


def test_tf32_is_rounded(product):
    """The product differs from IEEE float32, as in cuBLAS."""
    product.run()
    ieee = product.d.get()
    Product(STAND_IN, product.a, product.weight, product.d, COMPUTE_32F_FAST_TF32).choose().run()
    tf32 = product.d.get()
    assert not np.array_equal(ieee, tf32)
    np.testing.assert_allclose(tf32, ieee, rtol=5e-3, atol=5e-3)


def test_handles_are_not_made_in_captures():
    stream = streams.Stream(non_blocking=True)
    stream.begin_capture()
    with pytest.raises(RuntimeError, match="to create a handle"):
        cublaslt.create()
    with pytest.raises(RuntimeError, match="Invalidated"):
        stream.end_capture()
