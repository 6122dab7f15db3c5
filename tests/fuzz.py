"""Fuzz the readers of files: each input is a mutated file, read in a child process with bounded memory and time.

    python tests/fuzz.py [READER ...] [--inputs N] [--seed S] [--first K] [--keep FOLDER]

A reader may return, or raise WeightsFileError. Anything else is a finding: another exception, a child that hung, or one
that died of a crash or too much memory. Findings are grouped by the line that raised. Input k of a seed is always the
same, so --first k --inputs 1 reproduces a finding.
"""

import argparse
import collections
import logging
import multiprocessing
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np

from fusedlstm import WeightsFileError

from support.fuzz_faults import FAULTS
from support.fuzz_mutations import mutate
from support.fuzz_readers import READERS

SECONDS = 20
MEMORY = 1 << 29  # memory for reading an input of a few KB, beyond what the process has at first


class Findings:
    """Findings by kind, with the first input of each kind."""

    def __init__(self):
        self.counts, self.first, self.messages = collections.Counter(), {}, {}

    def add(self, kind, index, message=""):
        self.counts[kind] += 1
        self.first.setdefault(kind, index)
        self.messages.setdefault(kind, message)

    def __str__(self):
        return "\n".join(
            f"  {n} x {kind}, the first is input {self.first[kind]}: {self.messages[kind]}"
            for kind, n in self.counts.items()
        )


def where(error):
    """Return the kind of an exception: its type, our last line and the last line of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/fusedlstm/" in frame.filename]
    lines = dict.fromkeys(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*ours[-1:], frames[-1]))
    return f"{type(error).__name__} at {', '.join(lines)}"


def inputs(reader, seed, index):
    """Return the bytes of an input."""
    rng = np.random.default_rng([seed, index])
    files = reader.files
    return mutate(files[rng.integers(len(files))], files, rng, reader.structure)


def read_all(reader, seed, first, last, pipe, memory, seconds):
    """In the child: read one input after the other, and report the outcome of each."""
    logging.getLogger("fusedlstm").setLevel(logging.ERROR)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"input{reader.suffix}")
        for index in range(first, last):
            content = inputs(reader, seed, index)
            path.write_bytes(content)
            pipe.send((index, None, ""))
            signal.alarm(seconds)
            outcome = outcome_of(reader, path)
            signal.alarm(0)
            pipe.send((index, *outcome))


def outcome_of(reader, path):
    """Return the outcome of reading a file."""
    try:
        reader.read(path)
    except WeightsFileError:
        return "refused", ""
    except BaseException as error:  # whatever else is raised is a finding
        return where(error), str(error)[:200]
    return "read", ""


def fuzz(reader, count, seed=0, first=0, memory=MEMORY, seconds=SECONDS):
    """Return how many inputs were read, refused and found to fail, and the findings."""
    reader.warm_up()  # child processes inherit everything imported
    outcomes, findings = collections.Counter(), Findings()
    context, last = multiprocessing.get_context("fork"), first + count
    while first < last:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=read_all, args=(reader, seed, first, last, theirs, memory, seconds))
        child.start()
        theirs.close()
        started = first
        try:
            while True:
                index, outcome, message = ours.recv()
                if outcome is None:
                    started = index
                    continue
                first = index + 1
                outcomes[outcome if outcome in ("read", "refused") else "found"] += 1
                if outcome not in ("read", "refused"):
                    findings.add(outcome, index, message)
        except EOFError:
            child.join()
        if child.exitcode > 0:
            raise RuntimeError(f"the fuzzer itself failed at input {started}")
        if child.exitcode:
            died = signal.Signals(-child.exitcode).name
            findings.add("it hung" if died == "SIGALRM" else f"the process died of {died}", started)
            outcomes["found"] += 1
            first = started + 1
    return outcomes, findings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; else all")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for one input")
    parser.add_argument("--keep", metavar="FOLDER", help="where to write the first input of each finding")
    options = parser.parse_args()
    found = False
    for name in options.readers or READERS:
        reader = (READERS | FAULTS)[name]
        missing = reader.missing()
        if missing:
            print(f"{name}: not run, as {missing} is not installed")
            continue
        outcomes, findings = fuzz(reader, options.inputs, options.seed, options.first, seconds=options.seconds)
        print(
            f"{name}: {options.inputs} inputs: {dict(outcomes)}",
            findings,
            sep="\n" if findings.counts else "",
            flush=True,
        )
        known = {f"the process died of {signal_name}" for signal_name in reader.dies}
        found = found or bool(set(findings.counts) - known)
        for index in findings.first.values() if options.keep else ():
            path = Path(options.keep, f"{name}-{options.seed}-{index}{reader.suffix}")
            path.write_bytes(inputs(reader, options.seed, index))
    return found


if __name__ == "__main__":
    sys.exit(main())
