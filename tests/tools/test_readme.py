"""The README is short, its code runs as it is, and its commands and links exist."""

import re

import pytest

from fusedlstm.cli import main as command_line

from support.pages import blocks
from support.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = {
    section.split("\n", 1)[0]: [block for _, block in blocks(section, "python")]
    for section in re.split(r"^## ", README, flags=re.MULTILINE)[1:]
}


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_every_block_is_in_a_tested_section():
    assert {title for title, found in SECTIONS.items() if found} == {"Ten lines", "Load your weights"}


def test_ten_lines(backend, monkeypatch, capsys):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    (block,) = SECTIONS["Ten lines"]
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith(f"{backend} (1024, 64) (1024, 64) ")
    assert len([line for line in block.splitlines() if line.strip()]) == 9


def test_three_lines_load_weights(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "numpy")
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.LSTM(3, 4, num_layers=2).state_dict(), "policy.pt")
    (block,) = SECTIONS["Load your weights"]
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["lstm"].weights.num_layers == 2
    assert len([line for line in block.splitlines() if line.strip()]) == 3


def test_commands_exist():
    commands = re.findall(
        r"^\.venv/bin/fusedlstm (.*)$", "".join(block for _, block in blocks(README, "sh")), re.MULTILINE
    )
    assert commands
    for command in commands:
        command_line.parser().parse_args(command.split())


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
