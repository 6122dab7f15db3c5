"""Let child processes end with this one, even if it is killed. Only Linux offers that: elsewhere they run to their end.

Pass `**OPTIONS` to subprocess.Popen or subprocess.run. A child's own children end only if it starts them in this way.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1  # the number of Linux's call for this
_PARENT = os.getpid()


def _end_with_parent() -> None:
    """Ask for SIGKILL when the parent ends. This runs in the child, and calls nothing but the system."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != _PARENT:  # it ended before that
        os._exit(1)


OPTIONS: dict[str, Any] = {}
if sys.platform == "linux":
    _LIBC = ctypes.CDLL(None)
    OPTIONS["preexec_fn"] = _end_with_parent
