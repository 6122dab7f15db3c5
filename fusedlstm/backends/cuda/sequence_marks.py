"""The lengths, masks and resets of a call on the GPU, and the flags of a chunk of steps for kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.sequence_kernels import as_lengths, flags_launch

if TYPE_CHECKING:
    from fusedlstm.backends.cuda.runtime.pinned import Uploads
    from fusedlstm.backends.sequence_run import SequenceRun


@dataclass(frozen=True)
class Marks:
    """Which rows take which of T steps, and where sequences begin.

    Attributes:
        T: the number of steps.
        lengths: (B,) of int64 on the device, or None.
        mask: (T, B) booleans on the device, or None.
        is_first: likewise.
    """

    T: int
    lengths: Any = None
    mask: Any = None
    is_first: Any = None

    @classmethod
    def of(cls, run: SequenceRun, uploads: Uploads) -> Marks:
        """Return the marks of a call. Those in host memory that have an effect are uploaded on the current stream.

        Nothing is read from the GPU.
        """
        T, lengths, mask, is_first = len(run.xs), run.lengths, run.mask, run.is_first
        if isinstance(lengths, np.ndarray):
            lengths = None if (lengths == T).all() else _uploaded(lengths.astype(np.int64), uploads)
        elif lengths is not None:
            lengths = as_lengths(lengths, T)
        if isinstance(mask, np.ndarray):
            mask = None if mask.all() else _uploaded(mask, uploads)
        if isinstance(is_first, np.ndarray):
            is_first = _uploaded(is_first, uploads) if is_first.any() else None
        return cls(T, lengths, mask, is_first)

    @property
    def any(self) -> bool:
        """Whether rows can be reset or idle."""
        return self.lengths is not None or self.mask is not None or self.is_first is not None

    def queue_flags(self, flags: Any, start: int, *, reverse: bool) -> None:
        """Queue the kernel that writes the flags (S, B) of the steps from `start` on, on the current stream."""
        marks = {"lengths": self.lengths, "mask": self.mask, "is_first": self.is_first}
        flags_launch(flags, start, self.T, **marks, reverse=reverse).queue()


def _uploaded(values: Any, uploads: Uploads) -> Any:
    """Return a copy of a NumPy array on the GPU, queued on the current stream."""
    array = cupy.empty(values.shape, values.dtype)
    if array.size:
        uploads.queue(array, np.ascontiguousarray(values).reshape(-1), cupy.cuda.get_current_stream())
    return array
