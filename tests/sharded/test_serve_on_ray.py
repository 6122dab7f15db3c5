"""The service over real shards: some are killed under load, and it is deployed, redeployed, and ended."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
import warnings

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import frames
from fusedlstm.frames import Status
from fusedlstm.ray.serve import Limits, LocalPool, build, saved
from fusedlstm.ray.serve.service import Service

from support.places import ENVIRONMENT, ROOT
from support.shaky_clients import Client, Model
from support.sharded import INVARIANT, WEIGHTS, kill


async def under_clients(pool, kills, seed):
    """Kill shards while clients step sessions. Then finish all of them, and compare."""
    rng, model = np.random.default_rng(seed), Model(WEIGHTS[0])
    service = Service(pool, Limits(max_wait_ms=1, max_rows=8))
    await service.start()
    players = [
        Client(service, model, [f"{n}/{k}" for k in range(4)], np.random.default_rng([seed, n])) for n in range(4)
    ]

    async def kill_some():
        for _ in range(kills):
            await asyncio.sleep(rng.uniform(0.05, 0.2))
            before = lives(pool)
            kill(pool, int(rng.integers(3)))
            while lives(pool) == before:
                await asyncio.sleep(0.01)

    killing = asyncio.ensure_future(kill_some())
    while not killing.done():
        await asyncio.gather(*(player.run(4) for player in players))
    await killing
    await asyncio.gather(*(player.run(4) for player in players))
    await finish(service, model, pool)
    return model.told


def lives(pool):
    return sum(shard.lives for shard in pool.stats())


async def finish(service, model, pool):
    """Step all sessions until all are told OK, and compare their states."""
    message = None
    while message is None or (message.status != Status.OK).any():
        keys = pool.keys
        handles, numbers = service.find(keys)
        message = service.submit(*model.rows(handles, numbers))
        await asyncio.wait_for(message.done, 60)
    handles, numbers = service.find(keys)
    state = await pool.aio.read(keys)
    for handle, number, h in zip(handles.tolist(), numbers.tolist(), state.h, strict=True):
        np.testing.assert_array_equal(h, model.output(handle, number - 1))
    await service.close(keys)


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=pytest.mark.nightly)])
def test_killed_shards_under_clients(kills, pool, snapping):
    before = lives(pool)
    told = asyncio.run(under_clients(pool, kills, seed=kills))
    assert told[Status.OK] > 50
    assert lives(pool) == before + kills


async def beside_a_hung_shard(pool):
    """Step all sessions while a shard is stopped. Return what each tick told, before and after it goes on."""
    service, keys = Service(pool, Limits(answer_seconds=0.3)), [f"s{k}" for k in range(9)]
    await service.start()
    await service.open(keys)
    handles, numbers = service.find(keys)
    model, told, process = Model(WEIGHTS[0]), [], pool.stats()[1].process

    async def step():
        message = service.submit(*model.rows(handles, numbers))
        await message.done
        told.append([Status(status).name for status in message.status])
        numbers[:] = np.where(message.status <= Status.REPEATED, message.next, numbers)

    await step()
    os.kill(process, signal.SIGSTOP)
    try:
        for _ in range(3):
            await step()
    finally:
        os.kill(process, signal.SIGCONT)
    while told[-1] != ["OK"] * 9:
        await step()
    await finish(service, model, pool)
    return told


def test_hung_shard_holds_no_other_rows(pool):
    told = asyncio.run(beside_a_hung_shard(pool))
    hung = [row for row in range(9) if told[1][row] == "FAILED"]
    assert len(hung) == 3
    for tick, name in enumerate(("OK", "FAILED", "BUSY", "BUSY")):
        assert told[tick] == [name if row in hung else "OK" for row in range(9)]
    assert any(each[hung[0]] == "REPEATED" for each in told)


@pytest.fixture(scope="module")
def port(nodes):
    """Start Ray Serve, and return its port."""
    with warnings.catch_warnings(action="ignore"):  # those of Ray Serve
        from ray import serve

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield port
        serve.shutdown()


def ask(url, method="GET", **body):
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=60) as response:
        return json.loads(response.read())


async def stepped(port, steps):
    """Open sessions on a WebSocket, and step them. Return the connection, and the numbers of their next steps."""
    import websockets

    connection = await websockets.connect(f"ws://127.0.0.1:{port}/stream", compression=None)
    await connection.send(json.dumps({"open": ["a", "b"]}))
    opened = json.loads(await connection.recv())["opened"]
    handles, numbers = [each[1] for each in opened], np.array([each[2] for each in opened])
    for k in range(steps):
        await connection.send(frames.encode_request(k, handles, numbers, np.ones((2, 3))))
        reply = frames.decode_reply(await connection.recv(), WEIGHTS[0].output_size)
        assert (reply.message_id, reply.status.tolist()) == (k, [Status.OK] * 2)
        numbers = reply.next
    return connection, numbers.tolist()


async def closed(connection):
    """Return the code with which a connection is closed."""
    await connection.wait_closed()
    return connection.close_code


@pytest.mark.filterwarnings("ignore")  # those of Ray Serve
@pytest.mark.nightly
def test_redeploy_keeps_sessions(port, tmp_path):
    from ray import serve

    options = {"options": INVARIANT, "folder": tmp_path, "actor_options": {"num_cpus": 0}}

    def deploy(max_rows):
        application = build(WEIGHTS[0], shards=1, capacity=8, limits=Limits(max_rows=max_rows), **options)
        serve.run(application, name="sessions", route_prefix="/")

    async def play():
        connection, numbers = await stepped(port, 3)
        assert numbers == [4, 4]
        _, code = await asyncio.gather(asyncio.to_thread(deploy, 10), closed(connection))
        assert code == 1012
        connection, numbers = await stepped(port, 2)
        assert numbers == [6, 6]
        assert ask(f"http://127.0.0.1:{port}/sessions")["sessions"] == 2
        assert ask(f"http://127.0.0.1:{port}/sessions/a/steps", "POST", x=[1, 2, 3], sequence=6)["next"] == 7
        _, code = await asyncio.gather(asyncio.to_thread(serve.delete, "sessions"), closed(connection))
        assert code == 1012

    deploy(8)
    asyncio.run(play())


def command(nodes, port, folder, weights):
    """Start the command in a running cluster, as a second one takes seconds."""
    weights.save(folder / "w")
    options = {"port": port, "shards": 1, "capacity": 4, "folder": folder / "f", "address": nodes.address}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    return subprocess.Popen(
        [sys.executable, "-m", "fusedlstm", "serve", str(folder / "w"), *words],
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.nightly
def test_command_shows_the_replicas_error(nodes, port, tmp_path):
    """With --address, only the replica looks into the folder."""
    pool = LocalPool(WEIGHTS[1], 4, backend="numpy")
    (tmp_path / "f").mkdir()
    saved.save(str(tmp_path / "f"), pool, {})
    with command(nodes, port, tmp_path, WEIGHTS[0]) as process:
        try:
            said = process.communicate(timeout=100)[1].decode().splitlines()[-1]
        finally:
            process.kill()
    assert said.startswith("fusedlstm: the service failed to start: ")
    assert "f has sessions of other weights. Give the weights that they were saved with" in said
    assert process.returncode == 1


@pytest.mark.nightly
def test_command_serves_until_terminated(nodes, port, tmp_path):
    with command(nodes, port, tmp_path, WEIGHTS[0]) as process:
        try:
            assert process.stdout.readline().decode() == f"listening at http://127.0.0.1:{port}\n"
            url = f"http://127.0.0.1:{port}/sessions"
            assert ask(f"{url}/a", "PUT")["next"] == 1
            assert ask(f"{url}/a/steps", "POST", x=[1, 2, 3])["next"] == 2
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 143
            assert process.stderr.read().decode().endswith("fusedlstm: terminated\n")
        finally:
            process.kill()
    assert "current.json" in os.listdir(tmp_path / "f")
