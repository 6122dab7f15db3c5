"""The benchmark of ticks runs, and gives sensible rows. Nothing here checks times."""

import json

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")

from benchmarks import shards
from fusedlstm import LSTMWeights


def test_compare_measures_a_pool(make):
    pool = make(LSTMWeights.random(shards.I, shards.N, seed=0), shards=2, capacity=20, snapshot=None)
    pool.open(range(30))
    before = pool._shards.metrics.step
    row = shards.compare(pool, "default", 10, turns=25)
    assert (row.limit, row.rows) == ("default", 10)
    assert 0 < row.stepping < row.tick <= row.p99
    assert row.bare > 0
    assert row.ratio == row.tick / (row.bare + row.stepping)
    assert pool._shards.metrics.step == before


def test_echo_answers_like_a_shard():
    h, seconds = shards.Echo().call(("step", np.zeros((4, shards.I), np.float32), np.arange(4)))
    assert (h.shape, h.dtype, seconds) == ((4, shards.N), np.float32, 0.0)


def test_table_has_every_row(monkeypatch, tmp_path):
    """Without starting Ray and a pool."""
    row = shards.Row("4 MiB", 256, 0.003, 0.002, 0.0005, 0.004)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(shards, "ticks", lambda limit: [row._replace(limit=limit)] * 3)
    lines = list(shards.measure(tmp_path / "out.json"))
    assert len(lines) == 2 + 3 * len(shards.LIMITS)
    assert "1.20" in lines[-1]
    found = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert {entry["limit"] for entry in found} == set(shards.LIMITS)
    assert found[0]["ratio"] == pytest.approx(1.2)
