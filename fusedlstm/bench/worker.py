"""The parent's side of a process that steps one library."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from fusedlstm.backends.numpy import blas

if TYPE_CHECKING:
    from fusedlstm.bench.child import Ready
    from fusedlstm.bench.schedule import Block
    from fusedlstm.bench.steppings import Task

# The child imports from where this process does. Its BLAS gets the number of threads that this process's has now.
_CODE = """
import json, sys
sys.path[:], threads = json.loads(sys.argv[1])
from fusedlstm.bench.child import main
main(threads)
"""


class Worker:
    """A process that steps one library. End it with `close`."""

    def __init__(self, task: Task) -> None:
        threads = None if blas.why_threads_are_fixed() else blas.threads()
        command = [sys.executable, "-c", _CODE, json.dumps([sys.path, threads])]
        self._process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.ready: Ready | str = self._ask(task)
        except BaseException:
            self.close()
            raise

    def block(self, every: float | None, seconds: float) -> Block:
        """Return the times of some steps.

        Raises:
            RuntimeError: the process has ended.
        """
        block: Block = self._ask((every, seconds))
        return block

    def _ask(self, request: object) -> Any:
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)  # from a process of our own
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            status = self._process.wait()
            raise RuntimeError(f"the process that steps ended with status {status}") from error

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except OSError:  # it holds unwritten bytes
                continue
        self._process.wait()
