"""Run an action, or raise an interrupt, at each moment of a call in turn."""

import _thread
import contextlib
import dis
import gc
import signal
import sys
from pathlib import Path

import fusedlstm

PACKAGE = str(Path(fusedlstm.__file__).parent)

# After these instructions, Python looks for pending signals.
_CHECKS = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}


class Interrupted(BaseException):
    """The exception that the signal handler raises."""


class _Signal:
    """-signal sends SIGINT to this process, by an instruction after which Python doesn't look for signals."""

    __neg__ = _thread.interrupt_main


_SIGNAL = _Signal()


def lines(call, action, *, once=False):
    """Call `call`, and run `action` before each line of the package that it executes.

    Args:
        call: the function to call.
        action: called without arguments. If it raises, so does the call.
        once: whether a line counts only the first time.

    Returns:
        The call's result, and the number of lines.
    """
    count, seen = 0, set()

    def trace(frame, event, argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        place = frame.f_code, frame.f_lineno
        if event == "line" and not (once and place in seen):
            seen.add(place)
            count += 1
            action()
        return trace

    return _traced(call, trace), count


def interrupted(call, moment, *, also=()):
    """Call `call`, and send a signal at moment number `moment`, counted from 1.

    Moments are the package's instructions after which Python looks for signals. So an interrupt comes only where a real
    one can: not while `with` takes a lock, for example.

    Args:
        call: the function to call.
        moment: the number of the moment.
        also: functions outside the package. The instructions of their modules are moments, too.

    Returns:
        Whether the signal interrupted the call, or None if the call has fewer moments.
    """
    left = moment
    names = dis.opname
    places = (PACKAGE, *(function.__code__.co_filename for function in also))

    def trace(frame, event, argument):
        nonlocal left
        if not frame.f_code.co_filename.startswith(places):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and names[frame.f_code.co_code[frame.f_lasti]] in _CHECKS:
            left -= 1
            if left == 0:
                -_SIGNAL  # noqa: B018, a call would be a moment itself
        return trace

    def handler(*_):
        raise Interrupted

    before = signal.signal(signal.SIGINT, handler)
    try:
        _traced(call, trace)
    except Interrupted:
        return True
    finally:
        signal.signal(signal.SIGINT, before)
    return None if left > 0 else False


def _traced(call, trace):
    before, collects = sys.gettrace(), gc.isenabled()
    gc.collect()  # later, Python would swallow exceptions in finalizers of other tests' objects
    gc.freeze()  # spares the next collections thousands of objects
    gc.disable()
    sys.settrace(trace)
    try:
        return call()
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()


@contextlib.contextmanager
def alarms(handler, seconds):
    """Call `handler` in this thread at random times, about `seconds` apart, until the context ends."""
    import random

    chance = random.Random(0)

    def handle(*_):
        try:
            handler()
        finally:
            if running:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.2, 1.8) * seconds)

    running = True
    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
