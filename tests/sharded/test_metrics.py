"""Metrics count what happens, and the page lists them."""

import re
from collections import defaultdict

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import LSTMWeights
from fusedlstm.ray import SessionsLostError, Snapshots, metrics

from support.pages import DOCS
from support.sharded import kill

VALUES = defaultdict(list)


class Fake:
    """Stands for Ray's Counter, Gauge and Histogram."""

    def __init__(self, name, description, *_):
        assert description == metrics.NAMES[name]
        self._values = VALUES[name]

    def set_default_tags(self, tags):
        assert set(tags) == {"pool"}

    def add(self, value):
        assert value >= 0
        self._values.append(value)

    def inc(self, value=1):
        assert value > 0
        self._values.append(value)

    set = observe = add


@pytest.fixture
def fakes(monkeypatch):
    VALUES.clear()
    for name in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, name, Fake)
    return VALUES


def test_metrics_count(fakes, make):
    pool = make(LSTMWeights.random(2, 3, seed=0), shards=2, capacity=4, snapshot=Snapshots(ticks=1))
    assert set(fakes) == set(metrics.NAMES)
    keys, x = list(range(6)), np.ones((6, 2), np.float32)
    pool.open(keys)
    for _ in range(5):
        pool.step(x, keys)
    pool.close([5])
    assert fakes["fusedlstm_tick_rows"] == [6] * 5
    assert fakes["fusedlstm_live_sessions"] == [6, 5]
    seconds, wait = fakes["fusedlstm_tick_seconds"], fakes["fusedlstm_wait_seconds"]
    assert all(0 < one < whole for one, whole in zip(wait, seconds, strict=True))
    kill(pool, 0)
    with pytest.raises(SessionsLostError) as raised:
        while True:
            pool.step(x[:5], keys[:5])
    assert pool.wait(60)
    pool.open(["new"])
    assert fakes["fusedlstm_undelivered_rows"] == [(~raised.value.delivered).sum()]
    assert fakes["fusedlstm_restarts"] == [1]
    assert fakes["fusedlstm_restored_sessions"] == [3]
    assert not fakes["fusedlstm_lost_sessions"]


def test_page_lists_all_metrics():
    page = (DOCS / "many-machines.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert listed == metrics.NAMES


def test_real_metrics_take_values(nodes):
    real = metrics.Metrics("test")
    real.step(10, 0.002, 0.001)
    real.live_sessions(3)
    real.refused.inc()
    assert all(name.startswith("fusedlstm_") for name in metrics.NAMES)
