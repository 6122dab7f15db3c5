"""Without Ray, importing fusedlstm.ray says what to install. These tests need no Ray."""

import sys

import pytest

from fusedlstm import LSTMWeights
from fusedlstm.cli import main as command_line


@pytest.fixture
def no_ray(monkeypatch):
    for name in list(sys.modules):
        if name.startswith("fusedlstm.ray"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.mark.usefixtures("no_ray")
def test_missing_ray_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"Ray, which is not installed: pip install 'fusedlstm\[ray\]'"):
        import fusedlstm.ray  # noqa: F401


@pytest.mark.usefixtures("no_ray")
def test_command_without_ray_says_what_to_install(capsys, tmp_path):
    LSTMWeights.random(2, 3, seed=0).save(tmp_path / "w")
    assert command_line.main(["serve", str(tmp_path / "w")]) == 1
    assert "which is not installed: pip install 'fusedlstm[ray]'" in capsys.readouterr().err
