"""gpu.json: the facts of a run and what became of its parts. It is whole on the disk after each change."""

import datetime
import json
import platform

import fusedlstm
from benchmarks.machine import commit
from fusedlstm.atomic_write import replace
from fusedlstm.backends.cuda.runtime import sources


def known_without_a_gpu():
    """Return the facts that need no GPU. The others come from `facts.py`."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "kernels": sources.digest(),
        "fusedlstm": fusedlstm.__version__,
        "python": platform.python_version(),
    }


class Record:
    """The content of gpu.json.

    The status of a part is "not run", "running", "passed", "failed", "timed out" or "interrupted".
    """

    def __init__(self, path, facts, names):
        self.path = path
        self.parts = {name: {"name": name, "status": "not run", "why": "the run ended before it"} for name in names}
        self.content = {**facts, "ended": "no", "parts": list(self.parts.values())}
        self.write()

    def write(self):
        """Write the file, whole or not at all."""
        replace(self.path, json.dumps(self.content, indent=1).encode() + b"\n")

    def change(self, name, **facts):
        """Change what is known of a part. None removes a fact."""
        part = self.parts[name]
        part.update(facts)
        for key in [key for key, value in part.items() if value is None]:
            del part[key]
        self.write()

    def learn(self, **facts):
        """Add facts of the whole run."""
        parts = self.content.pop("parts")
        self.content |= {**facts, "parts": parts}
        self.write()

    def with_status(self, *wanted):
        """Return the parts of these statuses."""
        return [part for part in self.parts.values() if part["status"] in wanted]
