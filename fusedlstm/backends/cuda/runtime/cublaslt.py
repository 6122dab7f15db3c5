"""Planned matmuls: cuBLASLt chooses an algorithm once. Launching one doesn't allocate, so it can be captured.

CuPy doesn't wrap cuBLASLt, and its cuBLAS can't be captured. So this uses nvmath-python's bindings.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.runtime.cublas import ALPHA_BETA, TYPES, compute_type
from fusedlstm.backends.cuda.runtime.strides import row_stride

if TYPE_CHECKING:
    from collections.abc import Iterator

# The most bytes of workspace that cuBLASLt may use.
MOST_WORKSPACE = 32 << 20
_ALIGNMENT = 256  # of CuPy's allocations, and the most that cuBLASLt asks for


def why_not() -> str | None:
    """Return why steps can't be planned here, or None."""
    if importlib.util.find_spec("nvmath") is None:
        return "nvmath-python is not installed (fusedlstm's extra cuda13, or cuda12, brings it)"
    try:
        from nvmath.bindings import cublasLt  # noqa: F401
    except Exception as error:  # a broken install fails in many ways
        return f"nvmath-python is installed but can't be imported: {error}"
    return None


def check_can_plan() -> None:
    """Raise BackendUnavailableError if steps can't be planned."""
    reason = why_not()
    if reason is not None:
        from fusedlstm.errors import BackendUnavailableError

        raise BackendUnavailableError(f"Steppers, pools and sequences can't run on cuda here: {reason}")


class Matmul:
    """The product out = x @ weight.T of arrays that stay in place.

    Args:
        out: (M, R), with contiguous rows, in the inputs' dtype. For 16-bit inputs, float32 is also allowed.
        x: (M, K), with contiguous rows.
        weight: (R, K), with contiguous rows, in x's dtype.
        precision: "highest" or "high", as in `cublas.write_product`.

    Raises:
        RuntimeError: cuBLASLt can't multiply these.
    """

    def __init__(self, out: Any, x: Any, weight: Any, precision: str) -> None:
        from nvmath.bindings import cublasLt

        self._lt, self._handle = cublasLt, _handle(cupy.cuda.runtime.getDevice())
        self._arrays = weight, x, out  # kept alive; cuBLASLt is column-major, and sees out.T = weight @ x.T
        (M, K), R = x.shape, len(weight)
        wide = out.dtype == np.float64
        self._factors = ALPHA_BETA[wide]
        self._scopes = contextlib.ExitStack()  # destroys the descriptors on close
        try:
            arithmetic = compute_type(weight.dtype, precision), TYPES["float64" if wide else "float32"]
            self._operation = self._made(cublasLt.matmul_desc_create(*arithmetic), cublasLt.matmul_desc_destroy)
            _set(cublasLt.matmul_desc_set_attribute, self._operation, cublasLt.MatmulDescAttribute.TRANSA, np.int32(1))
            sizes = (K, R), (K, M), (R, M)
            self._layouts = [
                self._made(
                    cublasLt.matrix_layout_create(TYPES[array.dtype.name], rows, columns, row_stride(array)),
                    cublasLt.matrix_layout_destroy,
                )
                for array, (rows, columns) in zip(self._arrays, sizes, strict=True)
            ]
            self._choose()
        except BaseException:
            self.close()
            raise

    def _made(self, descriptor: int, destroy: Any) -> int:
        self._scopes.callback(destroy, descriptor)
        return descriptor

    def _choose(self) -> None:
        """Ask cuBLASLt for the algorithm that it expects to be fastest."""
        lt = self._lt
        names = lt.MatmulPreferenceAttribute
        with _preference(lt) as preference:
            limits = {names.MAX_WORKSPACE_BYTES: np.uint64(MOST_WORKSPACE)}
            weight, x, out = map(_alignment, self._arrays)
            limits |= {names.MIN_ALIGNMENT_A_BYTES: weight, names.MIN_ALIGNMENT_B_BYTES: x}
            limits |= {names.MIN_ALIGNMENT_C_BYTES: out, names.MIN_ALIGNMENT_D_BYTES: out}
            for attribute, value in limits.items():
                _set(lt.matmul_preference_set_attribute, preference, attribute, value)
            self._choice, found = lt.MatmulHeuristicResult(1), np.zeros(1, np.int32)
            a, b, c = self._layouts
            lt.matmul_algo_get_heuristic(
                *(self._handle, self._operation, a, b, c, c, preference, 1, self._choice.ptr, found.ctypes.data)
            )
        if not found[0]:
            shapes = [f"{array.dtype} {array.shape}" for array in self._arrays]
            raise RuntimeError(f"cuBLASLt can't multiply {shapes[1]} by {shapes[0]} to {shapes[2]}")
        self.workspace_bytes = int(self._choice.workspace_size)

    def queue(self, workspace: Any) -> None:
        """Queue it on the current stream. `workspace` has at least `workspace_bytes`, and no other use meanwhile."""
        (alpha, beta), (a, b, c) = self._factors, self._layouts
        weight, x, out = (array.data.ptr for array in self._arrays)
        self._lt.matmul(
            *(self._handle, self._operation, alpha, weight, a, x, b, beta, out, c, out, c),
            *(self._choice.ptr, workspace.data.ptr if workspace.size else 0, workspace.nbytes),
            cupy.cuda.get_current_stream().ptr,
        )

    def close(self) -> None:
        """Destroy cuBLASLt's descriptors. Captured graphs no longer need them."""
        self._scopes.close()


_LOCK = threading.RLock()  # reentrant, as a signal handler may call again
_handles: dict[int, int] = {}


def _handle(device: int) -> int:
    """Return cuBLASLt's handle for a GPU, which is the current one. It lives as long as the process."""
    from nvmath.bindings import cublasLt

    with _LOCK:
        if device not in _handles:
            _handles.setdefault(device, cublasLt.create())
        return _handles[device]


@contextlib.contextmanager
def _preference(lt: Any) -> Iterator[int]:
    preference = lt.matmul_preference_create()
    try:
        yield preference
    finally:
        lt.matmul_preference_destroy(preference)


def _set(function: Any, descriptor: int, attribute: int, value: Any) -> None:
    """Set an attribute, which cuBLASLt reads through a pointer."""
    held = np.array(value)
    function(descriptor, attribute, held.ctypes.data, held.nbytes)


def _alignment(array: Any) -> np.uint32:
    """Return the largest power of two that divides an array's address, up to _ALIGNMENT."""
    address = int(array.data.ptr) | _ALIGNMENT
    return np.uint32(address & -address)
