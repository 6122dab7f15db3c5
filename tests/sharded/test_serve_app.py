"""The service's HTTP and WebSocket, without a server: what each request gets, and that nothing bad is stepped."""

import asyncio
import gc
import json
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import LSTMCell, LSTMWeights, frames
from fusedlstm.frames import Status
from fusedlstm.ray.serve import Limits, LocalPool, app_of
from fusedlstm.ray.serve.origin import own_names
from fusedlstm.ray.serve.pools import _Done

from support.asgi import ClosedError, WebSocket, lifespan, request

WEIGHTS = LSTMWeights.random(3, 4, seed=0)
OPTIONS = {"backend": "numpy", "batch_invariant": True, "threads": 1}


def run(play, pool=None, hosts=None, **limits):
    """Run a coroutine function of an app over a local pool."""
    pool = LocalPool(WEIGHTS, 10, **OPTIONS) if pool is None else pool
    app = app_of(lambda: pool, Limits(**{"max_wait_ms": 0.5} | limits), hosts=hosts)

    async def main():
        async with lifespan(app):
            return await play(app)

    return asyncio.run(main())


def outputs(steps, seed=0):
    """Return inputs (steps, 3), and the outputs of one session."""
    cell, rows = LSTMCell(WEIGHTS, **OPTIONS), np.random.default_rng(seed).normal(size=(steps, 3)).astype(np.float32)
    state, h = cell.zero_state(1), []
    for row in rows:
        state = cell(row[None], state)
        h.append(state.h[0])
    return rows, np.array(h)


def test_http_opens_steps_and_closes():
    async def play(app):
        x, h = outputs(3)
        status, opened, _ = await request(app, "PUT", "/sessions/ann")
        assert (status, opened["session"], opened["next"]) == (201, "ann", 1)
        assert (await request(app, "PUT", "/sessions/ann"))[:2] == (200, opened)
        for k in range(3):
            for name in ("OK", "REPEATED"):
                body = {"x": x[k].tolist(), "sequence": k + 1, "deadline_ms": 10_000}
                status, said, _ = await request(app, "POST", "/sessions/ann/steps", body)
                assert (status, said["status"], said["next"]) == (200, name, k + 2)
                np.testing.assert_array_equal(np.float32(said["h"]), h[k])
        status, said, _ = await request(app, "POST", "/sessions/ann/steps", {"x": [0, 0, 0], "sequence": 9})
        assert (status, said["status"], said["next"]) == (409, "OUT_OF_ORDER", 4)
        assert (await request(app, "GET", "/sessions"))[1]["rows"] == 3
        for _ in range(2):
            assert (await request(app, "DELETE", "/sessions/ann"))[0] == 204
        status, said, _ = await request(app, "POST", "/sessions/ann/steps", {"x": [0, 0, 0]})
        assert (status, said["status"]) == (410, "NOT_OPEN")
        assert (await request(app, "PUT", "/sessions/ann"))[1]["handle"] != opened["handle"]

    run(play)


def test_http_steps_without_numbers():
    async def play(app):
        x, h = outputs(2)
        await request(app, "PUT", "/sessions/1")
        for k in range(2):
            status, said, _ = await request(app, "POST", "/sessions/1/steps", {"x": x[k].tolist()})
            assert (status, said["next"]) == (200, k + 2)
            np.testing.assert_array_equal(np.float32(said["h"]), h[k])

    run(play)


def test_full_pool_says_when_to_retry():
    async def play(app):
        for k in range(10):
            assert (await request(app, "PUT", f"/sessions/{k}"))[0] == 201
        status, said, headers = await request(app, "PUT", "/sessions/one-more")
        assert (status, headers["retry-after"]) == (503, "1")
        assert said["error"] == "there is no room for 1 more sessions"
        socket = WebSocket(app)
        assert (await socket.ask({"open": ["one-more", "0"]})).keys() == {"error", "retry_after"}
        assert (await socket.ask({"open": ["0"]}))["opened"][0][2] == 1
        await socket.close()

    run(play)


def test_websocket_opens_steps_and_closes():
    async def play(app):
        socket, (x, h) = WebSocket(app), outputs(4)
        opened = (await socket.ask({"open": ["a", "b", "a"]}))["opened"]
        assert [(key, after) for key, _, after in opened] == [("a", 1), ("b", 1), ("a", 1)]
        a, b = opened[0][1], opened[1][1]
        assert a == opened[2][1] != b
        frame = frames.encode_request(7, [a, b, a, a, 1], [1, 1, 2, 2, 1], x[[0, 0, 1, 1, 0]])
        reply = frames.decode_reply(await socket.ask(frame), 4)
        assert reply.message_id == 7
        assert reply.status.tolist() == [Status.OK, Status.OK, Status.OK, Status.REPEATED, Status.NOT_OPEN]
        np.testing.assert_array_equal(reply.h, [h[0], h[0], h[1], h[1], 0 * h[0]])
        other = WebSocket(app)  # a client that comes back
        assert (await other.ask({"open": ["a", "b"]}))["opened"] == [["a", a, 3], ["b", b, 2]]
        assert await other.ask({"close": [a, a, 5]}) == {"closed": 1}
        reply = frames.decode_reply(await socket.ask(frames.encode_request(8, [a, b], [3, 2], x[:2])), 4)
        assert reply.status.tolist() == [Status.NOT_OPEN, Status.OK]
        assert len(await socket.ask(frames.encode_request(9, [], [], np.zeros((0, 3))))) == 16
        await socket.close()
        await other.close()

    run(play)


BAD_BODIES = [
    (b"", 400, "wanted JSON"),
    (b"{", 400, "wanted JSON"),
    (b"[1]", 400, "wanted a JSON object"),
    (b"[" * 2000, 400, "wanted JSON"),
    (b'{"x": [1, 2, NaN]}', 400, "NaN is not JSON"),
    (b"\xff\xfe", 400, "wanted JSON"),
    ({}, 400, "wanted the field x"),
    ({"x": [1, 2, 3], "sequnce": 1}, 400, "wanted the field x"),
    ({"x": [1, 2]}, 400, "x: wanted a list of 3 numbers"),
    ({"x": [1, 2, "3"]}, 400, "x: wanted a list of 3 numbers"),
    ({"x": [1, 2, True]}, 400, "x: wanted a list of 3 numbers"),
    ({"x": [1, 2, 1e39]}, 400, "x: wanted numbers that float32 can hold"),
    ({"x": [1, 2, 10**400]}, 400, "x: wanted numbers that float32 can hold"),
    ({"x": [1, 2, 3], "sequence": 0}, 400, "sequence: wanted an integer from 1"),
    ({"x": [1, 2, 3], "sequence": 1.0}, 400, "sequence: wanted an integer from 1"),
    ({"x": [1, 2, 3], "deadline_ms": -1}, 400, "deadline_ms: wanted an integer from 1"),
    (b" " * 3000, 413, "wanted a body of at most 2000 bytes"),
]


def test_bad_bodies_say_what_is_wrong():
    async def play(app):
        await request(app, "PUT", "/sessions/a")
        for body, code, says in BAD_BODIES:
            status, said, _ = await request(app, "POST", "/sessions/a/steps", body, chunk=100_000)
            assert (status, says in said["error"]) == (code, True), (body, said)
        for key in ("k" * 201, ""):
            assert (await request(app, "PUT", f"/sessions/{key}"))[0] == 400
        assert (await request(app, "PUT", "/sessions/a/b"))[1]["session"] == "a/b"
        assert (await request(app, "POST", "/sessions/a/b/steps", {"x": [0, 0]}))[0] == 400
        for method, path, code, says in (
            ("GET", "/elsewhere", 404, "Not Found"),
            ("POST", "/sessions/a", 405, "Method Not Allowed"),
        ):
            status, said, headers = await request(app, method, path)
            assert (status, said) == (code, {"error": says})
            assert ("allow" in headers) == (code == 405)
        assert app.state.service.stats()["rows"] == 0

    run(play, max_message_bytes=2000)


BAD_MESSAGES = [
    (b"", 1007, "at least 16 bytes; got 0"),
    (frames.encode_request(1, [1], [1], np.zeros((1, 2))), 1007, "input size 3: 40 bytes for 1 rows; got 36"),
    (frames.encode_request(1, [1], [1], np.zeros((1, 3)))[:-1], 1007, "got 39"),
    (frames.encode_request(1, [1], [1], [[0, np.nan, 0]]), 1007, "x: wanted finite numbers"),
    (frames.encode_request(1, [1], [1], [[0, 0, -np.inf]]), 1007, "x: wanted finite numbers"),
    (bytes(2001), 1009, "at most 2000 bytes; got 2001"),
    (frames.encode_request(1, [1] * 21, [1] * 21, np.zeros((21, 3))), 1009, "at most 20 rows; got 21"),
    ("x" * 2001, 1009, "at most 2000 bytes; got 2001"),
    ("\N{MUSICAL SYMBOL G CLEF}" * 501, 1009, "at most 2000 bytes; got 2004"),
    ("", 1007, "wanted JSON"),
    ("[" * 2000, 1007, "wanted JSON"),
    ('{"open": "a"}', 1007, "wanted {"),
    ('{"open": [], "close": []}', 1007, "wanted {"),
    ('{"steal": []}', 1007, "got 'steal'"),
    ('{"open": [1]}', 1007, "key: wanted a string"),
    ('{"open": [""]}', 1007, "key: wanted a string"),
    ('{"close": ["a"]}', 1007, "close: wanted handles"),
    ('{"close": [-1]}', 1007, "close: wanted handles"),
    ('{"close": [18446744073709551616]}', 1007, "close: wanted handles"),
]


def test_bad_messages_close_with_a_reason():
    async def play(app):
        for content, code, says in BAD_MESSAGES:
            socket = WebSocket(app)
            with pytest.raises(ClosedError) as raised:
                await socket.ask(content)
            assert raised.value.args[0] == code
            assert says in raised.value.args[1], raised.value.args
        stats = app.state.service.stats()
        assert stats["rows"] == stats["sessions"] == stats["waiting_rows"] == 0

    run(play, max_message_bytes=2000, max_waiting_rows=20)


async def batter(app, rng, count):
    """Send random, cut, changed and oversized messages. Each closes its connection, or gets a reply."""
    socket = WebSocket(app)
    handles = [each[1] for each in (await socket.ask({"open": ["a", "b"]}))["opened"]]
    good = [
        frames.encode_request(1, handles, [1, 1], np.zeros((2, 3))),
        json.dumps({"open": ["a"]}).encode(),
        json.dumps({"close": [5]}).encode(),
    ]
    codes = []
    for _ in range(count):
        data = bytearray(good[rng.integers(len(good))])
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        cut = data[: rng.integers(len(data) + 1)] if rng.random() < 0.5 else data
        junk = bytes(cut) if rng.random() < 0.8 else rng.bytes(rng.integers(3000))
        try:
            await socket.ask(junk if rng.random() < 0.6 else junk.decode("latin-1"))
        except ClosedError as error:
            codes.append(error.args)
            socket = WebSocket(app)
        status, _, _ = await request(app, "POST", "/sessions/a/steps", junk)
        assert status in (200, 400, 409, 410, 413)
    await socket.close()
    assert all(code in (1007, 1009) and reason for code, reason in codes)
    return len(codes), app.state.service.stats()


def test_random_messages_are_refused():
    closed, stats = run(lambda app: batter(app, np.random.default_rng(0), 1000), max_message_bytes=2000)
    assert closed > 300
    assert stats["rows"] < 100, "only frames with a changed number or input may be stepped"
    assert stats["waiting_rows"] == 0
    assert stats["sessions"] < 10


WIDE = LSTMWeights.random(1, 100, seed=0)


def test_large_replies_are_refused():
    """A short message may ask for a long reply."""

    async def play(app):
        for rows, says in ((5, None), (6, "the reply would have 2448 bytes, more than 2100")):
            socket = WebSocket(app)
            socket.send(frames.encode_request(1, range(rows), range(rows), np.zeros((rows, 1))))
            if says is None:
                assert len(await socket.receive()) == frames.reply_bytes(rows, 100)
                await socket.close()
            else:
                with pytest.raises(ClosedError, match=says):
                    await socket.receive()

    run(play, LocalPool(WIDE, 10, **OPTIONS), max_message_bytes=2100)


def test_unread_bytes_stop_the_reading():
    async def play(app):
        socket = WebSocket(app)
        await socket.ask({"open": []})
        socket.reads.clear()
        for _ in range(20):
            socket.send(frames.encode_request(1, range(5), range(5), np.zeros((5, 1))))
        await asyncio.sleep(0.05)
        assert socket.unread == 16
        socket.reads.set()
        for _ in range(20):
            await socket.receive()
        await socket.close()

    run(play, LocalPool(WIDE, 10, **OPTIONS), max_message_bytes=2100)


class InfinitePool(LocalPool):
    @property
    def aio(self):
        calls = super().aio
        step = calls.step
        calls.step = lambda x, keys: step(x, keys) and _Done(np.full((len(keys), 4), np.inf, np.float32))
        return calls


def test_infinite_outputs_are_named():
    """JSON has no word for them."""

    async def play(app):
        await request(app, "PUT", "/sessions/a")
        status, said, _ = await request(app, "POST", "/sessions/a/steps", {"x": [1, 2, 3], "sequence": 1})
        assert (status, said["status"], said["next"]) == (500, "OK", 2)
        assert "not finite" in said["error"]

    run(play, InfinitePool(WEIGHTS, 10, **OPTIONS))


def test_unencodable_replies_close_with_a_code(monkeypatch):
    monkeypatch.setattr(frames, "encode_reply", lambda *_: 1 / 0)

    async def play(app):
        with pytest.raises(ClosedError, match="1011"):
            await WebSocket(app).ask(frames.encode_request(1, [1], [1], np.zeros((1, 3))))

    run(play)


def test_large_messages_are_refused():
    """Send 1,000 each that are too long, have too many rows, or were cut."""

    async def play(app):
        frame = frames.encode_request(1, range(30), range(30), np.zeros((30, 3)))
        for wanted, contents in ((1009, [bytes(2001), " " * 2001, frame]), (1007, [frame[:-1], frame[:17]])):
            for content in contents * (1000 // len(contents)):
                socket = WebSocket(app)
                with pytest.raises(ClosedError) as raised:
                    await socket.ask(content)
                assert raised.value.args[0] == wanted
        assert app.state.service.stats()["rows"] == 0

    run(play, max_message_bytes=2000, max_waiting_rows=20)


def test_refused_messages_keep_no_memory():
    """After some thousand rows of sessions that are not open, too late or too many, memory is what it was before."""

    async def play(app):
        socket = WebSocket(app)
        handle = (await socket.ask({"open": ["a"]}))["opened"][0][1]
        sizes = []
        for _ in range(3):
            for _ in range(60):
                socket.send(frames.encode_request(1, [handle] * 2, range(2, 4), np.zeros((2, 3)), deadline_ms=1))
                socket.send(frames.encode_request(2, range(30), range(30), np.zeros((30, 3))))
                for _ in range(2):
                    await socket.receive()
                await request(app, "POST", "/sessions/b/steps", {"x": [0, 0, 0]})
                with pytest.raises(ClosedError):
                    await WebSocket(app).ask(bytes(5000))
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        await socket.close()
        assert app.state.service.stats()["rows"] == 0
        return sizes

    tracemalloc.start()
    try:
        _, before, after = run(play, max_message_bytes=2000, max_waiting_rows=40)
    finally:
        tracemalloc.stop()
    assert after < before + 20_000  # to keep the rows of 60 rounds would need 10 times that


def test_pages_of_other_sites_are_refused():
    """A browser on this machine would send their requests."""
    host = (b"host", b"127.0.0.1:8000")

    async def play(app):
        for origin, allowed in (
            (b"https://evil.example", False),
            (b"http://[", False),
            (b"http://127.0.0.1:8000", True),
        ):
            headers = [host, (b"origin", origin)]
            status, _, _ = await request(app, "PUT", "/sessions/a", headers=headers)
            assert status in ((200, 201) if allowed else (403,))
            socket = WebSocket(app, headers=headers)
            if allowed:
                assert (await socket.ask({"open": ["a"]}))["opened"]
                await socket.close()
            else:
                with pytest.raises(ClosedError, match="1008"):
                    await socket.ask({"open": ["a"]})

    run(play)


def test_other_hosts_are_refused():
    """A name that now leads to this machine would have its page's Origin."""

    async def play(app):
        for host, allowed in (
            ("127.0.0.1:8000", True),
            ("localhost", True),
            ("LOCALHOST:1", True),
            ("[::1]:8000", True),
            ("evil.example:8000", False),
            ("127.0.0.1.evil.example", False),
            ("[::2]", False),
            ("", False),
        ):
            headers = [(b"host", host.encode()), (b"origin", f"http://{host}".encode())]
            status, said, _ = await request(app, "PUT", "/sessions/a", headers=headers)
            assert status in ((200, 201) if allowed else (403,))
            socket = WebSocket(app, headers=headers)
            if allowed:
                assert (await socket.ask({"open": ["a"]}))["opened"]
                await socket.close()
            else:
                assert said["error"] == "Host: wanted one of localhost, 127.0.0.1, [::1]"
                with pytest.raises(ClosedError, match="1008"):
                    await socket.ask({"open": ["a"]})
        assert (await request(app, "GET", "/sessions"))[0] == 403

    run(play, hosts=own_names("127.0.0.1"))


def test_own_names_of_loopback_hosts():
    for host in ("localhost", "127.0.0.1", "::1"):
        assert own_names(host) == ("localhost", "127.0.0.1", "[::1]")
    assert own_names("127.0.0.2")[-1] == "127.0.0.2"
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.com"):
        assert own_names(host) is None


def test_too_many_rows_are_busy():
    """Rows beyond the limit are told at once, and the others are stepped."""

    async def play(app):
        socket = WebSocket(app)
        handle = (await socket.ask({"open": ["a"]}))["opened"][0][1]
        for k in range(3):
            socket.send(frames.encode_request(k, [handle] * 8, range(8 * k + 1, 8 * k + 9), np.zeros((8, 3))))
        replies = sorted([frames.decode_reply(await socket.receive(), 4) for _ in range(3)])
        told = np.concatenate([reply.status for reply in replies]).tolist()
        assert told == [Status.OK] * 20 + [Status.BUSY] * 4
        await request(app, "PUT", "/sessions/b")
        app.state.service.is_draining = True
        status, said, headers = await request(app, "POST", "/sessions/b/steps", {"x": [0, 0, 0]})
        assert (status, said["status"], headers["retry-after"]) == (503, "BUSY", "1")
        app.state.service.is_draining = False
        await socket.close()

    run(play, max_waiting_rows=20, max_wait_ms=20)


def test_unread_replies_stop_the_reading():
    """Of a client that reads nothing, so many messages are in memory, and no more."""

    async def play(app):
        socket = WebSocket(app)
        handle = (await socket.ask({"open": ["a"]}))["opened"][0][1]
        socket.reads.clear()
        for k in range(100):
            socket.send(frames.encode_request(k, [handle], [k + 1], np.zeros((1, 3))))
        for _ in range(100):
            await asyncio.sleep(0.002)
            if not app.state.service.stats()["waiting_rows"] and socket.unread == 36:
                break
        assert socket.unread == 36
        socket.reads.set()
        replies = [frames.decode_reply(await socket.receive(), 4) for _ in range(100)]
        assert {reply.status[0] for reply in replies} == {Status.OK}
        assert sorted(reply.message_id for reply in replies) == list(range(100))
        await socket.close()

    run(play)
