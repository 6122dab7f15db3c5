"""A cell's step, repeated for arrays of one layout. What the layout decides is chosen, checked and packed once.

With "matmul", cuBLAS multiplies x and h, and one launch does the rest. h's product is separate even without resets, as
that costs no more. So resetting some rows changes no bit of the others. Any other kernel is one launch. Projections and
zoneout may take more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import cupy

from fusedlstm.backends.cuda.device_weights import padded
from fusedlstm.backends.cuda.kernels import Destinations, clip_launch, finish_launch, pointwise_launch, select_launch
from fusedlstm.backends.cuda.runtime import cublas
from fusedlstm.backends.cuda.runtime.packed import PackedLaunch, members_with
from fusedlstm.backends.cuda.runtime.strides import RowCopy, Zeros
from fusedlstm.backends.cuda.step_kernels import Resets, launches, needs_m

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from fusedlstm.backends.cuda.device_weights import DeviceWeights
    from fusedlstm.backends.cuda.runtime.kernel import Launch

_ALIGNMENT = 256  # bytes, of each array in the scratch memory
_STREAM, _HANDLE = 0, 1  # what work is queued on: a stream, or cuBLAS's handle


class Operands(NamedTuple):
    """The arrays of a step, or their addresses. Rows are contiguous. h_out and c_out are contiguous as a whole.

    Attributes:
        x: (B, I).
        h: (B, P).
        c: (B, N).
        h_out: (B, P).
        c_out: (B, N), which may be c.
        is_first: (B,), or None.
        reset_h: (B, P) or (1, P), or None.
        reset_c: (B, N) or (1, N), or None.
        reset_gates: reset_h's part of the gates, or None.
    """

    x: Any
    h: Any
    c: Any
    h_out: Any
    c_out: Any
    is_first: Any = None
    reset_h: Any = None
    reset_c: Any = None
    reset_gates: Any = None


class RepeatedStep:
    """The work of a step, for all operands with the layouts and alignments of `first`.

    Args:
        weights: the cell's weights. The work refers to their memory.
        kernel: a name of `kernel_choice.py`.
        precision: the precision of products.
        first: the operands of the first step.
    """

    def __init__(self, weights: DeviceWeights, kernel: str, precision: str, first: Operands) -> None:
        self._weights, self._precision = weights, precision
        self._arrays: list[Any] = [a.view() for a in first if a is not None]  # c and c_out may be one object
        self._offsets: list[int] = []  # of the arrays in scratch memory
        self._scratch_bytes = 0
        self._work: list[tuple[Callable[[int, Sequence[int]], None], int]] = []
        operands = Operands(*self._arrays)  # only the last ones can be None
        if kernel == "matmul":
            self._matmul(operands)
        else:
            self._one_kernel(operands, kernel)
        self._multiplies = any(on == _HANDLE for _, on in self._work)
        del self._arrays  # so as not to keep them alive

    def queue(self, stream: int, addresses: Sequence[int]) -> None:
        """Queue the step on CuPy's current stream, which has this handle.

        Args:
            stream: the handle.
            addresses: the addresses of the Operands that are not None, in order.
        """
        if self._scratch_bytes:
            scratch = cupy.cuda.alloc(self._scratch_bytes)  # freed in the order of the stream
            begin = scratch.ptr
            addresses = (*addresses, *[begin + offset for offset in self._offsets])
        if not self._multiplies:
            for queue, _ in self._work:
                queue(stream, addresses)
            return
        handle, mode = cublas.begin()
        try:
            on = stream, handle
            for queue, which in self._work:
                queue(on[which], addresses)
        finally:
            cublas.end(handle, mode)

    def _matmul(self, o: Operands) -> None:
        """List the products of x and h, the pointwise launch, and what follows it."""
        weights = self._weights
        B, N = o.c.shape
        gates = self._product(o.x, weights.weight_ih, weights.gates_dtype)
        of_h = self._product(o.h, weights.weight_hh, weights.gates_dtype)
        old_h = self._old_h(o) if weights.functions.zoneout_h else None
        m = o.h_out if weights.weight_hr is None else self._scratch((B, N), weights.dtype)
        self._launch(
            pointwise_launch(
                gates,
                o.c,
                m,
                o.c_out,
                gates_h=of_h,
                bias=weights.bias,
                peephole=weights.peephole,
                cell_clip=weights.cell_clip,
                functions=weights.functions_of_m,
                is_first=o.is_first,
                reset_c=o.reset_c,
                reset_gates=o.reset_gates,
            )
        )
        if weights.weight_hr is not None:
            self._multiply(m, weights.weight_hr, o.h_out)
        if old_h is not None:
            to = Destinations(o.h_out, old_h=old_h)
            self._launch(finish_launch(o.h_out, to, weights.proj_clip, weights.functions.zoneout_h))
        elif weights.proj_clip is not None:
            self._launch(clip_launch(o.h_out, weights.proj_clip))

    def _old_h(self, o: Operands) -> Any:
        """Return the h that zoneout keeps a part of: a copy with the reset rows replaced, if there are any."""
        if o.is_first is None:
            return o.h
        old_h = self._scratch(o.h.shape, o.h.dtype)
        self._work.append((RowCopy(old_h, o.h, (self._place(old_h), self._place(o.h))).queue, _STREAM))
        self._launch(select_launch(old_h, o.is_first, o.reset_h))
        return old_h

    def _one_kernel(self, o: Operands, kernel: str) -> None:
        """List the launches of one kernel."""
        weights, B = self._weights, len(o.c)
        m = None
        if needs_m(weights, kernel, B):
            m = self._scratch((B, padded(weights.N, weights.dtype)), weights.dtype, columns=weights.N)
        resets = Resets(o.is_first, o.reset_h, o.reset_c)
        to = Destinations(o.h_out)
        for launch in launches(weights, kernel, o.x, o.h, o.c, o.c_out, to, m, resets=resets):
            self._launch(launch)

    def _launch(self, launch: Launch) -> None:
        packed = PackedLaunch(launch, members_with(launch, self._arrays))
        self._work.append((packed.queue, _STREAM))

    def _product(self, a: Any, weight: Any, dtype: np.dtype[Any]) -> Any:
        """Return a @ weight.T in scratch memory, and list the product."""
        out = self._scratch((len(a), len(weight)), dtype)
        self._multiply(a, weight, out)
        return out

    def _multiply(self, a: Any, weight: Any, out: Any) -> None:
        if not a.shape[1]:
            self._work.append((Zeros(out, self._place(out)).queue, _STREAM))
            return
        product = cublas.Product(out, a, weight, self._precision, (self._place(a), self._place(out)))
        self._work.append((product.queue, _HANDLE))

    def _scratch(self, shape: tuple[int, int], dtype: np.dtype[Any], columns: int | None = None) -> Any:
        """Return an array in scratch memory, or only its first columns. It stands for what later steps allocate."""
        nbytes = -(-shape[0] * shape[1] * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        array = cupy.ndarray(shape, dtype, cupy.cuda.alloc(nbytes))[:, :columns]
        self._offsets.append(self._scratch_bytes)
        self._scratch_bytes += nbytes
        self._arrays.append(array)
        return array

    def _place(self, array: Any) -> int:
        """Return the number of an operand or of an array in scratch memory."""
        return next(k for k, each in enumerate(self._arrays) if each is array)
