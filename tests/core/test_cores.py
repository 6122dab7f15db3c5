"""More threads than idle cores cause one warning."""

import functools
import os

import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, StackedWeights, log
from fusedlstm.backends.numpy import blas, cores

AS_IT_IS = functools.cache(cores.complaint)  # `conftest` replaces it
WEIGHTS = LSTMWeights.random(2, 3, seed=0)


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets the machine's cores, its load, and the cores that this process may use."""

    def set_up(count, load, available=None):
        monkeypatch.setattr(os, "cpu_count", lambda: count)
        monkeypatch.setattr(cores, "load", lambda: load)
        monkeypatch.setattr(cores, "available", lambda: float(count if available is None else available))

    monkeypatch.setattr(cores, "_complaint_once", cores.complaint)
    monkeypatch.setattr(log, "_said", set())
    return set_up


@pytest.mark.parametrize(
    ("count", "load", "available", "most"),
    [
        (8, 0.0, 8, 8),
        (8, 0.4, 8, 8),
        (8, 3.2, 8, 5),
        (8, 7.9, 8, 1),
        (8, 20.0, 8, 1),  # one thread is never too many
        (64, 10.0, 2, 2),  # a container with two cores of a machine with 54 idle ones
        (64, 0.0, 2.5, 2),
        (64, 63.0, 2, 1),
        (64, 0.0, 0.5, 1),
        (1, 0.0, 1, 1),
    ],
)
def test_more_threads_than_idle_cores_are_named(machine, count, load, available, most):
    machine(count, load, available)
    assert cores.complaint(most) is None
    text = cores.complaint(most + 1)
    assert text.startswith(f"NumPy's BLAS uses {most + 1} threads, but this process has {available:.3g} core")
    assert text.endswith("use threads=1, or --threads 1")


def test_idle_cores_are_named(machine):
    machine(8, 3.2)
    assert "this process has 8 cores, and about 5 of them idle. " in cores.complaint(8)
    machine(64, 3.2, 2)
    assert "this process has 2 cores. " in cores.complaint(64)


def test_new_cells_warn_once(machine, monkeypatch, caplog):
    machine(2, 2.0)
    monkeypatch.setattr(blas, "threads", lambda: 2)
    monkeypatch.setattr(blas, "why_threads_are_fixed", lambda: None)
    LSTMCell(WEIGHTS, backend="numpy", threads=1)
    assert not caplog.records
    LSTMCell(WEIGHTS, backend="numpy")
    LSTMCell(WEIGHTS, backend="numpy", threads=7)  # which has no effect
    LSTM(StackedWeights.random(2, 3, 2, seed=0), backend="numpy", threads=2)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == cores.complaint(2)


def test_the_load_is_measured_once(monkeypatch):
    looked = []
    monkeypatch.setattr(cores, "load", lambda: looked.append(1) or 0.0)
    monkeypatch.setattr(cores, "_complaint_once", AS_IT_IS)
    monkeypatch.setattr(blas, "threads", lambda: 12345)
    monkeypatch.setattr(log, "_said", set())
    for _ in range(3):
        LSTMCell(WEIGHTS, backend="numpy")
    assert len(looked) == 1


@pytest.mark.parametrize(
    ("own", "files", "wanted"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, [2.0]),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "50000 100000"}, [0.5, 2.0]),
        ("0::/host/path\n", {"cpu.max": "300000 100000"}, [3.0]),
        (
            "4:memory:/m\n1:cpu,cpuacct:/d\n",
            {"cpu/d/cpu.cfs_quota_us": "250000", "cpu/d/cpu.cfs_period_us": "100000"},
            [2.5],
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "0"}, []),
        ("1:cpuset:/\n", {"cpu.max": "100000 100000"}, []),
        ("0::/\n", {"cpu.max": "nonsense"}, []),
        ("nonsense\n", {}, []),
        ("", {}, []),
    ],
)
def test_quotas_of_control_groups(own, files, wanted, tmp_path):
    for name, content in files.items():
        file = tmp_path / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (tmp_path / "own").write_text(own)
    assert list(cores._quotas(tmp_path / "root", tmp_path / "own")) == wanted


def test_no_control_groups(tmp_path):
    assert list(cores._quotas(tmp_path, tmp_path / "absent")) == []


def test_this_machine():
    assert 0 < cores.available() <= os.cpu_count()
    assert cores.idle() <= cores.available()
    assert cores.load() >= 0
