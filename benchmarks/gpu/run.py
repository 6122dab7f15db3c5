"""Run the parts one after the other, within the time of the whole run. What is known is on the disk at any time."""

import contextlib
import json
import tempfile
import time

from benchmarks.gpu import archive, kernel_cache, outcomes, summary, times
from benchmarks.gpu.attempts import Attempts
from benchmarks.gpu.log import Log
from benchmarks.gpu.process import GRACE
from benchmarks.gpu.record import Record

RESERVE = 7  # seconds to end the last part and write the results
SAY = 10  # seconds between lines about a running part
# All files of a folder of results. Some are written by parts.
FILES = (
    "gpu.json",
    "log.txt",
    "outcomes.jsonl",
    archive.NAME,
    "selftest.json",
    "probes.json",
    "kernel_table.json",
    "benchmarks.json",
)
INTERRUPTED = 130  # exit status


class Run:
    """A run of some parts.

    Args:
        parts: the parts, in order.
        results: the folder of results.
        work: a folder for the rest.
        limit: its time in seconds, from `started` on.
        python: the Python of the parts.
        environment: the environment of the parts.
        facts: what gpu.json says first.
        stop: a `Stop` that listens.
        kernels: compiled kernels to begin with, in a folder or archive, or None.
        only: the names of the parts to run, or None for all.
        started: when the run started, by `time.monotonic`.
        grace: seconds from SIGINT to SIGKILL.
    """

    def __init__(
        self,
        parts,
        results,
        work,
        *,
        limit,
        python,
        environment,
        facts,
        stop,
        kernels=None,
        only=None,
        started=None,
        grace=GRACE,
    ):
        self.parts, self.results, self.limit, self.stop, self.only = parts, results, limit, stop, only
        self.started = time.monotonic() if started is None else started
        self.grace, self.environment = grace, environment
        self.kept, self.kernels = work / "kept", work / "kernels"
        for name in FILES:
            (results / name).unlink(missing_ok=True)
        self.record = Record(results / "gpu.json", {**facts, "limit": limit}, [part.name for part in parts])
        self.log = Log(results / "log.txt")
        self.outcomes = results / "outcomes.jsonl"
        self.kept.mkdir(parents=True)
        self.record.learn(kernels_given=kernel_cache.fill(self.kernels, kernels))
        self.places = {"PYTHON": python, "RESULTS": results, "KEPT": self.kept}
        self.unusable = None  # why no part can run

    def run(self):
        """Run all parts, and return the exit status."""
        try:
            for part in self.parts:
                self._consider(part)
            ended = "after all parts"
        except BaseException as error:
            ended = f"by an error: {type(error).__name__}: {error}"
            raise
        finally:
            ended = f"by {self.stop.signal}" if self.stop.signal else ended
            self.record.learn(ended=ended, seconds=round(self._since()))
            self._archive()
            with contextlib.suppress(OSError):
                summary.show(self.record)
        if self.stop.signal:
            return INTERRUPTED
        return 1 if self.record.with_status("failed", "timed out", "running") else 0

    def _since(self):
        return time.monotonic() - self.started

    def _left(self):
        return self.limit - self._since() - self.grace - RESERVE

    def _consider(self, part):
        reason = self._why_not(part)
        if reason:
            self.record.change(part.name, why=reason)
            if self._is_asked_for(part):
                self._say(f"{part.name}: not run: {reason}")
            return
        limit = min(part.limit, self._left())
        self.record.change(part.name, status="running", why=None, limit=round(limit))
        self._say(f"{part.name}: up to {limit:.0f} s")
        count, start = kernel_cache.Count(self.kernels), time.monotonic()
        try:
            result = self._attempts(part).run(limit)
        except OSError as error:  # a full disk, for example
            result = {"status": "failed", "why": str(error)}
        seconds = round(time.monotonic() - start, 1)
        self.record.change(part.name, **result, seconds=seconds, kernels=count.facts())
        self._keep(part)
        self._say(summary.line(self.record.parts[part.name]))

    def _why_not(self, part):
        if not self._is_asked_for(part):
            return "it was not asked for"
        reason = self.unusable or part.why_not()
        if self.stop.signal:
            return f"{self.stop.signal} ended the run before it"
        if not reason and self._left() < part.least:
            return f"{max(0, self._left()):.0f} s were left, and it needs {part.least:g} or more"
        return reason

    def _is_asked_for(self, part):
        return self.only is None or part.needed or part.name in self.only

    def _attempts(self, part):
        said = time.monotonic()

        def tick():
            nonlocal said
            if time.monotonic() - said > SAY:
                said = time.monotonic()
                counts = outcomes.read(self.outcomes, part.name).counts() if part.tests else {}
                self._say(f"{part.name}: {summary.counted(counts) or 'runs'}")

        options = {"environment": {**self.environment, **part.variables}, "stop": self.stop}
        return Attempts(part, self.places, self.outcomes, self.log, **options, tick=tick, grace=self.grace)

    def _keep(self, part):
        """Take in what a part left, and archive everything."""
        facts = self.kept / "facts.json"
        if facts.exists():
            self.record.learn(**json.loads(facts.read_text()))
            facts.unlink()
        done = self.record.parts[part.name]
        if part.needed and done["status"] != "passed" and self.record.content.get("cuda_runs") != "yes":
            self.unusable = f"{part.name}: {done['status']}"
        times.merge(self.kept, self.results / "benchmarks.json")
        self._archive()

    def _archive(self):
        try:
            archive.write(self.results, self.kept)
        except OSError as error:
            self._say(f"{archive.NAME} can't be written: {error}")

    def _say(self, words):
        with contextlib.suppress(OSError):  # nobody listens any more, as after `| head`
            print(f"[{self._since():4.0f} s] {words}", flush=True)


def work_folder():
    """Return a temporary folder, as a context manager that removes it."""
    return tempfile.TemporaryDirectory(prefix="fusedlstm-gpu-", ignore_cleanup_errors=True)
