"""Products by cuBLASLt, like the package's."""

import cupy
import ml_dtypes
import numpy as np
from nvmath.bindings import cublasLt as lt  # noqa: N813

KINDS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77


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
