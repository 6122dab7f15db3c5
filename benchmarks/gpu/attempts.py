"""Run one part, and say what became of it. If a test ends the process, another one goes on from the next test."""

import json
import signal
import time

from benchmarks.gpu import outcomes, process
from benchmarks.gpu.parts import SKIPPED

MOST = 4  # processes of a part
_NO_TESTS, _STOPPED = 5, 2  # pytest's exit status


class Attempts:
    """The processes of one part.

    Args:
        part: the `Part`.
        places: the values of `Part.PLACES` but ATTEMPT.
        file: the file of outcomes.
        log: the `Log`.
        options: those of `process.run`.
    """

    def __init__(self, part, places, file, log, **options):
        self.part, self.places, self.file, self.log, self.options = part, places, file, log, options
        self.number = 0
        self.last_line = ""

    def run(self, limit):
        """Run the part within its seconds, and return what gpu.json says of it."""
        end, again = time.monotonic() + limit, True
        while again and self.number < MOST:
            self.number += 1
            before = outcomes.read(self.file, self.part.name)
            self.log.begin(self.part.name + (f", process {self.number}" if self.number > 1 else ""))
            ended = process.run(self._words(before), self.log.path, limit=end - time.monotonic(), **self.options)
            self.last_line = self.log.end()
            again = self.part.tests and ended.how == "exited" and self._was_ended_by_a_test(ended, before)
        return {**self._status(ended), **self._tests(again)}

    def _words(self, before):
        words = self.part.words(**self.places, ATTEMPT=self.number)
        if self.part.tests:
            words += ["-p", "benchmarks.gpu.plugin", "--outcomes", str(self.file), "--part", self.part.name]
            words += ["--test-seconds", str(self.part.test_seconds)]
        if before.outcomes:
            done = self.places["KEPT"] / ".done.json"
            done.write_text(json.dumps(before.done))
            words += ["--done", str(done)]
        return words

    def _was_ended_by_a_test(self, ended, before):
        """Return whether a test ended the process, or broke CUDA for it. Record tests that were running as failed."""
        found = outcomes.read(self.file, self.part.name)
        for test in found.running:
            entry = {"part": self.part.name, "test": test, "outcome": "failed", "culprit": True}
            outcomes.append(self.file, **entry, why=f"the process ended in it: {_in_words(ended.status)}")
        return bool(found.running) or (ended.status == _STOPPED and len(found.culprits) > len(before.culprits))

    def _status(self, ended):
        if ended.how in ("timed out", "interrupted"):
            return {"status": ended.how}
        if ended.how != "exited":
            return {"status": "failed", "why": f"it {ended.how}"}
        found = outcomes.read(self.file, self.part.name)
        if found.named("failed"):
            return {"status": "failed"}
        if ended.status == 0 or (ended.status == _NO_TESTS and self.number > 1):
            return {"status": "passed"}
        if ended.status == SKIPPED:
            return {"status": "not run", "why": self.last_line}
        said = f": {self.last_line}" if self.last_line else ""
        return {"status": "failed", "why": f"{_in_words(ended.status)}{said}"[: outcomes.LONGEST]}

    def _tests(self, again):
        if not self.part.tests:
            return {}
        found = outcomes.read(self.file, self.part.name)
        facts = {"tests": found.counts(), "failed": found.named("failed"), "culprits": list(found.culprits)}
        facts |= {"running": list(found.running), "processes": self.number if self.number > 1 else None}
        facts["given up"] = f"after {MOST} processes" if again else None
        return {key: value for key, value in facts.items() if value}


def _in_words(status):
    """Return a process's exit status, or the name of the signal that ended it."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
