"""A new system of plain arrays needs one short file and four lines.

Its function, the command and recognition then work.
"""

import shutil
import subprocess
import sys

import pytest

from support.places import PACKAGE, importing

MOST_LINES = 60
SYSTEM = '''"""Convert weights of an LSTM that nobody has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.cells import below, cell_weights, flat_arrays
from fusedlstm.convert.layout import Layout
from fusedlstm.convert.record import Signs, System
from fusedlstm.convert.trees import scope_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.weights import LSTMWeights

LAYOUTS = {"nobodys": Layout(gates="ogfi", columns=True, weight_ih="from_x", weight_hh="from_h", biases=("plus",))}


def from_nobodys(parameters: Mapping[str, Any], prefix: str = "") -> LSTMWeights:
    """Return the weights of nobody's LSTM.

    Args:
        parameters: names to arrays.
        prefix: what the names begin with.
    """
    scope = scope_of(prefix, "/")
    arrays, scope = below("parameters", flat_arrays("parameters", parameters), scope, "/", "from_h")
    return cell_weights(LAYOUTS["nobodys"], "parameters", arrays, scope)


SYSTEM = System("nobodys", LAYOUTS, from_nobodys, source="arrays", signs=Signs(array=r"(.*/)?from_h"))
'''
# For each file: an existing line, and the line to insert before it.
LINES = {
    "systems.py": {
        "from fusedlstm.convert.onednn": "from fusedlstm.convert.nobodys import SYSTEM as NOBODYS",
        "    TORCH,": "    NOBODYS,",
    },
    "__init__.py": {
        "from fusedlstm.convert.onednn": "from fusedlstm.convert.nobodys import from_nobodys",
        '    "from_onednn",': '    "from_nobodys",',
    },
}
PROGRAM = """
import numpy as np
import fusedlstm
from fusedlstm import LSTMWeights, convert, load_weights
from fusedlstm.cli.main import main
from fusedlstm.convert.recognise import recognise

wanted = LSTMWeights.random(3, 4, seed=0)
def columns(array):
    i, f, g, o = np.split(array, 4)
    return np.concatenate([o, g, f, i]).T
arrays = {"from_x": wanted.weight_ih, "from_h": wanted.weight_hh, "plus": wanted.bias}
arrays = {f"net/{name}": columns(array) for name, array in arrays.items()}
np.savez("theirs.npz", **arrays)
assert recognise("theirs.npz") == "nobodys"
got = [convert.from_nobodys(arrays, "net")]
for number, options in enumerate(([], ["--from", "nobodys"])):
    assert main(["convert", "theirs.npz", f"{number}.safetensors", "--name", "net", *options]) == 0
    got.append(load_weights(f"{number}.safetensors"))
for weights in got:
    for name, array in wanted.arrays().items():
        np.testing.assert_array_equal(getattr(weights, name), array)
assert main(["convert", "theirs.npz", "2.safetensors", "--from", "nobody"]) != 0
print(fusedlstm.__file__)
"""


@pytest.fixture
def package(tmp_path):
    """Return a copy of the package with the new system."""
    copy = shutil.copytree(PACKAGE, tmp_path / "fusedlstm")
    for name, lines in LINES.items():
        file = copy / "convert" / name
        text = file.read_text(encoding="utf-8")
        for place, line in lines.items():
            assert text.count(f"\n{place}") == 1
            text = text.replace(f"\n{place}", f"\n{line}\n{place}")
        file.write_text(text, encoding="utf-8")
    (copy / "convert" / "nobodys.py").write_text(SYSTEM, encoding="utf-8")
    return copy


def test_new_system_needs_one_short_file(package):
    lines = len(SYSTEM.splitlines()) + sum(map(len, LINES.values()))
    assert lines <= MOST_LINES
    environment = importing(package.parent)
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, cwd=package.parent, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(package / "__init__.py")
    assert "nobodys" in done.stderr, "the command does not offer it"
