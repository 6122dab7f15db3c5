"""Write what a run on a GPU was: facts.py PARTS RESULT.json; exit status 1 if a part failed.

PARTS has a line for each part: its name, its exit status and its seconds, with tabs between.
"""

import datetime
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np

import fusedlstm
from fusedlstm.backends.cuda import sources


def parts(path):
    """Return each part's name, whether it passed, and its seconds."""
    rows = [line.split("\t") for line in Path(path).read_text().splitlines()]
    return [{"part": name, "passed": status == "0", "seconds": int(seconds)} for name, status, seconds in rows]


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
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def main(parts_path, result_path):
    """Write the file, print the summary last, and return the exit status."""
    ran = parts(parts_path)
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
        print(f"{'passed' if part['passed'] else 'FAILED'}  {part['seconds']:4d} s  {part['part']}")
    return 0 if all(part["passed"] for part in ran) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
