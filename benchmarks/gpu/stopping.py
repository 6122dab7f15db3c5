"""Notice that this run should end: by Ctrl-C, SIGTERM, or a closed terminal."""

import contextlib
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Counts the signals that ask a run to end. The second one doesn't wait for the running part."""

    def __init__(self):
        self.signal = None
        self.times = 0

    def __call__(self, number, _frame=None):
        self.signal = self.signal or signal.Signals(number).name
        self.times += 1

    @contextlib.contextmanager
    def listening(self):
        """Count signals instead of dying of them.

        A program that is started meanwhile doesn't ignore SIGINT, even if a shell's background job started this one.
        """
        before = [(number, signal.signal(number, self)) for number in SIGNALS]
        try:
            yield self
        finally:
            for number, handler in before:
                signal.signal(number, handler)
