"""Test which modules import which."""

import ast
import functools
import re
from graphlib import CycleError, TopologicalSorter

import pytest

from support.places import ROOT

CUDA = "fusedlstm.backends.cuda"
MAY_IMPORT_CUDA = re.compile(r"fusedlstm\.backends\.(select|cuda(\..*)?)")


def modules(folder, package):
    """Return the files of a package by module name."""
    found = {}
    for file in sorted((folder / package).rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@functools.cache
def nodes(file):
    """Return the imports and calls in a file, including those inside functions, but not those for type checkers."""
    waiting, found = [ast.parse(file.read_text(encoding="utf-8"))], []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
            found.append(node)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)
    return found


def strings(call):
    """Yield the strings in a call's arguments, or in parts of them."""
    for argument in (*call.args, *(each.value for each in call.keywords)):
        for node in ast.walk(argument):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def names_imported(node, file):
    """Return pairs of names for each import of a node: the full name, and its parent in case it is not a module."""
    if isinstance(node, ast.Import):
        return [(alias.name, alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert not node.level, f"{file}: use absolute imports"
        return [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
    if getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
        return [(name, name) for name in strings(node)]
    return []


def imported(file, known):
    """Yield the modules of a package that a file imports."""
    for node in nodes(file):
        for name, parent in names_imported(node, file):
            if name in known or parent in known:
                yield name if name in known else parent


@functools.cache
def graph(folder, package):
    known = modules(folder, package)
    return {name: set(imported(file, known)) - {name} for name, file in known.items()}


def cycle(found):
    """Return the modules of a cycle, from one back to itself, or [] if there is none."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def is_of_cuda(name):
    return f"{name}.".startswith(f"{CUDA}.")


def importers_of_cuda(folder):
    """Yield the modules that import the CUDA backend, or pass the name of one of its modules to a function."""
    found = graph(folder, "fusedlstm")
    for name, file in modules(folder, "fusedlstm").items():
        calls = (node for node in nodes(file) if isinstance(node, ast.Call))
        if any(map(is_of_cuda, (*found[name], *(each for call in calls for each in strings(call))))):
            yield name


def forbidden(names):
    return [name for name in names if not MAY_IMPORT_CUDA.fullmatch(name)]


@pytest.mark.parametrize("package", ["fusedlstm", "benchmarks"])
def test_modules_have_no_import_cycle(package):
    found = graph(ROOT, package)
    assert len(found) > 10
    assert not cycle(found)


def test_only_select_imports_the_cuda_backend():
    found = list(importers_of_cuda(ROOT))
    assert "fusedlstm.backends.select" in found
    assert not forbidden(found)


PLANTED = [
    ("from package import a", True),
    ("from package.a import f", True),
    ("import package.a", True),
    ("def f():\n    from package import a", True),
    ("if TYPE_CHECKING:\n    from package import a", False),
    ("if typing.TYPE_CHECKING:\n    from package import a", False),
    ("if TYPE_CHECKING:\n    pass\nelse:\n    from package import a", True),
    ("if not TYPE_CHECKING:\n    from package import a", True),
    ("importlib.import_module('package.a')", True),
    ("print('package.a')", False),
    ("import json", False),
]


@pytest.mark.parametrize(("text", "found"), PLANTED)
def test_planted_import_cycles_are_found(text, found, tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text("import package.b")
    (folder / "b.py").write_text(text)
    assert bool(cycle(graph(tmp_path, "package"))) == found


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("fusedlstm.pool", f"import {CUDA}.tiles", True),
        ("fusedlstm.pool", f"def f():\n    from {CUDA} import tiles", True),
        ("fusedlstm.pool", f"importlib.import_module('{CUDA}.tiles')", True),
        ("fusedlstm.pool", f"load(name=f'{CUDA}.{{name}}')", True),
        ("fusedlstm.pool", "import fusedlstm.backends.select", False),
        ("fusedlstm.backends.numpy.cell", f"from {CUDA}.tiles import Tile", True),
        ("fusedlstm.backends.kernel_choice", f"from {CUDA}.tiles import Tile", True),
        ("fusedlstm.backends.select", f"from {CUDA}.tiles import Tile", False),
        ("fusedlstm.backends.cuda.cell", f"from {CUDA}.tiles import Tile", False),
    ],
)
def test_planted_imports_of_cuda_are_found(name, text, found, tmp_path):
    files = {f"{CUDA}.tiles": "", "fusedlstm.backends.select": "", name: text}
    for module, content in files.items():
        file = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert forbidden(importers_of_cuda(tmp_path)) == ([name] if found else [])
