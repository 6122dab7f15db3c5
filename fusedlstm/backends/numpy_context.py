"""Work of the NumPy backend in a context of its own, where NumPy's warnings are switched off.

`numpy.errstate` switches them off in the current context of `contextvars`, by Python code. Where an interrupt comes in
the middle of that, they stay off. And before Python 3.12 the process crashes where the garbage collector comes in the
middle of that and runs a finalizer that uses `errstate`, too. A context that is a call's own has neither. NumPy 1 keeps
them with the thread, where they are put back.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")
_BY_THREAD = int(np.__version__.partition(".")[0]) < 2


def quietly(work: Callable[..., _Result], *arguments: object) -> _Result:
    """Return work(*arguments), without warnings: saturation overflows on purpose; NaN in is NaN out."""
    if _BY_THREAD:
        return _quietly_in_thread(work, arguments)
    return contextvars.copy_context().run(_quietly, work, arguments)


def _quietly(work: Callable[..., _Result], arguments: tuple[object, ...]) -> _Result:
    with np.errstate(all="ignore"):
        return work(*arguments)


def _quietly_in_thread(work: Callable[..., _Result], arguments: tuple[object, ...]) -> _Result:
    before = np.geterr()
    try:
        return _quietly(work, arguments)
    except BaseException:
        np.seterr(**before)
        raise
