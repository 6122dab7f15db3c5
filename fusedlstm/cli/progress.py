"""A bar that shows how many steps a command has taken."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from fusedlstm import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """Give a function that counts what is done, on a terminal from the first second on, if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        if sys.stderr is not None and sys.stderr.isatty():
            log.info("no progress bar: install the extra cli to get one")
        yield lambda _: None
        return
    with tqdm(total=total, unit=unit, delay=1, disable=None) as shown:
        yield shown.update
