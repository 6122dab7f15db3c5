"""Without Ray, importing fusedlstm.ray says what to install. This test needs no Ray."""

import sys

import pytest


def test_missing_ray_is_named(monkeypatch):
    for name in list(sys.modules):
        if name.startswith("fusedlstm.ray"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"Ray, which is not installed: pip install 'fusedlstm\[ray\]'"):
        import fusedlstm.ray  # noqa: F401
