"""What help() shows of public names."""

import inspect
import pydoc
import sys

import pytest

import fusedlstm
from fusedlstm import convert, help_text

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (fusedlstm, convert)
    for name in module.__all__
    if callable(getattr(module, name))
}


def shown(name):
    return pydoc.render_doc(PUBLIC[name], renderer=pydoc.plaintext)


@pytest.mark.parametrize("name", PUBLIC)
def test_help_has_no_addresses(name):
    assert " at 0x" not in shown(name)


@pytest.mark.parametrize("name", PUBLIC)
def test_help_fits_a_screen(name):
    assert max(map(len, shown(name).splitlines())) <= 120


@pytest.mark.parametrize("name", PUBLIC)
def test_broken_signatures_are_the_same(name, monkeypatch):
    """Breaks are the only difference between what is shown and Python's own text."""
    for found in (PUBLIC[name], *vars(PUBLIC[name]).values()):
        function = getattr(found, "__func__", found)
        if not inspect.isfunction(function):
            continue
        broken = inspect.signature(function)
        monkeypatch.delitem(vars(function), "__signature__", raising=False)
        plain = inspect.signature(function)
        assert " ".join(str(broken).split()).replace("( ", "(") == str(plain)
        assert ("\n" in str(broken)) == (len(str(plain)) > help_text._WIDTH and sys.version_info < (3, 13))
        assert broken == plain


def test_help_of_a_state_says_what_is_required():
    assert "h: 'Array' = <required>, c: 'Array' = <required>" in shown("fusedlstm.LSTMState")
