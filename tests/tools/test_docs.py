"""The pages of docs/: their code runs as it is, and their links and names lead somewhere."""

import inspect
import re
import shlex
import traceback

import pytest

import fusedlstm
from fusedlstm import convert
from fusedlstm.cli import main as command_line

from support.old_tensorflow import tensorflow_with_a_checkpoint
from support.pages import DOCS, blocks, run
from support.places import PACKAGE, ROOT

PAGES = sorted(DOCS.glob("*.md"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def broken_links(page):
    """Yield a page's links to files that don't exist. Web addresses are not checked."""
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not re.match(r"https?:", target) and not (page.parent / target).exists():
            yield target


@every_page
def test_code_runs(page, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "numpy")
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    if "# needs tensorflow" in text:
        tensorflow_with_a_checkpoint(monkeypatch)
    _, missing = run(page.name, text)
    if missing:
        pytest.skip(f"{missing[0]} is not installed; the other blocks ran")


A_PAGE = """# A page

```python
x = 1
```

```text
no code
```

```python
# needs nothing_like_it
x = 2
```

"""


def test_blocks_of_a_page_share_names():
    names, missing = run("page.md", A_PAGE + "```python\nassert x == 1\n```\n")
    assert (names["x"], missing) == (1, ["nothing_like_it"])


def test_wrong_block_fails_at_its_line():
    with pytest.raises(AssertionError) as raised:
        run("page.md", A_PAGE + "```python\nassert x == 2\n```\n")
    place = traceback.extract_tb(raised.tb)[-1]
    assert (place.filename, place.lineno) == ("page.md", 17)


@every_page
def test_commands_exist(page):
    """The command line accepts each command in a shell block."""
    for _, block in blocks(page.read_text(encoding="utf-8"), "sh"):
        for command in re.findall(r"^(?:\S*/)?fusedlstm (.*)", block, re.MULTILINE):
            command_line.parser().parse_args(shlex.split(command, comments=True))


@every_page
def test_links_lead_somewhere(page):
    assert not list(broken_links(page))


def test_broken_link_is_found(tmp_path):
    (tmp_path / "page.md").write_text(
        "[a](page.md#top) [b](https://x.org) [c](gone.md#top) [d][page.d] ![e](gone.svg 'e')\n"
    )
    assert list(broken_links(tmp_path / "page.md")) == ["gone.md", "gone.svg"]


@every_page
def test_named_files_exist(page):
    """File names in code style, such as `backends/select.py`, are in the checkout or in the package."""
    named = re.findall(r"`((?:\w[\w.-]*/)+[\w.-]+\.(?:py|cuh?|md|sh|json|txt))`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists() and not (PACKAGE / name).exists()] == []


def test_picture_of_a_call_names_files():
    (picture,) = (block for _, block in blocks((DOCS / "architecture.md").read_text(encoding="utf-8"), "text"))
    there = {path.name for folder in (PACKAGE, ROOT / "kernels") for path in folder.rglob("*.*")}
    named = set(re.findall(r"\w+\.(?:py|cuh?)\b", picture))
    assert len(named) > 20
    assert named <= there


@every_page
def test_page_is_in_the_navigation(page):
    assert page.name in re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)


@every_page
def test_page_is_short(page):
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("module", [fusedlstm, convert], ids=["fusedlstm", "convert"])
def test_reference_has_every_public_name(module):
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(rf"\b{module.__name__}\.(\w+)\b", page))
    assert named >= set(module.__all__)


def test_docstrings_are_plain_in_markdown():
    """Outside backticks, Markdown reads <index> as a tag and __call__ as bold text."""
    public = {name: getattr(module, name) for module in (fusedlstm, convert) for name in module.__all__}
    members = {
        f"{name}.{member}": value
        for name, owner in public.items()
        if inspect.isclass(owner) and owner.__module__.startswith("fusedlstm")
        for member, value in vars(owner).items()
        if callable(value) or isinstance(value, property)
    }
    found = {
        name: re.findall(r"<\w+>|\b__\w+__", re.sub(r"`[^`]*`", "", inspect.getdoc(each) or ""))
        for name, each in (public | members).items()
        if not isinstance(each, str)
    }
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
