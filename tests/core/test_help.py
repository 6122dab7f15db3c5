"""What help() shows of public names."""

import pydoc

import pytest

import fusedlstm
from fusedlstm import convert

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


def test_help_of_a_state_says_what_is_required():
    assert "h: 'Array' = <required>, c: 'Array' = <required>" in shown("fusedlstm.LSTMState")
