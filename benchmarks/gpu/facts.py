"""Write the facts of a GPU and of what runs on it: python -m benchmarks.gpu.facts FACTS.json.

The exit status is 1 if CUDA can't run.
"""

import importlib
import json
import platform
import sys
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.peers.peer import version_of
from fusedlstm.atomic_write import replace
from fusedlstm.backends.select import unavailable_reason

# Packages and what to import of them. A run goes on without them, and some tests and rows are left out.
OPTIONAL = {
    "nvmath": ("nvmath-python", "nvmath.bindings.cublasLt"),
    "torch": ("torch", "torch"),
    "jax": ("jax", "jax"),
    "xdist": ("pytest-xdist", "xdist"),
    "pytest-benchmark": ("pytest-benchmark", "pytest_benchmark"),
    "safetensors": ("safetensors", "safetensors"),
    "ml_dtypes": ("ml_dtypes", "ml_dtypes"),
    "hypothesis": ("hypothesis", "hypothesis"),
}


def optional():
    """Return the version of each optional package, or why it can't be imported, and the seconds of the imports."""
    versions, seconds = {}, {}
    for name, (package, module) in OPTIONAL.items():
        start = time.perf_counter()
        try:
            importlib.import_module(module)
            versions[name] = version_of(package)
        except Exception as error:  # a broken install fails in many ways
            absent = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
            versions[name] = "absent" if absent else f"can't be imported: {error}"
        seconds[name] = round(time.perf_counter() - start, 2)
    return {**versions, "import_seconds": seconds}


def of_torch():
    """Return PyTorch's versions of CUDA and cuDNN, if it was imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {"torch_cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def main(path):
    """Write the facts, and return the exit status."""
    reason = unavailable_reason("cuda")
    facts = {"cuda_runs": reason or "yes", "numpy": version_of("numpy"), "python": platform.python_version()}
    if reason is None:
        gpu = machine.gpu()
        facts |= {"gpu": gpu.pop("name"), **gpu}
    replace(Path(path), json.dumps(facts).encode())  # in case the next imports are slow
    replace(Path(path), json.dumps(facts | optional() | of_torch()).encode())
    print(Path(path).read_text())
    if reason:
        print(f"cuda can't run here: {reason}")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
