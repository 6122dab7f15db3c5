"""The package's own messages."""

from fusedlstm import log


def warn(module, text):
    """Say a text once, in a module of this name."""
    exec(f"from fusedlstm import log\nlog.warn_once({text!r})\n", {"__name__": f"fusedlstm.{module}"})


def test_warnings_of_one_text_are_one_line(caplog, monkeypatch):
    """A record shows no module, so the same words again would tell nothing new."""
    monkeypatch.setattr(log, "_said", set())
    warn("convert.torch", "use batch_first")
    warn("convert.torch", "use batch_first")
    warn("convert.keras", "use batch_first")
    warn("convert.keras", "use reverse")
    assert [record.getMessage() for record in caplog.records] == ["use batch_first", "use reverse"]
    assert {(record.name, record.module) for record in caplog.records} == {("fusedlstm", "log")}
