"""Tests of the text that help() shows for public names."""

import ast
import inspect
import pydoc
import re
import subprocess
import sys
import textwrap

import pytest

import fusedlstm
from fusedlstm import convert
from fusedlstm.weights import CellOptions

from support.places import ENVIRONMENT

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (fusedlstm, convert)
    for name in module.__all__
    if callable(getattr(module, name))
}


def shown(name):
    return pydoc.render_doc(PUBLIC[name], renderer=pydoc.plaintext)


def functions(public):
    """Yield the functions of a public name, each with its name in help()."""
    for name, member in vars(public).items() if inspect.isclass(public) else [(public.__name__, public)]:
        function = getattr(member, "__func__", member)
        if inspect.isfunction(function) and (name in ("__init__", "__call__") or not name.startswith("_")):
            yield getattr(public, name) if isinstance(member, classmethod) else function, name


@pytest.mark.parametrize("name", PUBLIC)
def test_help_has_no_addresses(name):
    assert " at 0x" not in shown(name)


@pytest.mark.parametrize("name", PUBLIC)
def test_help_fits_a_screen(name):
    """Docstrings are at most as wide as the source, and signatures fit 80 columns."""
    text = shown(name)
    assert max(map(len, text.splitlines())) <= 120
    if sys.version_info >= (3, 13):  # Python breaks signatures itself, except before the return type
        return
    margin = " |  " if inspect.isclass(PUBLIC[name]) else ""
    for function, called in functions(PUBLIC[name]):
        lines = f"{called}{inspect.signature(function)}".replace("(self, ", "(").splitlines()
        assert max(len(margin + line) for line in lines) <= 80
        assert all(margin + line in text for line in lines[1:])


@pytest.mark.parametrize("name", PUBLIC)
def test_line_breaks_keep_the_signature(name, monkeypatch):
    """Only line breaks may differ from Python's own signature."""
    for found in (PUBLIC[name], *vars(PUBLIC[name]).values()):
        function = getattr(found, "__func__", found)
        if not inspect.isfunction(function):
            continue
        broken = inspect.signature(function)
        monkeypatch.delitem(vars(function), "__signature__", raising=False)
        plain = inspect.signature(function)
        assert " ".join(str(broken).split()).replace("( ", "(").replace(" )", ")") == str(plain)
        assert "*, " not in str(broken) or "\n" not in str(broken)
        assert broken == plain


def defaults_in_source(public):
    """Yield the defaults that the API page shows, as text. It reads the source, and of two definitions the last."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(public)))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in {each.name: each for each in sorted(found, key=lambda each: each.lineno)}.values():
        if node.name == "__init__" or not node.name.startswith("_"):
            yield from map(ast.unparse, filter(None, [*node.args.defaults, *node.args.kw_defaults]))


@pytest.mark.parametrize("name", PUBLIC)
def test_signature_in_source_has_no_private_name(name):
    private = [text for text in defaults_in_source(PUBLIC[name]) if re.match(r"_[A-Za-z]", text)]
    assert not private, f"the API page shows {', '.join(private)} as defaults of {name}"


def test_help_of_a_state_says_what_is_required():
    text = shown("fusedlstm.LSTMState")
    assert "h: 'Array' = <required>" in text
    assert "c: 'Array' = <required>" in text


def test_short_signatures_are_one_line():
    for text in ("zero_state(self, batch: 'int', like: 'Any' = None) -> 'LSTMState'", "set_weights(self, weights: "):
        assert f" |  {text}" in shown("fusedlstm.LSTMCell")


@pytest.mark.parametrize("name", ["LSTMWeights", "StackedWeights"])
def test_help_of_random_names_each_option(name):
    text = pydoc.render_doc(getattr(fusedlstm, name).random, renderer=pydoc.plaintext)
    assert all(option in text for option in CellOptions.__annotations__)


@pytest.mark.parametrize("name", PUBLIC)
def test_help_spells_out_either_classes(name):
    """Users can't look up annotations such as EitherWeights."""
    text = shown(name)
    returns = text.partition("Returns:")[2].partition("\n\n")[0]
    if "-> 'EitherWeights'" in text:
        assert "LSTMWeights" in returns
        assert "StackedWeights" in returns
    if "-> 'EitherState'" in text:
        assert "An LSTMState" in returns
        assert "a tuple" in returns


@pytest.mark.parametrize("name", PUBLIC)
def test_help_names_no_private_class(name):
    assert "Placed[" not in shown(name)


def indexed(module):
    """Return the names in the index of a module's docstring: its indented lines."""
    return re.findall(r"^    (\w+) +\S.*$", module.__doc__, re.MULTILINE)


every_module = pytest.mark.parametrize("module", [fusedlstm, convert], ids=lambda module: module.__name__)


@every_module
def test_index_has_every_public_name(module):
    public, names = {name for name in module.__all__ if not name.startswith("__")}, indexed(module)
    where = f"the docstring of {module.__name__}"
    assert not public - set(names), f"{where} lacks {', '.join(sorted(public - set(names)))}"
    assert not set(names) - public, f"{where} has {', '.join(sorted(set(names) - public))}, which is not public"
    assert len(names) == len(set(names)), f"{where} has a name twice"


@every_module
def test_help_of_a_module_begins_with_its_index(module):
    first, _, index = inspect.getdoc(module).partition("\n\n")
    text = pydoc.render_doc(module, renderer=pydoc.plaintext)
    shown, _, _ = text.partition("\nNAME\n")[2].partition("\nPACKAGE CONTENTS")
    assert re.sub(r"^ {4}", "", shown, flags=re.MULTILINE).split("\n\n", 1) == [
        f"{module.__name__} - {first}",
        f"DESCRIPTION\n{index}\n",
    ]
    assert max(map(len, shown.splitlines())) <= 80


def test_dir_has_convert_before_its_import():
    code = "import sys, fusedlstm; print('convert' in dir(fusedlstm), 'fusedlstm.convert' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
