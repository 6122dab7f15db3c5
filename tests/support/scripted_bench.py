"""Stand-ins for a benchmark's processes, whose times are made up."""

from typing import ClassVar

from fusedlstm.bench import child, running
from fusedlstm.bench.schedule import Block


class Scripted:
    """Stands for a Worker. Its states and blocks are made up."""

    begun: ClassVar = []
    closed: ClassVar = []
    spoilt: ClassVar = {}

    def __init__(self, task):
        self.library = task.library
        self.begun.append(task)
        self.ready = self.spoilt.get(task.library)
        if self.ready is None:
            states = running._reference(task.weights, task.batch)
            self.ready = child.Ready(f"{task.library} 1.0", 1e-3, None, states)

    def block(self, every, seconds):
        self.begun.append((self.library, every, seconds))
        return Block(2, 2.0, [0.0, 1.0], [0.0, 1.0], [1e-5, 1.0 + 2e-5])

    def close(self):
        self.closed.append(self.library)


def install(monkeypatch):
    """Replace the processes and the pauses, and return Scripted, which has a list of what they were asked for."""
    for log in (Scripted.begun, Scripted.closed, Scripted.spoilt):
        log.clear()
    monkeypatch.setattr(running, "Worker", Scripted)
    monkeypatch.setattr(running.time, "sleep", lambda seconds: Scripted.begun.append("pause"))
    return Scripted
