"""cuBLASLt: products as the package asks for them, on any GPU, and what the fake one refuses."""

import ml_dtypes
import numpy as np
import pytest

from support import driver_child
from support.backends import needs_cuda

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
lt = pytest.importorskip("nvmath.bindings.cublasLt", reason="nvmath-python is not installed", exc_type=ImportError)

KINDS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
INVALID_VALUE, NOT_SUPPORTED = 7, 15


class Product:
    """Compute d <- a @ weight.T for row-major a (B, K), weight (M, K) and d (B, M).

    In column-major terms, this is d.T <- op(weight) @ a.T.
    """

    def __init__(self, a, weight, d, compute=COMPUTE_32F, workspace=1 << 20, alignment=256):
        self.a, self.weight, self.d = a, weight, d
        self.factors = np.array([1, 0], np.float64 if compute == COMPUTE_64F else np.float32)
        self.handle = lt.create()
        self.operation = lt.matmul_desc_create(compute, 1 if compute == COMPUTE_64F else 0)
        self.set(lt.matmul_desc_set_attribute, self.operation, lt.MatmulDescAttribute.TRANSA, np.int32(1))
        self.layouts = {"a": self.layout(weight), "b": self.layout(a), "c": self.layout(d), "d": self.layout(d)}
        self.preference = lt.matmul_preference_create()
        names = lt.MatmulPreferenceAttribute
        self.set(lt.matmul_preference_set_attribute, self.preference, names.MAX_WORKSPACE_BYTES, np.uint64(workspace))
        for name in (f"MIN_ALIGNMENT_{letter}_BYTES" for letter in "ABCD"):
            self.set(lt.matmul_preference_set_attribute, self.preference, names[name], np.uint32(alignment))
        self.found, count = lt.MatmulHeuristicResult(1), np.zeros(1, np.int32)
        layouts = [self.layouts[letter] for letter in "abcd"]
        lt.matmul_algo_get_heuristic(
            *(self.handle, self.operation, *layouts, self.preference, 1, self.found.ptr, count.ctypes.data)
        )
        assert count[0] == 1
        self.workspace = cupy.zeros(max(1, self.found.workspace_size), np.uint8)

    @staticmethod
    def set(function, descriptor, name, value, size=None):
        held = np.array(value)
        function(descriptor, name, held.ctypes.data, size or held.nbytes)

    @staticmethod
    def layout(array):
        rows, columns = array.shape
        return lt.matrix_layout_create(KINDS[array.dtype.name], columns, rows, array.strides[0] // array.itemsize)

    def run(self, stream=0, **changes):
        one = self.factors.ctypes.data
        d = self.d.data.ptr
        values = {
            "light_handle": self.handle, "compute_desc": self.operation, "alpha": one,
            "a": self.weight.data.ptr, "adesc": self.layouts["a"], "b": self.a.data.ptr, "bdesc": self.layouts["b"],
            "beta": one + self.factors.itemsize, "c": d, "cdesc": self.layouts["c"], "d": d, "ddesc": self.layouts["d"],
            "algo": self.found.ptr, "workspace": self.workspace.data.ptr,
            "workspace_size_in_bytes": self.found.workspace_size, "stream": stream,
        }  # fmt: skip
        lt.matmul(*{**values, **changes}.values())

    def assert_right(self, tolerance=1e-5):
        wide = np.float64 if self.a.dtype == np.float64 else np.float32
        wanted = self.a.get().astype(wide) @ self.weight.get().astype(wide).T
        np.testing.assert_allclose(self.d.get().astype(float), wanted, rtol=tolerance, atol=8 * tolerance)


def operands(dtype="float32", out=None, shape=(6, 4, 8)):
    """Return a (B, K), weight (M, K), and d (B, M) of NaN."""
    dtype, out = (np.dtype(getattr(ml_dtypes, name, name)) for name in (dtype, out or dtype))
    B, M, K = shape
    rng = np.random.default_rng(0)
    a, weight = (cupy.asarray(rng.normal(size=size).astype(dtype)) for size in ((B, K), (M, K)))
    return a, weight, cupy.asarray(np.full((B, M), np.nan, out))


@needs_cuda
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
def test_products(dtype, out, compute, tolerance):
    """C is NaN, and must not be read when beta is 0."""
    product = Product(*operands(dtype, out, (16, 32, 64)), compute)
    product.run()
    product.assert_right(tolerance)


@needs_cuda
def test_products_of_views():
    """Leading dimensions exceed the widths of operands and result. Addresses have a small alignment."""
    rng = np.random.default_rng(0)
    a, weight, d = (cupy.asarray(rng.normal(size=(n, 24)).astype("f4")) for n in (3, 5, 3))
    before = d.get()
    product = Product(a[:, 4:12], weight[:, 8:16], d[:, 2:7], alignment=4)
    product.run()
    product.assert_right()
    np.testing.assert_array_equal(d.get()[:, 7:], before[:, 7:])
    np.testing.assert_array_equal(d.get()[:, :2], before[:, :2])


@needs_cuda
def test_graphs_keep_the_factors_of_their_capture():
    product, stream = Product(*operands()), cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.runtime.deviceSynchronize()
    product.run(stream.ptr)  # CUDA may load it
    stream.synchronize()
    stream.begin_capture()
    product.run(stream.ptr)
    graph = stream.end_capture()
    product.factors[...] = 3
    graph.launch(stream)
    stream.synchronize()
    product.assert_right()


# What the fake one refuses. cuBLASLt may accept it, and then return any number or crash.


@pytest.fixture
def product():
    return Product(*operands())


def refuses(product, status=INVALID_VALUE, **changes):
    before = product.d.get()
    with pytest.raises(lt.cuBLASLtError) as caught:
        product.run(**changes)
    assert caught.value.status == status
    np.testing.assert_array_equal(product.d.get(), before)


@driver_child.of_the_driver
@pytest.mark.parametrize("name", ["a", "b"])
def test_pointers_need_the_heuristics_alignment(product, name):
    wide = cupy.zeros(1024, np.float32)
    refuses(product, **{name: wide.data.ptr + 128})
    product.run(**{name: wide.data.ptr + 256})


@driver_child.of_the_driver
def test_workspaces_are_checked_and_spoiled(product):
    """The product may write all of the given workspace, which is memory of this GPU."""
    size = product.found.workspace_size
    assert size == 1024
    refuses(product, workspace_size_in_bytes=size - 1)
    refuses(product, workspace_size_in_bytes=size + 1)  # beyond its end
    refuses(product, workspace=0)
    product.run()
    np.testing.assert_array_equal(product.workspace.get(), 255)
    without = Product(*operands(), workspace=0)
    assert without.found.workspace_size == 0
    without.run(workspace=0)
    without.assert_right()


@driver_child.of_the_driver
def test_algorithms_belong_to_descriptions(product):
    other = lt.matmul_desc_create(COMPUTE_32F_FAST_TF32, 0)
    product.set(lt.matmul_desc_set_attribute, other, lt.MatmulDescAttribute.TRANSA, np.int32(1))
    refuses(product, compute_desc=other)
    refuses(product, algo=product.found.ptr + 8)
    refuses(product, algo=0)


@driver_child.of_the_driver
def test_leading_dimensions_are_checked(product):
    """One that is too small is refused at once, and a too large one where the memory ends."""
    with pytest.raises(lt.cuBLASLtError, match="INVALID_VALUE"):
        lt.matrix_layout_create(0, 8, 6, 7)
    refuses(product, bdesc=lt.matrix_layout_create(0, 8, 6, 9))


@driver_child.of_the_driver
def test_unknown_attributes_are_refused(product):
    names = lt.MatmulDescAttribute
    for name, value, size in ((names.EPILOGUE, np.int32(1), 4), (names.TRANSA, np.int64(1), 8)):
        with pytest.raises(lt.cuBLASLtError, match="INVALID_VALUE"):
            product.set(lt.matmul_desc_set_attribute, product.operation, name, value, size)
    with pytest.raises(lt.cuBLASLtError, match="INVALID_VALUE"):
        product.set(lt.matmul_preference_set_attribute, product.preference, 0, np.int32(1))


@driver_child.of_the_driver
def test_other_devices_are_refused(product):
    with cupy.cuda.Device(1):
        there, stream = cupy.zeros((6, 8), np.float32), cupy.cuda.Stream()
        refuses(product)
    refuses(product, b=there.data.ptr)
    refuses(product, stream=stream.ptr)


@driver_child.of_the_driver
def test_out_of_place_products_are_refused(product):
    refuses(product, NOT_SUPPORTED, c=cupy.zeros((6, 4), np.float32).data.ptr)


@driver_child.of_the_driver
def test_tf32_is_rounded(product):
    """Operands are rounded to 10 bits, so the product differs from IEEE float32's, as in cuBLAS."""
    product.run()
    ieee = product.d.get()
    Product(product.a, product.weight, product.d, COMPUTE_32F_FAST_TF32).run()
    assert not np.array_equal(product.d.get(), ieee)
    one = 1 + np.arange(4, dtype=np.float32)[:, None] * 2.0**-11
    a, weight, d = cupy.asarray(one), cupy.ones((1, 1), np.float32), cupy.zeros((4, 1), np.float32)
    Product(a, weight, d, COMPUTE_32F_FAST_TF32).run()
    np.testing.assert_array_equal(d.get()[:, 0], [1, 1 + 2.0**-10, 1 + 2.0**-10, 1 + 2.0**-9])
