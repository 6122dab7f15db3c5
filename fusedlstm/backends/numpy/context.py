"""Run the NumPy backend's work in its own context, with NumPy's warnings off.

`numpy.errstate` is Python code that turns warnings off in the current context of `contextvars`. If an interrupt comes
in the middle of it, they stay off. Before Python 3.12, if the garbage collector then runs a finalizer that also uses
`errstate`, the process crashes. Running each call in a copy of the context avoids both. NumPy 1 stores the setting in
the thread instead, so it is restored there.
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
    """Return work(*arguments) without NumPy's warnings: saturation overflows on purpose, and NaN gives NaN."""
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
