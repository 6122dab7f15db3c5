"""The command line: python -m benchmarks compare, report RESULTS.json..., keep, predictions, host, and others."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import compare, host_time, keep, million, predictions, report, shards, training
from benchmarks.runs import ResultsError
from benchmarks.serving import measure as serving
from benchmarks.serving.load import SERVICES


def main(argv: list[str] | None = None) -> int:
    """Run a command, and return its exit status: 0, 1 for a failure, 2 for a wrong command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Results of the benchmark suite.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "compare",
        help="time fusedlstm and the other libraries, and say which is faster",
        description="Time every library in processes of its own, in turns. Write results.json and its report. Other "
        "options are those of pytest benchmarks, such as --quick, --threads 2, --device cpu or -k rollout.",
    )
    command.add_argument("--out", metavar="FOLDER", type=Path, default=compare.LATEST, help="where to write")
    command.add_argument("--rounds", metavar="NUMBER", type=int, default=16, help="processes a library (default: 16)")
    command.set_defaults(work=lambda options: compare.compare(options.out, options.rounds, options.more))
    command = commands.add_parser(
        "report",
        help="tables and pictures of results",
        description="Write report.md, a self-contained report.html, and pictures/, from one or more results "
        "that pytest wrote with --benchmark-json.",
    )
    command.add_argument("results", metavar="RESULTS.json", nargs="+", type=Path)
    command.add_argument("--out", metavar="FOLDER", type=Path, help="where to write (default: beside the first result)")
    command.set_defaults(work=lambda options: report.write(options.results, options.out or options.results[0].parent))
    command = commands.add_parser(
        "keep",
        help="results to commit, their report, and README.md's tables",
        description="Copy results into benchmarks/results/, replacing older ones of the same machine and threads. "
        "Write their report beside them, and the tables in README.md.",
    )
    command.add_argument("results", metavar="RESULTS.json", nargs="+", type=Path)
    command.set_defaults(work=lambda options: keep.keep(options.results))
    command = commands.add_parser(
        "predictions",
        help="predicted times of the kernels of a GPU's step",
        description="Write benchmarks/predictions.json and predictions.md, from a model and not from measurements.",
    )
    command.set_defaults(work=lambda _: predictions.write())
    command = commands.add_parser(
        "host",
        help="the host's time of calls on a GPU",
        description="Time how long the host takes for calls on a GPU. Without one, a fake driver does no work.",
    )
    command.add_argument("result", metavar="RESULT.json", nargs="?", type=Path, help="a file to write")
    command.set_defaults(work=lambda options: host_time.measure(options.result))
    command = commands.add_parser(
        "training",
        help="the time and memory of gradients, beside PyTorch's",
        description="Time a forward and a backward pass in turns with PyTorch's, on one thread, and measure the peak "
        "of their memory.",
    )
    command.add_argument("result", metavar="RESULT.json", nargs="?", type=Path, help="a file to write")
    command.set_defaults(work=lambda options: training.measure(options.result))
    command = commands.add_parser(
        "shards",
        help="ticks of a ShardedPool, beside Ray's bare round trip",
        description="Start Ray on this machine, and time ticks of a ShardedPool in turns with Ray's round trips of the "
        "same arrays.",
    )
    command.add_argument("result", metavar="RESULT.json", nargs="?", type=Path, help="a file to write")
    command.set_defaults(work=lambda options: shards.measure(options.result))
    command = commands.add_parser(
        "serving",
        help="the load that a service takes",
        description="Step 10,000 sessions over 50 WebSockets at rising rates, until the service doesn't keep up, on "
        "Ray Serve and without it. The times at which messages are sent are fixed beforehand.",
    )
    command.add_argument("result", metavar="RESULT.json", nargs="?", type=Path, help="a file to write")
    command.add_argument("--quick", action="store_true", help="20 sessions at two rates, to try it")
    command.add_argument("--only", choices=SERVICES, action="append", help="one of the services; repeat it for more")
    command.add_argument("--groups", metavar="NUMBER", type=int, default=1, help="so many times 10,000 sessions")
    command.set_defaults(
        work=lambda options: serving.measure(
            options.result, options.only or SERVICES, groups=options.groups, quick=options.quick
        )
    )
    command = commands.add_parser(
        "million",
        help="the memory and time that a million sessions take",
        description="Measure the tables of keys, the states, steps and a save of a million sessions. It takes 5 GB.",
    )
    command.add_argument("result", metavar="RESULT.json", nargs="?", type=Path, help="a file to write")
    command.set_defaults(work=lambda options: million.measure(options.result))
    options, more = parser.parse_known_args(argv)
    if more and "rounds" not in options:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    options.more = more
    try:
        for line in options.work(options):
            print(line, flush=True)
    except (ResultsError, OSError) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
