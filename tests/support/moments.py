"""The moments of a call: something is done at one of them, or an interrupt comes there, for each moment in turn."""

import _thread
import contextlib
import dis
import gc
import signal
import sys
from pathlib import Path

import fusedlstm

PACKAGE = str(Path(fusedlstm.__file__).parent)

# Behind these instructions of its own Python looks whether a signal has come.
_CHECKS = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}


class Interrupted(BaseException):
    """What a signal handler raises."""


class _Signal:
    """-signal sends SIGINT to this process by an instruction behind which Python doesn't look for signals."""

    __neg__ = _thread.interrupt_main


_SIGNAL = _Signal()


def lines(call, action, *, once=False):
    """Call `call`, and at each line of the package that it comes to, before that is run, `action`.

    Args:
        call: what is called.
        action: what is done, without arguments; where it raises, the call does.
        once: whether a line counts the first time only.

    Returns:
        What the call returns, and how many lines there were.
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
    """Call `call`, and send a signal at the moment of this number, from 1; return whether it was interrupted by it.

    Moments are the instructions of the package behind which Python looks for signals, so that an interrupt comes where
    a real one may, and nowhere else: not where `with` takes a lock, for example.

    Args:
        call: what is called.
        moment: which moment.
        also: functions outside the package; the instructions of their modules are moments too.

    Returns:
        None where the call has fewer moments.
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
    gc.collect()  # now, as Python would swallow exceptions in finalizers of other tests' objects
    gc.freeze()  # what is left, which the next collection then needn't look at: there are thousands in a test
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
    """Call `handler` in this thread at random moments, about so many seconds apart, until the context ends."""
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
