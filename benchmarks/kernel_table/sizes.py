"""The rows of the table: arithmetics, units N = I and batches B, the most valuable ones first."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fusedlstm.backends import kernel_choice

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCHES = (1, 8, 32, 64, 128, 256, 512, 1024, 4096, 16384)
_FLOAT32, _TF32 = ("float32", "highest"), ("float32", "high")
_BFLOAT16, _FLOAT16 = ("bfloat16", "highest"), ("float16", "highest")
# Groups of arithmetics and sizes N. float16's kernels are bfloat16's, so it comes late.
_GROUPS = (
    ((_BFLOAT16, _FLOAT32), (128, 256)),
    ((_BFLOAT16,), (512, 1024)),
    ((_TF32,), (128, 256, 512)),
    ((_FLOAT32,), (512, 1024)),
    ((_BFLOAT16, _FLOAT32, _TF32), (64,)),
    ((_FLOAT16,), (128, 256)),
    ((_TF32,), (1024,)),
    ((_FLOAT16,), (512, 1024, 64)),
)
# Where PyTorch's LSTMCell is timed, too.
OF_LSTM_CELL = {(1, 128), (32, 256), (256, 256), (1024, 512), (4096, 1024)}


class Size(NamedTuple):
    """A row of the table."""

    dtype: str
    precision: str
    B: int
    N: int

    @property
    def id(self) -> str:
        """The row's name."""
        return f"{self.arithmetic} N={self.N} B={self.B}"

    @property
    def arithmetic(self) -> str:
        """The kind of products: "tf32" for float32 at high precision."""
        return kernel_choice.arithmetic(self.dtype, self.precision)

    @property
    def kernels(self) -> list[str]:
        """The kernels that can multiply so."""
        reason_against = kernel_choice.reason_against
        return [name for name in kernel_choice.NAMES if reason_against(name, self.dtype, self.precision) is None]


def _all() -> Iterator[Size]:
    for arithmetics, sizes in _GROUPS:
        for N in sizes:
            for arithmetic in arithmetics:
                yield from (Size(*arithmetic, B, N) for B in BATCHES)


SIZES = list(_all())
DRY_SIZES = [
    Size(*_BFLOAT16, 9, 16),
    Size(*_FLOAT32, 9, 16),
    Size(*_TF32, 9, 16),
    Size(*_FLOAT16, 100, 16),
]
