"""Run every hint in the package's messages: what a message says to do must work.

The last test finds the hints in the package's source. Each must be in the message of a case, or in NOT_RUN.
"""

import ast
import logging
import re
from pathlib import Path

import pytest

import fusedlstm

from support.hint_cases import CASES, FOLDER

VERBS = (
    "use|pass|give|call|rename|save|convert|take|install|set|run|put|leave|name|make|join|cast|export|remove|copy|write|"
    "unpack|start|load|keep|import|repeat"
)
INSTRUCTS = re.compile(rf"(?:^|[.:;,] |, and |If you trust it, )(?:{VERBS})\b[^:]", re.IGNORECASE)


@pytest.fixture(autouse=True)
def folder(tmp_path):
    FOLDER["now"] = tmp_path


@pytest.fixture
def logged():
    """Collect what the package logs, even once per process."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("fusedlstm")
    logger.addHandler(handler)
    fusedlstm.log._said.clear()
    yield records
    logger.removeHandler(handler)


def message_of(case, logged):
    """Return the message of a case: that of its error, or what it logs."""
    try:
        case.gives()
    except Exception as error:
        return str(error)
    return " ".join(logged)


@pytest.mark.filterwarnings("ignore")  # PyTorch's, about functions that it deprecates
@pytest.mark.parametrize("name", CASES)
def test_hint_works(name, logged):
    case = CASES[name]
    if case.needs:
        pytest.importorskip(case.needs, reason=f"{case.needs} is not installed")
    message = message_of(case, logged)
    assert INSTRUCTS.search(message), message
    case.does()


# ---- the hints in the package's source ----

# Hints that no case runs, by file, and why.
NOT_RUN: dict[str, dict[str, str]] = {}
_NO_MESSAGES = ("cli/arguments.py", "cli/demo/", "selftest/")  # the help, examples and reports


def hints():
    """Return the hints in the package's messages, by file, with "{}" for what is filled in."""
    package, found = Path(fusedlstm.__file__).parent, {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not name.startswith(_NO_MESSAGES):
            found |= {(name, text): None for text in literals(ast.parse(path.read_text())) if INSTRUCTS.search(text)}
    return list(found)


def literals(tree):
    """Yield a module's strings of several words, without its docstrings."""
    nodes = list(ast.walk(tree))
    skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
    skipped |= {
        id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in ast.walk(node) if part is not node
    }
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value


def pattern(text):
    """Return a pattern of the messages that a literal makes."""
    return re.compile(".*".join(map(re.escape, re.split(r"\{[^{}]*\}|%[a-z]", text))), re.DOTALL)


@pytest.mark.filterwarnings("ignore")
def test_hints_have_cases(logged):
    """A new hint needs a case above, or a reason in NOT_RUN."""
    for case in CASES.values():
        if case.needs:
            pytest.importorskip(case.needs, reason=f"{case.needs} is not installed")
    messages = "\n".join(message_of(case, logged) for case in CASES.values())
    without = [(name, text) for name, text in hints() if not pattern(text).search(messages)]
    reasons = [(name, start) for name, starts in NOT_RUN.items() for start in starts]
    assert [one for one in without if not any(_is_of(one, reason) for reason in reasons)] == []
    assert [reason for reason in reasons if not any(_is_of(one, reason) for one in without)] == []


def _is_of(hint, reason):
    return hint[0] == reason[0] and hint[1].startswith(reason[1])
