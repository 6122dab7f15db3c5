"""The table of slow tests is right, and a plain run still tests every public name and kernel."""

import ast
import functools
import re

import pytest

import fusedlstm

from support import slow
from support.backends import BACKENDS
from support.places import KERNELS, ROOT, TESTS


@pytest.fixture
def collected(request):
    """Return the ids of all tests in the collected files. The other files may lack a package."""
    config = request.config
    if BACKENDS != ["numpy", "emulated"]:
        pytest.skip("the table of slow tests is of an emulated GPU")
    if any("::" in argument for argument in config.args) or config.getoption("lf", False):
        pytest.skip("not all tests of a file were collected")
    if config.option.write_slow_tests:
        pytest.skip("the table is being written")
    return config.stash[slow.COLLECTED]


def unmatched(rows, ids):
    """Return the rows that name no test. If their file was not collected, they count only if it is gone."""
    files = set(map(slow.file_of, ids))
    absent = [row for row in rows if row not in ids]
    return [row for row in absent if slow.file_of(row) in files or not (ROOT / slow.file_of(row)).is_file()]


def test_rows_name_tests_that_exist(collected):
    """A renamed test or parameter would lose its row, and then run by default."""
    assert not unmatched(slow.read(), collected), "rename these rows, or rewrite tests/slow_tests.txt"


def test_row_without_a_test_is_found():
    ids = {"tests/core/test_cell.py::test_one[a]", "tests/core/test_cell.py::test_two"}
    wrong = ["tests/core/test_cell.py::test_one[b]", "tests/core/test_cell.py::test_one", "tests/core/gone.py::test"]
    right = [*ids, "tests/core/test_lstm.py::test_that_was_not_collected"]
    assert unmatched([*right, *wrong], ids) == wrong


def test_rule_tests_are_never_slow(tmp_path, monkeypatch):
    """Neither a row of the table nor a measurement makes them slow."""
    monkeypatch.setattr(slow, "TABLE", tmp_path / "table.txt")
    names = [f"{file}::test" for file in (*slow.ALWAYS_RUN, "tests/core/test_cell.py")]
    slow.TABLE.write_text("".join(f"3.0\t{name}\n" for name in names))
    assert slow.read() == {names[-1]: 3.0}
    measured = slow.Measured()
    measured.seconds = dict.fromkeys(names, 2.0)
    measured.pytest_sessionfinish()
    assert slow.TABLE.read_text() == f"2.0\t{names[-1]}\n"
    assert all((ROOT / file).is_file() for file in slow.ALWAYS_RUN)


class Case:
    """A collected test, as far as `left_for_the_night` looks at it."""

    def __init__(self, nodeid, *markers):
        self.nodeid = nodeid
        self.get_closest_marker = lambda name: name if name in markers else None


def test_sampled_tests_run_a_fourth_by_day():
    cases = [Case(f"a.py::test[{k}]", "sampled", "slow") for k in range(9)]
    others = [Case("a.py::test[fast]", "sampled"), Case("a.py::other[0]", "sampled", "slow"), Case("a.py::b", "slow")]
    at_night = set(slow.left_for_the_night([*cases[:3], *others, *cases[3:]]))
    assert set(cases) - at_night == {cases[0], cases[4], cases[8]}
    assert not at_night & set(others)


@functools.cache
def words_of_tests():
    """Return the words of each test function in tests/core, by its id."""
    words = {}
    for file in (TESTS / "core").glob("test_*.py"):
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                name = f"{file.relative_to(ROOT).as_posix()}::{node.name}"
                words[name] = set(re.findall(r"\w+", "\n".join(lines[node.lineno - 1 : node.end_lineno])))
    return words


def untested(names, slow_tests):
    """Return the names that appear only in these tests."""
    words = words_of_tests()
    return set(names) - set().union(*(words[test] for test in words.keys() - slow_tests))


def test_public_names_have_fast_tests():
    slow_tests = {name.partition("[")[0] for name in slow.read()}
    assert not untested(fusedlstm.__all__, slow_tests), "all their tests are slow: give them a fast one"
    assert untested(["StatePool"], words_of_tests().keys()) == {"StatePool"}


# For each kernel, the test that compares its numbers.
TESTS_OF_KERNELS = {
    "lstm_add": "test_kernels_emulated.py::test_add",
    "lstm_check": "test_kernels_slots.py::test_check",
    "lstm_clip": "test_kernels_emulated.py::test_clip",
    "lstm_finish": "test_kernels_planned.py::test_finish",
    "lstm_gather": "test_kernels_planned.py::test_gather",
    "lstm_gates": "test_kernels_scan.py::test_gates",
    "lstm_interleave": "test_kernels_interleave.py::test_interleave",
    "lstm_pad": "test_kernels_interleave.py::test_pad",
    "lstm_planned": "test_kernels_planned.py::test_planned",
    "lstm_pointwise": "test_kernels_emulated.py::test_pointwise",
    "lstm_project": "test_kernels_step.py::test_project",
    "lstm_reset": "test_kernels_planned.py::test_reset",
    "lstm_scan": "test_kernels_scan.py::test_scan_is_near_the_formula",
    "lstm_select": "test_kernels_emulated.py::test_select",
    "lstm_sequence_flags": "test_kernels_sequence.py::test_flags",
    "lstm_state_rows": "test_kernels_slots.py::test_state_rows",
    "lstm_step": "test_kernels_step.py::test_step",
}


def kernels():
    sources = "".join(file.read_text(encoding="utf-8") for file in KERNELS.glob("*.cu"))
    found = re.findall(r"__global__.*?\b(lstm_\w+)\(", sources, re.DOTALL)
    assert len(found) == sources.count("__global__")
    return found


@functools.cache
def functions_of(file):
    """Return the functions of a file of tests, by name."""
    nodes = ast.parse((TESTS / "cuda" / file).read_text(encoding="utf-8")).body
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}


def compares(function):
    """Return whether a test calls an `assert_...` function."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return any(ast.unparse(each).rpartition(".")[2].startswith("assert_") for each in calls)


def problems(of_kernels, tests, fast):
    """Yield the kernels that no fast test compares, and the listed tests whose kernel is gone."""
    for kernel in sorted(set(of_kernels) ^ set(tests)):
        yield f"{kernel} is in kernels/ or in TESTS_OF_KERNELS, not in both"
    functions = {name.partition("[")[0] for name in fast}
    for kernel, test in tests.items():
        file, function = test.split("::")
        text = (TESTS / "cuda" / file).read_text(encoding="utf-8")
        if not re.search(rf"\b{kernel}\b", text):
            yield f"{file} doesn't name {kernel}"
        found = functions_of(file).get(function)
        if found is None or not compares(found):
            yield f"{test} isn't there, or compares no numbers of {kernel}"
        if f"tests/cuda/{test}" not in functions:
            yield f"all of {test} is slow: no fast test compares {kernel}"


def test_every_kernel_has_a_fast_test(collected):
    of_kernels = {f"tests/cuda/{test.partition('::')[0]}" for test in TESTS_OF_KERNELS.values()}
    if not of_kernels <= set(map(slow.file_of, collected)):
        pytest.skip("the tests of kernels were not collected")
    assert not list(problems(kernels(), TESTS_OF_KERNELS, collected - slow.read().keys()))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lstm_more": "test_kernels_slots.py::test_check"}, "lstm_more is in kernels/ or"),
        ({"lstm_add": "test_kernels_slots.py::test_check"}, "test_kernels_slots.py doesn't name lstm_add"),
        ({"lstm_add": "test_kernels_emulated.py::test_gone"}, "test_kernels_emulated.py::test_gone isn't there"),
        (
            {"lstm_step": "test_kernels_step.py::test_tiles_match_their_launches"},
            "compares no numbers of lstm_step",
        ),
        ({"lstm_step": "test_kernels_step.py::test_bits_of_a_row"}, "no fast test compares lstm_step"),
    ],
)
def test_kernel_without_a_fast_test_is_found(changes, says):
    slow_test = "tests/cuda/test_kernels_step.py::test_bits_of_a_row"
    fast = {f"tests/cuda/{test}[a]" for test in (TESTS_OF_KERNELS | changes).values()} - {f"{slow_test}[a]"}
    assert any(says in each for each in problems(kernels(), TESTS_OF_KERNELS | changes, fast))
    assert not list(problems(kernels(), TESTS_OF_KERNELS, {f"tests/cuda/{test}" for test in TESTS_OF_KERNELS.values()}))
