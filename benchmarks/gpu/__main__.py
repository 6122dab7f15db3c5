"""The command line: bash benchmarks/gpu.sh [--limit SECONDS] RESULTS [WHEELS]."""

import argparse
import os
import sys
import time
from importlib import metadata
from pathlib import Path

from benchmarks import threads
from benchmarks.gpu import table
from benchmarks.gpu.kernel_cache import NAME as KERNELS
from benchmarks.gpu.parts import Part
from benchmarks.gpu.process import ROOT
from benchmarks.gpu.record import known_without_a_gpu
from benchmarks.gpu.run import Run, work_folder
from benchmarks.gpu.stopping import Stop


def absolute(path):
    """Return a path that parts can use, as they run in another folder."""
    return Path(path).resolve()


def parser():
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="bash benchmarks/gpu.sh",
        description="Run everything that needs an NVIDIA GPU. If a part fails, hangs or is cut off, the others still "
        "run, and nothing is lost. Needs CuPy 14, safetensors, ml_dtypes, hypothesis and pytest. Uses nvmath-python, "
        "pytest-xdist, pytest-benchmark, PyTorch and JAX if installed. Without git, set the variable COMMIT.",
    )
    made.add_argument(
        "results", metavar="RESULTS", type=absolute, help="a folder for up to 8 files; gpu.json sums them up"
    )
    made.add_argument(
        "wheels", metavar="WHEELS", type=absolute, nargs="?", help="a folder of wheels to use in addition"
    )
    made.add_argument("--limit", type=float, metavar="SECONDS", help="the time of the run (default: 420; dry: 1200)")
    made.add_argument(
        "--kernels",
        type=Path,
        metavar="FOLDER",
        help=f"a folder or archive of compiled kernels (default: WHEELS/{KERNELS})",
    )
    made.add_argument(
        "--only",
        type=lambda names: names.split(","),
        metavar="PART,...",
        help="run only the facts, the wheels and these",
    )
    made.add_argument("--dry-run", action="store_true", help="a little of each part, on the tests' fake driver")
    made.add_argument("--started", type=float, default=time.time(), help=argparse.SUPPRESS)
    return made


# The first, set to 0, would keep NVIDIA's libraries from using TF32 even for rows that ask for it. Our kernels ignore
# it.
_NOT_INHERITED = ("NVIDIA_TF32_OVERRIDE", "PYTEST_ADDOPTS")


def environment(site, kernels, *, dry):
    """Return the environment of all parts.

    The threads are set before Python starts, as plugins of pytest may import NumPy early. Of pytest's plugins, only
    those that a part names are used: others may warn, which fails tests.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    paths = (ROOT, *((ROOT / "tests",) if dry else ()), site, os.environ.get("PYTHONPATH"))
    return {
        **inherited,
        **threads.environment(1),
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, paths))),
        "PYTHONUNBUFFERED": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "FUSEDLSTM_CACHE_DIR": str(kernels),
        "FUSEDLSTM_TEST_CACHE_DIR": str(kernels),
    }


def wheels(folder, site):
    """Return the part that installs wheels. Nothing is downloaded, not even what they need."""
    pip = ("-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", str(site))
    return Part("wheels", 30, ("{PYTHON}", *pip, *map(str, sorted(folder.glob("*.whl")))))


def has(package, folder):
    """Return whether a package is installed or among the wheels in a folder."""
    wheel = f"{package.replace('-', '_')}-*.whl"
    return any(metadata.distributions(name=package)) or (folder is not None and any(folder.glob(wheel)))


def main(arguments=None):
    """Run the parts, and return the exit status: 0, 1 if a part failed, 2 for a wrong command, 130 if interrupted."""
    made = parser()
    given = made.parse_args(arguments)
    archive = given.wheels / KERNELS if given.wheels else None
    kernels = given.kernels or (archive if archive and archive.exists() else None)
    given.results.mkdir(parents=True, exist_ok=True)
    with Stop().listening() as stop, work_folder() as work:
        site = Path(work) / "site"
        before = [wheels(given.wheels, site)] if given.wheels and any(given.wheels.glob("*.whl")) else []
        options = {"dry": given.dry_run, "kernels_given": kernels is not None}
        parts = table.parts(**options, have=lambda package: has(package, given.wheels))
        names = [part.name for part in (*before, *parts)]
        for unknown in set(given.only or ()) - set(names):
            made.error(f"--only: wanted some of {', '.join(names)}; got {unknown}")
        run = Run(
            [*before, *parts],
            given.results,
            Path(work),
            limit=given.limit or (1200 if given.dry_run else 420),
            python=sys.executable,
            environment=environment(site, Path(work) / "kernels", dry=given.dry_run),
            facts={**known_without_a_gpu(), "dry_run": given.dry_run},
            kernels=kernels,
            stop=stop,
            only=given.only and [*given.only, *(part.name for part in before)],
            started=time.monotonic() - (time.time() - given.started),
        )
        return run.run()


if __name__ == "__main__":
    sys.exit(main())
