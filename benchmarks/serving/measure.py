"""Start each service and its client in processes of their own, and put their results into a table."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks import machine, orphans
from benchmarks.serving.load import FULL, QUICK, SERVICES, Load, Result
from benchmarks.units import quantity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else Ray's workers have less priority than the client
}

TITLE = (
    "messages/s    of them    rows/s       p50       p99     p99.9  rows/tick  not stepped  sent late  "
    "CPU/message  client's"
)


def line(one: Result) -> str:
    """Return a row of the table."""
    times = [quantity(seconds, "s") if math.isfinite(seconds) else "-" for seconds in (one.p50, one.p99, one.p999)]
    late, service, client = (quantity(seconds, "s") for seconds in (one.sent_late, one.service_cpu, one.client_cpu))
    return (
        f"{one.offered:10.0f} {one.messages:10.0f} {one.rows:9.0f} {times[0]:>9} {times[1]:>9} {times[2]:>9} "
        f"{one.rows_a_tick:10.0f} {one.not_stepped:12} {late:>10} {service:>12} {client:>9}"
        f"{'  it did not keep up' if one.is_broken else ''}"
    )


def child(module: str, *arguments: str, **pipes: int) -> subprocess.Popen[str]:
    """Start a module of this package in a process of its own, which ends with this one."""
    return subprocess.Popen(
        orphans.ending([sys.executable, "-m", f"benchmarks.serving.{module}", *arguments]),
        cwd=machine.ROOT,
        env=os.environ | ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        **pipes,
    )


@contextlib.contextmanager
def service(name: str, load: Load) -> Iterator[tuple[str, int]]:
    """Start a service, yield its URL and its process's number, and end it."""
    # The end closes standard input, and waits.
    with child("services", name, load.to_json(), stdin=subprocess.PIPE) as process:
        url = process.stdout.readline().strip()
        if not url:
            raise OSError(f"the service {name!r} did not start")
        yield url, process.pid


def results(name: str, load: Load) -> Iterator[Result]:
    """Yield what happened to a service at each rate, until it doesn't keep up."""
    with service(name, load) as (url, number), child("client", url, load.to_json(), str(number)) as client:
        for printed in client.stdout:
            yield Result(**json.loads(printed))
    if client.returncode:
        raise OSError(f"the client of {name!r} failed")


def measure(
    result: Path | None, names: Sequence[str] = SERVICES, *, groups: int = 1, quick: bool = False
) -> Iterator[str]:
    """Put each service under load, and yield the lines of a table. Write it to `result`, too."""
    load = (QUICK if quick else FULL)._replace(groups=groups)
    found = []
    yield (
        f"{load.sessions:,} sessions, {load.sockets} WebSockets, {load.rows} rows a message, I = N = {load.size}, "
        f"{load.seconds:g} s a rate; {machine.cpu_model()}, {machine.cores()} cores, {machine.when()['date']}"
    )
    yield TITLE
    for name in names:
        yield f"{name}; load average before it {machine.load()}"
        for one in results(name, load):
            found.append({"service": name, **one._asdict(), "is_broken": one.is_broken})
            yield line(one)
    if result is not None:
        about = machine.when() | {"machine": machine.cpu_model(), "load": load._asdict(), "rows": found}
        result.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
