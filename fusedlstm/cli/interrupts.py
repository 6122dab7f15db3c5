"""End the command with one line of output if Ctrl-C is pressed, at any time from its first import to its end.

`fusedlstm/__init__.py` imports this before all else, as a command's imports begin there. Other programs are left alone.

Within `main` an interrupt raises KeyboardInterrupt, so that commands clean up. Before and after it the process ends at
once. Otherwise a KeyboardInterrupt would become an ImportError while a C module is imported, or a traceback at exit.

Within `main` SIGTERM and SIGHUP raise KeyboardInterrupt, too. Job schedulers and closed terminals send them, and a
command that runs for hours may have written gigabytes to a temporary file.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing would be one more import before the handler is in place
if TYPE_CHECKING:
    from typing import Any


class _Seen:
    came = 0  # the signal that interrupted `main`
    told = False  # whether the line was written


_SAID = {2: "interrupted", 15: "terminated", 1: "hung up"}  # what signals do, by their numbers


def begin() -> None:
    """Raise KeyboardInterrupt from now on. Call this at the start of `main`."""
    _Seen.came, _Seen.told = 0, False
    if _handles:
        _replace_interrupts(_raise)
        _replace_others(signal.SIG_DFL, _raise)


def end() -> None:
    """End the process at an interrupt from now on. Call this at the end of `main`."""
    if _handles:
        _replace_interrupts(_exit)
        _replace_others(_raise, signal.SIG_DFL)


def _replace_interrupts(new: Any) -> None:
    """Replace the handler of SIGINT, unless it is ignored, as shells do for commands in the background."""
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _raise, _exit):
        signal.signal(signal.SIGINT, new)


def _replace_others(old: object, new: Any) -> None:
    """Replace the handlers of SIGTERM and SIGHUP. A signal that is ignored, as by nohup, stays so."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is old:
            signal.signal(number, new)


def came() -> bool:
    """Return whether there was an interrupt since `begin`, even if another exception has replaced it."""
    return _Seen.came > 0


def status() -> int:
    """Return the exit status of an interrupted command, as shells define it."""
    return 128 + (_Seen.came or 2)


def tell() -> None:
    """Write the line, unless it was written since `begin`."""
    if not _Seen.told and sys.stderr is not None:
        _Seen.told = True
        try:  # contextlib.suppress would be one more import before the handler is in place
            sys.stderr.write(f"fusedlstm: {_SAID.get(_Seen.came or 2)}\n")
            sys.stderr.flush()
        except OSError:
            pass


def _exit(*_: object) -> None:
    tell()
    os._exit(130)


def _raise(number: int, _: object) -> None:
    _Seen.came = number
    raise KeyboardInterrupt


def _report(kind: type[BaseException], error: BaseException, _: object) -> None:
    if issubclass(kind, KeyboardInterrupt):
        tell()
    else:
        sys.__excepthook__(kind, error, error.__traceback__)


def _report_ignored(ignored: sys.UnraisableHookArgs) -> None:
    """End the process if a KeyboardInterrupt was raised where Python ignores it, as in a weakref's callback."""
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        tell()
        os._exit(status())
    sys.__unraisablehook__(ignored)


def _is_command() -> bool:
    """Return whether this process is `fusedlstm`, or `python -m fusedlstm`."""
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    if program == "-m":  # Python's own placeholder while it looks for the module
        return _module_to_run(sys.orig_argv) == "fusedlstm"
    return os.path.splitext(os.path.basename(program))[0] == "fusedlstm"


def _module_to_run(arguments: list[str]) -> str:
    """Return the module that Python's option -m names, alone or after other letters."""
    words = iter(arguments[1:])
    for word in words:
        if word in ("-X", "-W"):
            next(words, None)
        elif not word.startswith(("-X", "-W", "--")) and "m" in word:
            return word.partition("m")[2] or next(words, "")
    return ""


_handles = _is_command()
if _handles:
    sys.excepthook, sys.unraisablehook = _report, _report_ignored  # in effect even before the handler is
    import signal

    end()
