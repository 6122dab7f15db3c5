"""Write the facts of a run on a GPU: facts.py PARTS RESULT.json. The exit status is 1 if a part failed.

PARTS has a line for each part: its name, exit status and seconds, separated by tabs. The log.txt beside RESULT.json has
the output of each part after a line "== NAME".
"""

import datetime
import json
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

import fusedlstm
from fusedlstm.backends.cuda.runtime import sources


def parts(path, log):
    """Return each part's name, whether it passed, its seconds, and how many of its tests were skipped."""
    skipped = skipped_tests(log)
    found = []
    for line in Path(path).read_text().splitlines():
        name, status, seconds = line.split("\t")
        found.append({"part": name, "passed": status == "0", "seconds": int(seconds)})
        if name in skipped:
            found[-1]["skipped"] = skipped[name]
    return found


def skipped_tests(log):
    """Return how many tests were skipped in each part whose log ends like pytest's."""
    skipped, name = {}, None
    for line in log.splitlines():
        if line.startswith("== "):
            name = line.removeprefix("== ")
        elif re.search(r"\b\d+ (passed|failed|skipped|errors?)\b.* in [\d.]+s\b", line):
            match = re.search(r"\b(\d+) skipped", line)
            skipped[name] = int(match[1]) if match else 0
    return skipped


def version_of(package):
    """Return the version of a package, or "absent"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def machine():
    """Return the GPU, its driver and the versions of what ran on it."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    return {
        "gpu": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "driver": runtime.driverGetVersion(),
        "cuda": runtime.runtimeGetVersion(),
        "nvrtc": list(cupy.cuda.nvrtc.getVersion()),
        "cupy": cupy.__version__,
        "nvmath": version_of("nvmath-python"),
        "numpy": np.__version__,
        "torch": version_of("torch"),
        "jax": version_of("jax"),
        "python": platform.python_version(),
    }


def main(parts_path, result_path):
    """Write the file, print the summary last, and return the exit status."""
    log = Path(result_path).with_name("log.txt")
    ran = parts(parts_path, log.read_text(errors="replace") if log.exists() else "")
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": os.environ.get("COMMIT", "unknown"),
        "kernels": sources.digest(),
        "fusedlstm": fusedlstm.__version__,
        **machine(),
        "parts": ran,
    }
    Path(result_path).write_text(json.dumps(facts, indent=1) + "\n")
    print(f"\n{facts['gpu']}, CUDA {facts['cuda']}, CuPy {facts['cupy']}, commit {facts['commit'][:12]}")
    for part in ran:
        skipped = f", {part['skipped']} skipped" if part.get("skipped") else ""
        print(f"{'passed' if part['passed'] else 'FAILED'}  {part['seconds']:4d} s  {part['part']}{skipped}")
    return 0 if all(part["passed"] for part in ran) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
