"""The benchmark of serving runs, finds wrong outputs, and counts latencies from the planned times."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import million
from benchmarks.serving import cpu_time
from benchmarks.serving.load import FULL, QUICK, SERVICES, Load, Result
from fusedlstm import LSTMWeights, frames

from support.places import ENVIRONMENT, ROOT

PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
ON_RAY = ("serve", "sharded")


def run(module, *arguments):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize(
    "service", [pytest.param(name, marks=pytest.mark.nightly if name in ON_RAY else ()) for name in SERVICES]
)
def test_each_service_is_measured(service, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    if service == "dictionary":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    done = run("benchmarks", "serving", tmp_path / "result.json", "--quick", "--only", service)
    assert not done.returncode, done.stderr
    found = json.loads((tmp_path / "result.json").read_text())
    assert [(row["service"], row["offered"]) for row in found["rows"]] == [(service, rate) for rate in QUICK.rates]
    for row in found["rows"]:
        assert row["not_stepped"] == 0
        assert 0 < row["p50"] <= row["p99"] <= row["p999"]
        assert 1 <= row["rows_a_tick"] <= QUICK.sessions
        assert row["service_cpu"] > 0 < row["client_cpu"]
    about, _, name, *rows = done.stdout.splitlines()
    assert about.startswith("20 sessions, 4 WebSockets, 5 rows a message, I = N = 8, 0.5 s a rate; ")
    assert name.startswith(f"{service}; load average before it [")
    assert [float(row.split()[0]) for row in rows] == list(QUICK.rates)


def test_wrong_outputs_are_found(monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    from support.served import served

    with served(LSTMWeights.random(QUICK.size, QUICK.size, seed=1), QUICK.sessions) as url:
        done = run("benchmarks.serving.client", url, QUICK.to_json(), os.getpid())
    assert done.returncode == 1
    assert "step 0 of socket 0 differs from a local LSTM by " in done.stderr


class Connection:
    """A connection that gives these messages."""

    def __init__(self, messages):
        self.messages = messages

    async def __aiter__(self):
        for message in self.messages:
            yield message


def test_latency_counts_from_the_planned_time(monkeypatch):
    client = pytest.importorskip("benchmarks.serving.client", reason="websockets is not installed")
    ok, busy = (np.array([frames.Status.OK, status], np.uint8) for status in (frames.Status.OK, frames.Status.BUSY))
    replies = [frames.encode_reply(k, status, [9, 7], np.zeros((2, 8))) for k, status in ((1, ok), (0, busy), (2, ok))]
    socket = client.Socket(0, Connection(replies), Load(sockets=1, rows=2, size=8))
    socket.waiting = {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}
    monkeypatch.setattr(client.time, "monotonic", lambda: 10.0)
    asyncio.run(socket.receive())
    assert socket.latencies == [8.0, 7.0]  # not that of the message with a row that was refused
    assert (socket.stepped, socket.refused, socket.waiting) == (5, 1, {3: 4.0})
    assert len(socket.heard) == 1  # later outputs of these sessions can't be compared
    assert socket.sequence.tolist() == [[1, 7]]  # the refused row's session waits for step 7


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this needs /proc")
def test_cpu_time_includes_descendants():
    spend = "import time\nwhile time.process_time() < {}: pass"
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {spend.format(0.2)!r}])"
    program = f"{child}\n{spend.format(0.1)}\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", program], **PIPES) as process:
        process.stdout.readline()
        assert cpu_time.of_tree(process.pid) >= 0.28  # the clock of CPU time ticks every 10 ms
        assert cpu_time.of_tree(os.getpid()) >= 0.28


def test_sockets_take_turns():
    plans = [FULL.plan(socket, 100) for socket in range(FULL.sockets)]
    np.testing.assert_allclose(np.sort(np.concatenate(plans)), np.arange(1000) / 100)
    assert {len(plan) for plan in plans} == {20}


@pytest.mark.parametrize(
    ("changes", "is_broken"),
    [
        ({}, False),
        ({"not_stepped": 1}, True),
        ({"messages": 94.0}, True),
        ({"p99": 1.1}, True),
    ],
)
def test_service_that_does_not_keep_up(changes, is_broken):
    result = Result(100.0, 99.0, 990.0, 0.1, 0.2, 2.0, 10.0, 0, 0.0, 0.1, 0.1)
    assert result._replace(**changes).is_broken == is_broken


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this needs /proc")
def test_a_million_sessions_are_measured(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(million, "FEW", 100)
    about, *rows = million.measure(tmp_path / "result.json", (million.Size(3000, 16, 8),))
    assert re.search(r" cores, \d{4}-\d\d-\d\d, load average \[", about)
    found = {row["what"]: row["value"] for row in json.loads((tmp_path / "result.json").read_text())["rows"]}
    assert len(found) == len(rows) == 10
    assert found["N = 8, float32: states, bytes a session"] == 2 * 8 * 4
    assert found["N = 8, float32: the file"] > 3000 * 2 * 8 * 4
