"""Names in docstrings such as `pool.StatePool` exist."""

import ast
import re
from itertools import pairwise

import pytest

from support.places import PACKAGE

# Other packages that share a name with a module here.
OTHERS = {"numpy", "torch", "keras", "flax", "onnx", "haiku", "parametrizations"}
REFERENCE = re.compile(r"`(\w+(?:\.\w+)+)(?:\(\))?`")
DOCUMENTED = (ast.Module, ast.FunctionDef, ast.ClassDef)


def nodes_of(package):
    """Return all syntax nodes of each file, by path."""
    return {
        file.relative_to(package.parent): list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        for file in sorted(package.rglob("*.py"))
    }


def defined(nodes):
    """Yield the names in a module or a class: of functions, classes, variables, attributes and imports."""
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def names_in(files):
    """Return the names in each folder, module and class. Those with the same name are merged."""
    found = {}
    for file, nodes in files.items():
        parts = [part for part in file.with_suffix("").parts if part != "__init__"]
        for folder, name in pairwise(parts):
            found.setdefault(folder, set()).add(name)
        found.setdefault(parts[-1], {"py"}).update(defined(nodes))  # so that `pool.py` counts
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(defined(ast.walk(node)))
    return found


def wrong_references(files):
    """Yield references that begin with a module or a class, and lead to nothing."""
    names = names_in(files)
    for file, nodes in files.items():
        for node in (each for each in nodes if isinstance(each, DOCUMENTED)):
            for reference in REFERENCE.findall(ast.get_docstring(node) or ""):
                parts = reference.split(".")
                lost = any(name not in names[place] for place, name in pairwise(parts) if place in names)
                if lost and parts[0] in names.keys() - OTHERS:
                    yield f"{file}: {reference}"


def test_references_in_docstrings_lead_somewhere():
    assert not list(wrong_references(nodes_of(PACKAGE)))


@pytest.mark.parametrize(
    ("reference", "wrong"),
    [
        ("pool.step", False),
        ("pool.step()", False),
        ("cuda.pool.step", False),
        ("package.cuda.pool", False),
        ("Pool.slots", False),
        ("x.shape", False),
        ("pool.py", False),
        ("pool.steps", True),
        ("cuda.streams", True),
        ("package.pool", True),
        ("Pool.slot", True),
    ],
)
def test_planted_references_are_found(reference, wrong, tmp_path):
    folder = tmp_path / "package" / "cuda"
    folder.mkdir(parents=True)
    text = f'class Pool:\n    """See `{reference}`."""\n    slots = 3\n\ndef step(): pass\n'
    (folder / "pool.py").write_text(text)
    assert bool(list(wrong_references(nodes_of(tmp_path / "package")))) == wrong
