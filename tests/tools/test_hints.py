"""Run every hint in the package's messages: what a message says to do must work.

The last test finds the hints in the package's source. Each must be in the message of a case, or in NOT_RUN.
"""

import ast
import importlib.util
import logging
import re
from pathlib import Path

import pytest

import fusedlstm

from support.hints.case import FOLDER
from support.hints.every import CASES
from support.keras_installed import keras_or_skip

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
    """Return the message of a case: that of its error, what it returns, or what it logs."""
    try:
        returned = case.gives()
    except Exception as error:
        return str(error)
    return returned if isinstance(returned, str) else " ".join(logged)


def import_or_skip(package):
    if package == "keras":
        keras_or_skip(package)
    elif package:
        pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.mark.filterwarnings("ignore")  # PyTorch's, about functions that it deprecates
@pytest.mark.parametrize("name", CASES)
def test_hint_works(name, logged):
    case = CASES[name]
    import_or_skip(case.needs)
    message = message_of(case, logged)
    assert INSTRUCTS.search(message), message
    case.does()


# ---- the hints in the package's source ----

# Hints that no case runs, by file, with the beginnings of their texts, and why.
_GPU = "needs a GPU, or a fork after it was used"
_OLD = "needs a program that no Python of today runs: Keras 1, or PyTorch 1.3"
_RAY = "needs Ray: tests/sharded does it"
NOT_RUN: dict[str, dict[str, str]] = {
    "backends/cuda/backend.py": {"vjp computes gradients": _GPU},
    "backends/cuda/runtime/fork.py": dict.fromkeys(("this process was forked", "this thread is capturing"), _GPU),
    "convert/containers.py": {"TorchScript of PyTorch before 1.4": _OLD},
    "convert/keras/options.py": {"Save it with Keras 2": _OLD},
    "convert/keras/versions.py": {". Load it with Keras 2": _OLD},
    "convert/tflite.py": {"is a TFLite model": "needs TensorFlow: test_tflite_of_keras does it"},
    "pool_calls.py": {"a StatePool's calls can't be captured": _GPU},
    "pool_slots.py": {"Use slots.astype": _GPU},
    "ray/forks.py": {"{}. Nothing was done: call again": _RAY},
    "ray/serve/open_sessions.py": {"Use several services": _RAY},
    "ray/serve/saved.py": {"{} has sessions of other weights": _RAY},
    "ray/sharded_pool.py": dict.fromkeys(("a ShardedPool can't be copied", "Ray is not initialised"), _RAY),
    "torch/checks.py": dict.fromkeys(("Use {}.to_padded_tensor", "Use {}.to_dense"), "test_torch_modules.py does it"),
    "torch/operator.py": {"this program was exported without": "test_torch_compile.py does it"},
}
# Texts that only look like hints.
NO_HINTS = {
    "bench/running.py": ("load before", "load after"),
    "cli/serve.py": ("the Ray cluster to use",),
    "convert/onnx/finding.py": ("name[{}]",),
}
# Hints of cases that need packages which CI doesn't install.
WITH_PACKAGES = {
    "flax": {
        "convert/containers.py": ("a MessagePack file",),
        "convert/flax/modules.py": ("Give prefix=", "the RNN at", "Convert each direction's"),
    },
    "tensorflow": {
        "convert/tf1/checkpoint.py": ("checkpoints are read", "No latest checkpoint"),
        "convert/tf1/others.py": ("These are from an object-based",),
    },
}
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
    absent = {package for package in WITH_PACKAGES if importlib.util.find_spec(package) is None}
    cases = [case for case in CASES.values() if case.needs not in absent]
    for case in cases:
        import_or_skip(case.needs)
    messages = "\n".join(message_of(case, logged) for case in cases)
    without = [(name, text) for name, text in hints() if not pattern(text).search(messages)]
    lists = [NOT_RUN, NO_HINTS, *(WITH_PACKAGES[package] for package in absent)]
    reasons = [(name, start) for each in lists for name, starts in each.items() for start in starts]
    assert [one for one in without if not any(_is_of(one, reason) for reason in reasons)] == []
    assert [reason for reason in reasons if not any(_is_of(one, reason) for one in without)] == []


def _is_of(hint, reason):
    return hint[0] == reason[0] and hint[1].startswith(reason[1])
