"""The table of slow tests."""

import re

from support import slow
from support.places import TESTS


def test_rows_name_tests_that_exist():
    """A renamed test would lose its row, and run by default."""
    rows = slow.read()
    assert len(rows) > 100
    texts = {}
    for name in rows:
        file, function = re.match(r"tests/([^:]+)::(\w+)", name).groups()
        text = texts.setdefault(file, (TESTS / file).read_text(encoding="utf-8"))
        assert f"def {function}(" in text, f"{file} has no {function}: write tests/slow_tests.txt anew"
