"""NOTICE names every system whose numbers are in tests, with its licence and files."""

import functools
import json
import re
from fnmatch import fnmatch

import numpy as np
import pytest

from support.places import DATA, ORACLES, ROOT

NOTICE = (ROOT / "NOTICE").read_text(encoding="utf-8")
OURS = {".py", ".md"}  # among the numbers: programs and their description


def system_of(path):
    """Return the package that a file of numbers names as its source, or an empty string."""
    if path.suffix != ".npz":
        return ""
    with np.load(path) as file:
        meta = json.loads(str(file["meta"])) if "meta" in file else {"system": ""}
    return re.match(r"[\w-]*", meta["system"])[0]


@functools.cache
def numbers():
    """Return the system that each file of other systems' numbers names as its source, by path."""
    files = [path for path in sorted(ORACLES.rglob("*")) if path.is_file() and path.suffix not in OURS]
    files += sorted(DATA.rglob("*.zip"))
    return {path.relative_to(ROOT).as_posix(): system_of(path) for path in files if "__pycache__" not in path.parts}


def entries(notice):
    """Return the text of each system's line, and the patterns of its files."""
    lines = re.findall(r"^(.*\(.*\).*): (tests/.*)$", notice, re.MULTILINE)
    return [(text, patterns.split(", ")) for text, patterns in lines]


def problems(files, notice):
    """Yield a complaint for each file whose system NOTICE doesn't name, and for each pattern that matches no file."""
    lines = entries(notice)
    for file, system in files.items():
        texts = [text for text, patterns in lines if any(fnmatch(file, pattern) for pattern in patterns)]
        if not any(system.lower() in text.lower() for text in texts):
            yield f"NOTICE: name the system of {file} ({system or 'unknown'}), its licence and its files"
    for _, patterns in lines:
        for pattern in patterns:
            if not any(fnmatch(file, pattern) for file in files):
                yield f"NOTICE: {pattern} matches no file of other systems' numbers"


def test_notice_names_every_system():
    found = list(problems(numbers(), NOTICE))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "system", "says"),
    [
        ("tests/oracles/nobodys/plain.npz", "nobodys", "name the system of tests/oracles/nobodys/plain.npz .nobodys."),
        ("tests/oracles/old/nobodys.npz", "", "name the system of tests/oracles/old/nobodys.npz .unknown."),
        ("tests/oracles/old/chainer_new.npz", "nobodys", "name the system of tests/oracles/old/chainer_new.npz"),
    ],
)
def test_system_that_notice_lacks_is_found(file, system, says):
    assert any(re.search(says, problem) for problem in problems(numbers() | {file: system}, NOTICE))


def test_forgotten_lines_of_notice_are_found():
    lines = re.findall(r"^.*\(.*\).*: tests/.*$", NOTICE, re.MULTILINE)
    assert len(lines) == len(entries(NOTICE))
    for line in lines:
        assert list(problems(numbers(), NOTICE.replace(line, "")))
    assert list(problems(numbers(), f"{NOTICE}Nobody's (MIT): tests/oracles/nobodys/*\n"))
