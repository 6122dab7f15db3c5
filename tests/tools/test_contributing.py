"""CONTRIBUTING.md is short, and names files that exist."""

import re

import pytest

from support.places import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FOLDERS = [
    name
    for name in ("fusedlstm", "kernels", "tests", "docs", "benchmarks", "examples", ".ci")
    if name != ".ci" or (ROOT / name).is_dir()  # which a source archive lacks
]
# A path is below one of our folders, or a file beside them. In commands it is a word.
PATH = re.compile(rf"(?<![\w/.])((?:{'|'.join(map(re.escape, FOLDERS))})/[\w/.*-]*|[A-Z]+\.md|NOTICE)")


def paths(page):
    """Return the paths that a page names, without the period of a sentence."""
    return sorted({path.rstrip(".") for path in PATH.findall(page)})


def lost(page):
    """Yield a complaint for each path without a file. A star may match any files."""
    for path in paths(page):
        if not any(ROOT.glob(path)):
            yield f"CONTRIBUTING.md: there is no {path}"


def test_contributing_is_short():
    lines = PAGE.splitlines()
    assert len(lines) <= 130
    assert max(map(len, lines)) <= 120


def test_contributing_names_files_that_exist():
    assert len(paths(PAGE)) > 50
    found = list(lost(PAGE))
    assert not found, "\n".join(found)


def test_readme_says_the_same_time_of_tests():
    (time,) = re.findall(r"^\| `\.venv/bin/pytest` \|[^|]*\| (.*) \|$", PAGE, re.MULTILINE)
    assert time in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("`fusedlstm/nowhere.py`: a line.", "fusedlstm/nowhere.py"),
        ("in `tests/nowhere/`.", "tests/nowhere/"),
        ("the tests `tests/core/nowhere_*.py` list them", "tests/core/nowhere_*.py"),
        ("run `python tests/nowhere.py --write`", "tests/nowhere.py"),
        ("see [this](docs/nowhere.md).", "docs/nowhere.md"),
        ("and NOWHERE.md.", "NOWHERE.md"),
    ],
)
def test_planted_path_is_found(text, path):
    assert list(lost(f"{PAGE}\n{text}\n")) == [f"CONTRIBUTING.md: there is no {path}"]


RECIPES = ("test_recipes", "test_tile_recipe", "test_benchmark_recipe")


def files_of_recipes():
    """Return the files that the tests of recipes name when a place was forgotten."""
    texts = [(ROOT / f"tests/tools/{name}.py").read_text(encoding="utf-8") for name in RECIPES]
    return sorted({file for text in texts for file in re.findall(r'Place\(\s*"([\w/.*-]+)', text)})


def test_contributing_names_files_of_recipes():
    assert len(files_of_recipes()) > 15
    missing = [file for file in files_of_recipes() if f"`{file}`" not in PAGE]
    assert not missing, f"CONTRIBUTING.md: a recipe should name {', '.join(missing)}"
