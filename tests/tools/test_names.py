"""Tests have short names, and docstrings don't continue them."""

import ast

import pytest

from support.places import ROOT, TESTS

MOST = 45  # characters of a test's name
FOLDERS = (TESTS, ROOT / "benchmarks")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def complaints(folder):
    """Yield what is wrong with names and docstrings in a folder: file:line, the fault, and what to do."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, DOCUMENTED):
                continue
            place = f"{file.relative_to(folder.parent)}:{getattr(node, 'lineno', 1)}"
            name = getattr(node, "name", "")
            if name.startswith("test_") and len(name) > MOST:
                yield f"{place}: {name} has {len(name)} characters. Use at most {MOST}: test_<subject>_<behaviour>"
            if (ast.get_docstring(node) or "").startswith(("...", "…")):
                yield f"{place}: the docstring begins with '...'. Write a sentence, or delete it if the name says it"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_names_are_short_and_docstrings_sentences(folder):
    found = list(complaints(folder))
    assert not found, "\n".join(found)


def test_planted_names_and_docstrings_are_found(tmp_path):
    long = "test_" + "x" * 41
    text = f'"""Good."""\n\ndef {long[:-1]}():\n    """Good..."""\n\ndef {long}():\n    """... of a name."""\n'
    (tmp_path / "test_planted.py").write_text(text)
    name, docstring = complaints(tmp_path)
    place = f"{tmp_path.name}/test_planted.py:6: "
    assert name == f"{place}{long} has 46 characters. Use at most 45: test_<subject>_<behaviour>"
    assert docstring.startswith(f"{place}the docstring begins with '...'")
