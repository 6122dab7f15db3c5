"""Only `cupy_internals.py` uses what CuPy doesn't document."""

import ast
import re

import pytest

from support.places import ROOT

BACKEND = ROOT / "fusedlstm" / "backends" / "cuda"
MAY = {"cupy_internals.py", "probe.py"}
# Modules of CuPy that its documentation doesn't list, and private names.
UNDOCUMENTED = re.compile(
    r"cupy_backends\b.*|cupy\.(_(?!_)\w+|cuda\.(driver|nvrtc|device|stream|function|compiler))\b.*|cupy\b.*\._(?!_)\w+"
)


def undocumented(source):
    """Yield the undocumented names of CuPy in some source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        else:
            continue
        yield from filter(UNDOCUMENTED.fullmatch, names)


def test_undocumented_names_are_in_one_file():
    found = {file.name for file in BACKEND.rglob("*.py") if any(undocumented(file.read_text(encoding="utf-8")))}
    assert found == MAY


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import cupy\ncupy.cuda.driver.launchKernel(1)", True),
        ("from cupy.cuda import nvrtc", True),
        ("from cupy.cuda.device import get_cublas_handle", True),
        ("def f():\n    from cupy_backends.cuda.libs import cublas", True),
        ("import cupy._core.raw", True),
        ("import cupy\ncupy.ndarray._x", True),
        ("import cupy\ncupy.cuda.runtime.getDevice()", False),
        ("import cupy\ncupy.__version__", False),
        ("import cupy\nfrom cupy.cuda import Device\ncupy.RawModule(path='x')", False),
    ],
)
def test_planted_names_are_found(source, found):
    assert any(undocumented(source)) == found
