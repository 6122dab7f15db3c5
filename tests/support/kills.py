"""Kill processes while they save."""

import os
import signal
import time


def kill_while_saving(save, seconds):
    """Call `save` again and again in a child process, and kill that so many seconds after it has begun."""
    begun, begins = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(begins, b".")
            while True:
                save()
        finally:
            os._exit(1)
    os.close(begins)
    os.read(begun, 1)  # a busy machine may take longer than `seconds` to run the child
    os.close(begun)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child ended before it was killed"
