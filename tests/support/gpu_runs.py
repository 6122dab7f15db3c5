"""For tests of benchmarks/gpu.sh: runs of made-up parts."""

import json
import os
import sys
import tarfile
import textwrap
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu.__main__ import environment
from benchmarks.gpu.parts import Part
from benchmarks.gpu.run import Run
from benchmarks.gpu.stopping import Stop

FACTS = {"commit": "c" * 40, "kernels": "d" * 64, "dry_run": True}
PYTEST = ("{PYTHON}", "-m", "pytest", "-q", "-p", "no:cacheprovider")


def program(name, code="", limit=30, **options):
    """Return a part that runs some code."""
    return Part(name, limit, ("{PYTHON}", "-c", textwrap.dedent(code)), **options)


def tests(name, folder, code, *options, **more):
    """Return a part that runs made-up tests."""
    file = Path(folder) / f"test_{name}.py"
    file.write_text("import ctypes, os, signal, sys, time, types\nimport pytest\n" + textwrap.dedent(code))
    return replace(program(name, **more), command=(*PYTEST, *options, str(file)), tests=True)


def times(folder, code, **options):
    """Return a part that runs made-up benchmarks."""
    written = "--benchmark-json={KEPT}/times-{ATTEMPT}.json"
    quick = ("--benchmark-max-time=0.001", "--benchmark-min-rounds=1")
    return tests("times", folder, code, "-p", "benchmark", written, *quick, **options)


def facts(code="", **more):
    """Return the part that finds the facts of a GPU, and then runs some code."""
    found = json.dumps({"gpu": "one", **more})
    made = program("facts", f"import sys; open(sys.argv[1], 'w').write({found!r})\n{code}", needed=True)
    return replace(made, command=(*made.command, "{KEPT}/facts.json"))


def begin(parts, folder, *, stop=None, limit=100, grace=2, **options):
    """Run some parts within a folder, and return the exit status."""
    results, work = Path(folder) / "results", Path(folder) / "work"
    results.mkdir(exist_ok=True)
    of_parts = environment(work / "site", work / "kernels", dry=True)
    # Leave out variables of the pytest that runs this.
    of_parts = {name: value for name, value in of_parts.items() if not name.startswith(("PYTEST_XDIST", "COV_"))}
    options = {"python": sys.executable, "environment": of_parts, "facts": FACTS, "grace": grace, **options}
    return Run(parts, results, work, limit=limit, stop=stop or Stop(), **options).run()


def recorded(folder):
    """Return gpu.json, with its parts by name."""
    content = json.loads((Path(folder) / "results" / "gpu.json").read_text())
    return content | {"parts": {part["name"]: part for part in content["parts"]}}


def statuses(folder):
    """Return the status of each part."""
    return {name: part["status"] for name, part in recorded(folder)["parts"].items()}


def archived(folder):
    """Return the archive's files and their contents."""
    with tarfile.open(Path(folder) / "results" / "results.tar.gz") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def cut_in(place, folder):
    """Return parts that take no time, except at one place. There a file `here` tells the test that the cut may come."""
    mark = f"open({os.fspath(Path(folder) / 'here')!r}, 'w').write(str(os.getpid()))"
    here = f"import os, time; {mark}; time.sleep(60)"

    def at(wanted, otherwise="pass"):
        return here if place == wanted else otherwise

    benchmarks = f"""
    def test_one(benchmark): benchmark(int)
    def test_two(benchmark): {at("times", "benchmark(int)")}
    """
    return [
        facts(at("facts")),
        tests("tests", folder, f"def test_one(): pass\ndef test_two(): {at('tests')}"),
        program("ignores", f"import signal; signal.signal(2, signal.SIG_IGN)\n{at('ignores')}"),
        times(folder, benchmarks),
        program("middle", why_not=lambda: os.kill(os.getpid(), 2) if place == "between" else None),
        program("last"),
    ]
