"""Call an ASGI app without a server."""

import asyncio
import contextlib
import json


class ClosedError(Exception):
    """The app closed a WebSocket: (code, reason)."""


@contextlib.asynccontextmanager
async def lifespan(app):
    """Start an app, and end it."""
    received, sent = asyncio.Queue(), asyncio.Queue()
    running = asyncio.ensure_future(app({"type": "lifespan", "state": {}}, received.get, sent.put))
    try:
        received.put_nowait({"type": "lifespan.startup"})
        told = await sent.get()
        assert told["type"] == "lifespan.startup.complete", told
        yield
        received.put_nowait({"type": "lifespan.shutdown"})
        told = await sent.get()
        assert told["type"] == "lifespan.shutdown.complete", told
        await running
    finally:
        running.cancel()


async def request(app, method, path, body=b"", chunk=2**16, headers=()):
    """Return the status, the content, decoded if it is JSON, and the headers of a response."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": list(headers),
        "query_string": b"",
        "root_path": "",
    }
    parts = [body[k : k + chunk] for k in range(0, len(body), chunk)] or [b""]
    received = iter([{"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts])
    sent = []

    async def receive():
        return next(received)

    async def send(message):
        sent.append(message)

    await app(scope | {"raw_path": path.encode(), "http_version": "1.1"}, receive, send)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    is_json = headers.get("content-type") == "application/json"
    return sent[0]["status"], json.loads(content) if is_json else content, headers


class WebSocket:
    """A connection. `send` takes a str or bytes; `receive` returns one, or raises ClosedError.

    Attributes:
        reads: clear it, and the app's sends wait until it is set.
    """

    def __init__(self, app, path="/stream", headers=()):
        self._received, self._sent, self.reads = asyncio.Queue(), asyncio.Queue(), asyncio.Event()
        self.reads.set()
        scope = {"type": "websocket", "path": path, "headers": list(headers), "query_string": b"", "root_path": ""}
        scope |= {"raw_path": path.encode(), "subprotocols": []}
        self._received.put_nowait({"type": "websocket.connect"})
        self._running = asyncio.ensure_future(app(scope, self._received.get, self._put))

    async def _put(self, message):
        await self.reads.wait()
        await self._sent.put(message)

    @property
    def unread(self):
        """The number of messages that the app has not read."""
        return self._received.qsize()

    def send(self, content):
        kind = "text" if isinstance(content, str) else "bytes"
        self._received.put_nowait({"type": "websocket.receive", kind: content})

    async def receive(self):
        while True:
            message = await asyncio.wait_for(self._sent.get(), 30)
            if message["type"] == "websocket.close":
                self._received.put_nowait({"type": "websocket.disconnect", "code": message["code"]})
                await self._running
                raise ClosedError(message["code"], message["reason"])
            if message["type"] == "websocket.send":
                return message.get("text") if message.get("bytes") is None else message["bytes"]

    async def ask(self, content):
        """Send something, and return what comes, JSON decoded."""
        self.send(content if isinstance(content, (str, bytes)) else json.dumps(content))
        answer = await self.receive()
        return json.loads(answer) if isinstance(answer, str) else answer

    async def close(self):
        self._received.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self._running
