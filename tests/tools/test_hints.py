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

# Hints that no case runs, by file, with the beginnings of their texts: who runs them, or why nobody does.
_KERAS = "needs a Keras model or its file: tests/convert/test_keras*.py give these messages"
_JAX = "needs nnx: tests/convert/test_flax.py gives these messages"
_INTERRUPTED = "a call within a call: tests/core gives these messages"
_NONE = "no case yet"
_OUTSIDE = "only another program, another machine or the model's owner can do it"
NOT_RUN: dict[str, dict[str, str]] = {
    "arrays/dtypes.py": {"bfloat16 needs": _OUTSIDE},
    "backends/cuda/pool.py": {"slots on the device": "needs a GPU: tests/cuda"},
    "backends/cuda/runtime/fork.py": {"this process was forked": _OUTSIDE, "this thread is capturing": _INTERRUPTED},
    "backends/numpy/backend.py": {"Set OPENBLAS_NUM_THREADS": _OUTSIDE},
    "backends/numpy/blas.py": {"{}; set": _OUTSIDE},
    "backends/numpy/cores.py": {"NumPy's BLAS uses": "tests/core/test_cores.py"},
    "bench/running.py": dict.fromkeys(("load before", "load after"), "not a hint"),
    "cli/convert.py": {
        "Some are the same LSTM": _NONE,
        "Use --force": "the command: tests/tools/test_convert_command.py",
    },
    "cli/progress.py": {"no progress bar": _OUTSIDE},
    "convert/archives.py": {"it claims": "needs a large file: tests/convert/test_archives.py"},
    "convert/containers.py": dict.fromkeys(
        ("a compressed", "a tar", "a program of torch.export", "an archive of files", "a Python pickle"),
        "tests/convert/test_containers.py",
    )
    | dict.fromkeys(("a model in onnxruntime's", "a JSON file", "TorchScript of PyTorch before 1.4"), _OUTSIDE),
    "convert/coreml.py": {"Pass it with its alpha": _NONE},
    "convert/flax/modules.py": {"Give prefix=": _JAX, "the RNN at": _JAX, "Convert each direction's": _JAX},
    "convert/flax/tree.py": {"Give prefix=[(": _JAX},
    "convert/foreign.py": {"If it computes the same": _JAX},
    "convert/haste.py": {"has a recurrent_kernel": "tests/convert/test_recognise.py"},
    "convert/keras/graph.py": {"Convert each layer": _KERAS, "Give initial_state=": _KERAS},
    "convert/keras/hdf5.py": {"Write it again": _OUTSIDE},
    "convert/keras/layers.py": dict.fromkeys(
        (
            *("its state is not", "If it computes what", "Its default may be", "Convert forward_layer"),
            "%s computes in",
        ),
        _KERAS,
    ),
    "convert/keras/nodes.py": {"Give name= one of": _KERAS, "Give the layer in it": _KERAS},
    "convert/keras/options.py": {"Save it with Keras 2": _OUTSIDE},
    "convert/keras/versions.py": {". Load it with Keras 2": _OUTSIDE},
    "convert/onnx/finding.py": {"name[{}]": "not a hint"},
    "convert/onnx/importing.py": {
        "the model computes": "tests/convert/test_onnx_states.py",
        "Give name= of the node": _NONE,
    },
    "convert/onnx/lengths.py": {"the model computes": "tests/convert/test_onnx_inputs.py"},
    "convert/onnx/tensors.py": {
        "Links may lead": _OUTSIDE,
        "Pass the model's path": _NONE,
    },
    "convert/recognise.py": {"Name its system": "tests/convert/test_recognise.py"},
    "convert/running/keras.py": {". Nor does it say": _KERAS},
    "convert/tf1/checkpoint.py": {"checkpoints are read": _OUTSIDE, "No latest checkpoint": "needs TensorFlow"},
    "convert/tf1/others.py": {"These are from an object-based": "needs TensorFlow"},
    "convert/tflite.py": {"is a TFLite model": "needs TensorFlow"},
    "convert/torch/saved.py": {"it holds a whole module": "needs PyTorch before 1.6"},
    "convert/torch/unpickling.py": {"it has a tensor whose": "no version of PyTorch writes it"},
    "in_place.py": {"another thread": _INTERRUPTED, "the last call": _INTERRUPTED, "this {} is in": _INTERRUPTED},
    "pool.py": {"this StatePool is in": _INTERRUPTED},
    "pool_slots.py": {"Use slots.astype": "needs a GPU: tests/cuda"},
    "torch/__init__.py": {"fusedlstm.torch needs PyTorch": _OUTSIDE},
    "validation/subclasses.py": {"Use {}.to_tensor": _NONE},
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
