"""Kill processes while they save."""

import os
import signal
import time


def kill_while_saving(save, seconds):
    """Call `save` again and again in a child process, and kill that after so many seconds."""
    child = os.fork()
    if not child:
        try:
            while True:
                save()
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child ended before it was killed"
