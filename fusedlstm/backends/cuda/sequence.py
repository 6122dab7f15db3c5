"""Step a cell through a sequence: one product for the x of many steps, unless a kernel multiplies x and h."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusedlstm.backends.cuda.cell import CudaCell, Reset

# The most elements of gates that one product computes from x: 64 MiB of float32.
_CHUNK = 1 << 24


class CudaSequence:
    """Until the graph form is there."""

    def __init__(self, cell: CudaCell) -> None:
        self._cell = cell

    def steps_at_once(self, B: int) -> int:
        """Return how many steps to pass to `input_gates` at once, so that their gates have at most _CHUNK elements.

        A kernel that does a whole step multiplies x itself, so there are no gates, and it is 1.
        """
        if self._cell.kernel_for(B) != "matmul":
            return 1
        return max(1, _CHUNK // max(1, 4 * self._cell.weights.N * B))

    def input_gates(self, xs: Any) -> Any:
        """Return x's part of the gates for the steps xs: (T, B, I) -> (T, B, 4N)."""
        cell = self._cell
        cell.check()
        T, B, I = xs.shape
        return cell.product(xs.reshape(T * B, I), cell.weights.weight_ih).reshape(T, B, -1)

    def run_gates(
        self, gates: Any, h: Any, c: Any, h_out: Any, c_out: Any, is_first: Any = None, reset: Reset | None = None
    ) -> None:
        self._cell.step_from_x_gates(gates, h, c, h_out, c_out, is_first, reset)

    def run_steps(self, xs: Any, h: Any, c: Any, ys: Any, c_out: Any) -> None:
        at_once = self.steps_at_once(len(c))
        if at_once == 1:
            for x, y in zip(xs, ys, strict=True):
                self._cell.run(x, h, c, y, c_out)
                h, c = y, c_out
            return
        for start in range(0, len(xs), at_once):
            part = slice(start, start + at_once)
            for gates, y in zip(self.input_gates(xs[part]), ys[part], strict=True):
                self.run_gates(gates, h, c, y, c_out)
                h, c = y, c_out
