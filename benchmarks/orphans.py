"""End child processes with this one, even if it is killed. Only Linux supports that; elsewhere they run to their end.

This file is also a program that asks for this, and then becomes the child's program. subprocess's preexec_fn would run
other libraries' fork hooks, and JAX's warns.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>
_NOT_FOUND = 127  # a shell's status


def ending(command: list[str]) -> list[str]:
    """Return a command that runs another one, and ends when this process does."""
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def _main(parent: str, *command: str) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # the parent ended before this
        return 1
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{error}: {command[0]!r}\n")
        return _NOT_FOUND


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
