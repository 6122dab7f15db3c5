"""The outcome of each test, appended to a file as it happens, so that it is kept however the process ends.

Each line is JSON: "part"; "test", its id; "outcome": "began", "passed", "failed" or "skipped"; and, where they are
known, "seconds" and "why". A failure that broke the process for the next tests has "culprit".
"""

import json
from dataclasses import dataclass, field

LONGEST = 300  # characters of a reason


def append(path, **entry):
    """Append an entry as one line, whole even if several processes append."""
    entry = {key: value[:LONGEST] if key == "why" else value for key, value in entry.items() if value is not None}
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(entry).encode() + b"\n")


@dataclass
class Outcomes:
    """The outcomes of a part's tests by id, those still running, and the culprits."""

    outcomes: dict = field(default_factory=dict)
    running: dict = field(default_factory=dict)  # ordered
    culprits: dict = field(default_factory=dict)

    def add(self, entry):
        """Take in an entry. A test that failed in one phase stays failed."""
        test, outcome = entry["test"], entry["outcome"]
        if outcome == "began":
            self.running[test] = True
            return
        self.running.pop(test, None)
        if self.outcomes.get(test) != "failed":
            self.outcomes[test] = outcome
        if entry.get("culprit"):
            self.culprits[test] = entry.get("why")

    @property
    def done(self):
        """The tests that mustn't run again."""
        return [*self.outcomes, *self.running]

    def named(self, outcome):
        """Return the tests of this outcome."""
        return [test for test, each in self.outcomes.items() if each == outcome]

    def counts(self):
        """Return how many tests passed, failed and were skipped."""
        return {outcome: len(self.named(outcome)) for outcome in ("passed", "failed", "skipped")}


def read(path, part):
    """Return the outcomes of a part. A last line may be cut off."""
    found = Outcomes()
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("part") == part:
            found.add(entry)
    return found
