"""Which modules may import which."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules(folder, package):
    """The files of a package, by the names of their modules."""
    found = {}
    for file in sorted((folder / package).rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(tree):
    """Yield import statements: those inside functions, too, but not those for type checkers."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from imports(ast.Module(child.orelse, []))
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        else:
            yield from imports(child)


def imported(file, known):
    """The modules of a package that a file imports."""
    for each in imports(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(each, ast.Import):
            names = [(alias.name, alias.name) for alias in each.names]
        else:
            assert not each.level, f"{file}: use absolute imports"
            names = [(f"{each.module}.{alias.name}", each.module) for alias in each.names]
        for name, parent in names:
            if name in known or parent in known:
                yield name if name in known else parent


def graph(folder, package):
    known = modules(folder, package)
    return {name: set(imported(file, known)) - {name} for name, file in known.items()}


def cycle(found):
    """The modules of a cycle, from one back to itself, or [] if there is none."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("package", ["fusedlstm", "benchmarks"])
def test_modules_have_no_import_cycle(package):
    found = graph(ROOT, package)
    assert len(found) > 10
    assert not cycle(found)


def test_only_backends_import_the_cuda_backend():
    found = graph(ROOT, "fusedlstm")
    cuda = "fusedlstm.backends.cuda"
    outside = {name for name in found if not name.startswith("fusedlstm.backends.")}
    assert not [(name, other) for name in outside for other in found[name] if other.startswith(cuda)]
    assert any(other.startswith(cuda) for other in found["fusedlstm.backends.select"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from package import a", True),
        ("from package.a import f", True),
        ("import package.a", True),
        ("def f():\n    from package import a", True),
        ("if TYPE_CHECKING:\n    from package import a", False),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from package import a", True),
        ("import json", False),
    ],
)
def test_planted_import_cycles_are_found(text, found, tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text("import package.b")
    (folder / "b.py").write_text(text)
    assert bool(cycle(graph(tmp_path, "package"))) == found
