"""benchmarks.json: the times of all parts in one file, as `python -m benchmarks keep` takes them."""

import json

from fusedlstm.atomic_write import replace


def merge(kept, target):
    """Write the times of pytest-benchmark's files in a folder into one. It has the facts of the first."""
    files = [content for path in sorted(kept.glob("times-*.json")) if (content := _read(path))]
    if files:
        merged = {**files[0], "benchmarks": [entry for file in files for entry in file["benchmarks"]]}
        replace(target, json.dumps(merged, indent=1).encode())


def _read(path):
    """Return a file's content, or None: pytest-benchmark makes an empty one when it starts."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None
