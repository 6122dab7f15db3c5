"""The CUDA backend: CuPy's arrays, cuBLAS' matmul, and everything else of a step in one launch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm import dtypes
from fusedlstm.backends.cuda.gemm import add_product
from fusedlstm.backends.cuda.launch import launch_clip, launch_pointwise
from fusedlstm.backends.cuda.layout import span
from fusedlstm.checks import check_no_grad, fail
from fusedlstm.interop import host_mask, to_host_reals

if TYPE_CHECKING:
    from types import ModuleType

    from fusedlstm.weights import LSTMWeights


@functools.cache
def backend_on(index: int) -> CudaBackend:
    """Return the backend of one GPU."""
    return CudaBackend(index)


class StepPlan:
    """One step of a cell, for any batch: weights on the device; scratch comes from CuPy's pool."""

    def __init__(self, weights: LSTMWeights, precision: str) -> None:
        on_device = {name: cupy.asarray(array) for name, array in weights.arrays().items()}
        self.weight_ih = on_device["weight_ih"]
        self.weight_hh = on_device["weight_hh"]
        self.weight_hr = on_device.get("weight_hr")
        self.bias = on_device.get("bias")
        self.peephole = on_device.get("peephole")
        self.cell_clip, self.proj_clip = weights.cell_clip, weights.proj_clip
        self.activation = weights.activation
        self.precision = precision
        self.gates_dtype = dtypes.state_dtype(weights.dtype)
        self.device = cupy.cuda.Device()
        cupy.cuda.get_current_stream().synchronize()  # other streams may be the first to use the weights

    def run(
        self,
        x: Any,
        h: Any,
        c: Any,
        h_out: Any,
        c_out: Any,
        is_first: Any = None,
        reset_h: Any = None,
        reset_c: Any = None,
    ) -> None:
        """Write the next h and c on the current stream. c_out may be c."""
        if len(x) == 0:
            return
        with self.device:
            self._run(x, h, c, h_out, c_out, is_first, reset_h, reset_c)

    def _run(self, x: Any, h: Any, c: Any, h_out: Any, c_out: Any, is_first: Any, reset_h: Any, reset_c: Any) -> None:
        gates = self._product(x, self.weight_ih)
        gates_h = reset_gates = None
        if is_first is None:
            self._product(h, self.weight_hh, into=gates)
        else:  # the kernel picks, row by row, which part of h to add
            gates_h = self._product(h, self.weight_hh)
            reset_gates = None if reset_h is None else self._product(reset_h, self.weight_hh)
        m = h_out if self.weight_hr is None else cupy.empty(c.shape, h_out.dtype)
        launch_pointwise(
            gates,
            c,
            m,
            c_out,
            gates_h=gates_h,
            bias=self.bias,
            peephole=self.peephole,
            cell_clip=self.cell_clip,
            activation=self.activation,
            is_first=is_first,
            reset_c=reset_c,
            reset_gates=reset_gates,
        )
        if self.weight_hr is not None:
            add_product(h_out, m, self.weight_hr, accumulate=False, precision=self.precision)
            if self.proj_clip is not None:
                launch_clip(h_out, self.proj_clip)

    def _product(self, a: Any, weight: Any, into: Any = None) -> Any:
        """Return a @ weight.T in the dtype of the arithmetic, or add it to an array."""
        out = cupy.empty((a.shape[0], weight.shape[0]), self.gates_dtype) if into is None else into
        add_product(out, a, weight, accumulate=into is not None, precision=self.precision)
        return out


class CudaBackend:
    """The backend of one GPU."""

    name = "cuda"
    array_type: type = cupy.ndarray
    xp: ModuleType = cupy

    def __init__(self, index: int) -> None:
        self.device = f"cuda:{index}"
        self._index = index
        self._device = cupy.cuda.Device(index)

    def asarray(self, x: Any, dtype: np.dtype[Any]) -> Any:
        """Return `x` as a CuPy array of this dtype on this device; no copy where it is one."""
        check_no_grad("x", x)
        with self._device:
            if _is_on_a_device(x):
                array = cupy.asarray(x)
                if array.dtype.kind == "c":
                    fail(TypeError, "x", "real numbers", f"dtype {array.dtype}")
                if array.device.id != self._index:
                    array = array.copy()  # on the current device
                return array.astype(dtype, copy=False)
            return cupy.asarray(to_host_reals("x", x, dtype))

    def mask(self, values: Any) -> Any:
        """Return a mask on this device; a host array of no booleans is returned as it is, to be refused."""
        if isinstance(values, cupy.ndarray):
            return values
        host = host_mask(values)
        if host.dtype != np.bool_:
            return host
        with self._device:
            return cupy.asarray(host)

    def signature(self, x: Any, h: Any, c: Any) -> tuple[Any, ...]:
        """Return what the checks of these arrays depend on."""
        places = x.device.id, h.device.id, c.device.id
        return type(x), x.shape, x.dtype, type(h), h.shape, h.dtype, type(c), c.shape, c.dtype, places

    def device_of(self, array: Any) -> str:
        """Return "cuda:<index>" of an array."""
        return f"cuda:{array.device.id}"

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return an array of zeros."""
        with self._device:
            return cupy.zeros(shape, dtype)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return an uninitialised array."""
        with self._device:
            return cupy.empty(shape, dtype)

    def overlap(self, a: Any, b: Any) -> bool:
        """Whether the memory of two arrays may overlap: whether the spans of their addresses do."""
        if a.size == 0 or b.size == 0:
            return False
        a_start, a_end = span(a)
        b_start, b_end = span(b)
        return a_start < b_end and b_start < a_end

    def same_place(self, a: Any, b: Any) -> bool:
        """Whether two arrays are the same memory, element by element."""
        return bool(a.data.ptr == b.data.ptr and a.strides == b.strides)

    def side_by_side(self, a: Any, b: Any, dtype: np.dtype[Any]) -> Any:
        """Return one array of the columns of both."""
        with self._device:
            return cupy.concatenate([a.astype(dtype, copy=False), b.astype(dtype, copy=False)], axis=1)

    def largest_over_1(self, h: Any, is_first: Any) -> float:
        """Return the largest |h| over 1, or 0, in rows that are not reset; waits for the device. NaN is none."""
        with self._device:
            sizes = cupy.abs(h.astype(np.float64))
            sizes = cupy.where(sizes > 1, sizes, 0)
            if is_first is not None:
                sizes = cupy.where(is_first[:, None], 0, sizes)
            return float(sizes.max()) if sizes.size else 0.0

    def step_plan(self, weights: LSTMWeights, precision: str) -> StepPlan:
        """Return the plan of a cell's step."""
        with self._device:
            return StepPlan(weights, precision)

    def pointwise(self, *arrays: Any, **options: Any) -> None:
        """Run `lstm_pointwise`."""
        with self._device:
            launch_pointwise(*arrays, **options)


def _is_on_a_device(x: Any) -> bool:
    """Whether CuPy can take an array as it is; not of void, as which PyTorch describes bfloat16."""
    interface = getattr(x, "__cuda_array_interface__", None)
    return isinstance(x, cupy.ndarray) or (interface is not None and "V" not in interface["typestr"])
