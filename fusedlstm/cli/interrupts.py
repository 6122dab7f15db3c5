"""End the command in one line if it is interrupted while it is still being imported, where `main` can't catch that.

`fusedlstm/__init__.py` imports this before NumPy, as a command's imports begin there. Other programs are left alone.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def _is_command() -> bool:
    """Return whether this process is `fusedlstm`, or `python -m fusedlstm`."""
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    if program == "-m":  # Python's own placeholder while it looks for the module
        return not {"fusedlstm", "-mfusedlstm"}.isdisjoint(sys.orig_argv)
    return os.path.splitext(os.path.basename(program))[0] == "fusedlstm"


def _report(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("fusedlstm: interrupted\n")
    else:
        sys.__excepthook__(kind, error, traceback)


if _is_command():
    sys.excepthook = _report
