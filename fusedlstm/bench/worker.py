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

_ENDING = 5.0  # seconds that a process may take to end, once its output has


class WorkerEndedError(RuntimeError):
    """A process has ended, or can't be understood."""


class Worker:
    """A process that steps one library. End it with `close`.

    Raises:
        WorkerEndedError: the process has ended.
    """

    def __init__(self, task: Task) -> None:
        threads = None if blas.why_threads_are_fixed() else blas.threads()
        path = [each for each in sys.path if isinstance(each, str)]  # imports ignore the others, too
        command = [sys.executable, "-c", _CODE, json.dumps([path, threads])]
        self._process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.ready: Ready | str = self._ask(task)
        except BaseException:
            self.close()
            raise

    def block(self, every: float | None, seconds: float) -> Block:
        """Return the times of some steps.

        Raises:
            WorkerEndedError: the process has ended.
        """
        block: Block = self._ask((every, seconds))
        return block

    def _ask(self, request: object) -> Any:
        try:
            pickle.dump(pickle.dumps(request), self._process.stdin)
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error
        try:
            return pickle.load(self._process.stdout)  # from a process of our own
        except Exception as error:  # other output may look like any instruction
            raise self._ended() from error

    def _ended(self) -> WorkerEndedError:
        try:
            how = f"ended with status {self._process.wait(_ENDING)}"
        except subprocess.TimeoutExpired:
            how = "wrote something else to its standard output, as a sitecustomize.py may"
        return WorkerEndedError(f"the process that steps {how}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except OSError:  # it holds unwritten bytes
                continue
        self._process.wait()
