"""The table of slow tests, and that a plain run, which leaves them out, still tests every feature."""

import ast
import re
import sys

import numpy as np
import pytest

import fusedlstm
from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, StatePool, Stepper

import emulation
from support import slow
from support.backends import BACKENDS
from support.places import KERNELS, ROOT, TESTS


@pytest.fixture
def collected(request):
    """The ids of all tests in the files that were collected. The other files may lack a package."""
    config = request.config
    if BACKENDS != ["numpy", "emulated"]:
        pytest.skip("the table of slow tests is of an emulated GPU")
    if any("::" in argument for argument in config.args) or config.getoption("lf", False):
        pytest.skip("not all tests of a file were collected")
    if config.option.write_slow_tests:
        pytest.skip("the table is being written")
    return config.stash[slow.COLLECTED]


def unmatched(rows, ids):
    """The rows of no test. Those of a file that was not collected count only if there is no such file."""
    files = set(map(slow.file_of, ids))
    absent = [row for row in rows if row not in ids]
    return [row for row in absent if slow.file_of(row) in files or not (ROOT / slow.file_of(row)).is_file()]


def test_rows_name_tests_that_exist(collected):
    """A renamed test or parameter would lose its row, and run by default."""
    assert not unmatched(slow.read(), collected), "rename these rows, or write tests/slow_tests.txt anew"


def test_a_row_of_no_test_is_found():
    ids = {"tests/core/test_cell.py::test_one[a]", "tests/core/test_cell.py::test_two"}
    wrong = ["tests/core/test_cell.py::test_one[b]", "tests/core/test_cell.py::test_one", "tests/core/gone.py::test"]
    right = [*ids, "tests/core/test_lstm.py::test_that_was_not_collected"]
    assert unmatched([*right, *wrong], ids) == wrong


def test_tests_of_the_house_are_never_slow(tmp_path, monkeypatch):
    """Neither if a row says so, nor if they were measured to be."""
    monkeypatch.setattr(slow, "TABLE", tmp_path / "table.txt")
    names = [f"{file}::test" for file in (*slow.HOUSE, "tests/core/test_cell.py")]
    slow.TABLE.write_text("".join(f"3.0\t{name}\n" for name in names))
    assert slow.read() == {names[-1]: 3.0}
    measured = slow.Measured()
    measured.seconds = dict.fromkeys(names, 2.0)
    measured.pytest_sessionfinish()
    assert slow.TABLE.read_text() == f"2.0\t{names[-1]}\n"
    assert all((ROOT / file).is_file() for file in slow.HOUSE)


def words_of_tests():
    """What stands in each test function of tests/core, by file and function."""
    words = {}
    for file in (TESTS / "core").glob("test_*.py"):
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                words[file.name, node.name] = set(
                    re.findall(r"\w+", "\n".join(lines[node.lineno - 1 : node.end_lineno]))
                )
    return words


def untested(names, slow_tests):
    """Those of the names that stand in no test but these."""
    words = words_of_tests()
    return set(names) - set().union(*(words[test] for test in words.keys() - slow_tests))


def test_public_names_have_fast_tests():
    slow_tests = {tuple(re.split(r"[/:[]+", name)[2:4]) for name in slow.read()}
    assert not untested(fusedlstm.__all__, slow_tests), "their tests are all slow: give them one that is not"
    assert untested(["StatePool"], words_of_tests().keys()) == {"StatePool"}


# What launches every kernel there is.

I, N, B = 3, 4, 2


def step_cells():
    """A step, with and without a projection, and sequences of two lengths, whose last steps select."""
    for options in ({}, {"proj_size": 2, "proj_clip": 0.1}):
        cell = LSTMCell(LSTMWeights.random(I, N, seed=0, **options), backend="cuda")
        cell(cell.asarray(np.ones((B, I))), cell.zero_state(B))
    lstm = LSTM(StackedWeights.random(N, N, 2, seed=0, residual=[False, True]), backend="cuda")
    lstm(lstm.asarray(np.ones((5, B, N))), lengths=[5, 3])


def step_many(kernel):
    """What Steppers and pools do: by a matmul and a kernel, or by one kernel, for which N is too wide to project."""
    wide = 300
    cell = LSTMCell(LSTMWeights.random(I, wide, seed=0, proj_size=2), backend="cuda", kernel=kernel)
    Stepper(cell, B).step(is_first=np.ones(B, bool))
    pool = StatePool(cell, 8)
    slots = pool.allocate(B)
    for given in (slots, sys.modules["cupy"].asarray(slots)):
        pool.step(cell.asarray(np.ones((B, I))), given)
    pool.write(slots, LSTMState(h=cell.asarray(np.zeros((B, 2))), c=cell.asarray(np.zeros((B, wide)))))
    pool.read(slots)
    pool.reset(slots)


@pytest.mark.skipif("emulated" not in BACKENDS, reason="without emulation nothing tells which kernels run")
def test_every_kernel_runs_in_this_test(monkeypatch):
    assert not any("test_every_kernel" in name for name in slow.read())
    sources = "".join(file.read_text(encoding="utf-8") for file in KERNELS.glob("*.cu"))
    there = re.findall(r"__global__.*?\b(lstm_\w+)\(", sources, re.DOTALL)
    ran, call = set(), emulation.Function.__call__

    def noted(self, *arguments, **options):
        ran.add(self.name.partition("<")[0])
        return call(self, *arguments, **options)

    monkeypatch.setattr(emulation.Function, "__call__", noted)
    step_cells()
    for kernel in ("matmul", "simt"):
        step_many(kernel)
    assert ran == set(there)
