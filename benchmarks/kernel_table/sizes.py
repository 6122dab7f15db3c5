"""The rows of the tables: arithmetics, units N = I, batches B and steps T, the most valuable ones first."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fusedlstm.backends import kernel_choice, sequence_choice

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


# The same for sequences, with batches, and steps T. A scan has up to 128 units.
_GROUPS_OF_SEQUENCES = (
    ((_BFLOAT16,), (128,), (1, 16, 32, 128, 1024), 128),
    ((_BFLOAT16,), (256, 512), (1, 32, 128), 128),
    ((_TF32,), (64, 128), (1, 32, 1024), 128),
    ((_FLOAT32,), (128, 512), (1, 32), 128),
    ((_BFLOAT16,), (64, 128), (32,), 16),
    ((_BFLOAT16,), (128,), (1, 32), 1600),
    ((_FLOAT16,), (128,), (1, 32, 1024), 128),
    ((_BFLOAT16, _TF32), (384, 1024), (32,), 128),
    ((_BFLOAT16, _TF32, _FLOAT32), (512,), (1024,), 16),
    ((_BFLOAT16,), (64, 128), (2048, 4096), 16),
)


class Size(NamedTuple):
    """A row of a table. T is 1 for a step."""

    dtype: str
    precision: str
    B: int
    N: int
    T: int = 1

    @property
    def id(self) -> str:
        """The row's name."""
        return f"{self.arithmetic} N={self.N} B={self.B}{f' T={self.T}' if self.T > 1 else ''}"

    @property
    def arithmetic(self) -> str:
        """The kind of products: "tf32" for float32 at high precision."""
        return kernel_choice.arithmetic(self.dtype, self.precision)

    @property
    def kernels(self) -> list[str]:
        """The kernels that can multiply so."""
        names = kernel_choice.NAMES if self.T == 1 else sequence_choice.NAMES
        if self.N > sequence_choice.MOST_UNITS:
            names = tuple(name for name in names if name != sequence_choice.SCAN)
        reason_against = kernel_choice.reason_against
        return [name for name in names if reason_against(name, self.dtype, self.precision) is None]


def _all() -> Iterator[Size]:
    for arithmetics, sizes in _GROUPS:
        for N in sizes:
            for arithmetic in arithmetics:
                yield from (Size(*arithmetic, B, N) for B in BATCHES)


SIZES = list(_all())
SEQUENCES = [
    Size(*arithmetic, B, N, T)
    for arithmetics, sizes, batches, T in _GROUPS_OF_SEQUENCES
    for N in sizes
    for arithmetic in arithmetics
    for B in batches
]
DRY_SIZES = [
    Size(*_BFLOAT16, 9, 16),
    Size(*_FLOAT32, 9, 16),
    Size(*_TF32, 9, 16),
    Size(*_FLOAT16, 100, 16),
]
DRY_SEQUENCES = [size._replace(B=9, T=4) for size in DRY_SIZES]


def sizes(*, dry: bool, sequences: bool) -> list[Size]:
    """Return the rows of the table of steps or of sequences, in order."""
    if dry:
        return DRY_SEQUENCES if sequences else DRY_SIZES
    return SEQUENCES if sequences else SIZES
