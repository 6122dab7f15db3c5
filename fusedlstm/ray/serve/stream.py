"""The service's WebSocket: one connection steps many sessions with binary frames, and opens and closes them with JSON.

{"open": [key, ...]}        {"opened": [[key, handle, next], ...]}, also for sessions that are open
{"close": [handle, ...]}    {"closed": the number of sessions}
a frame, see `fusedlstm.frames`
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.websockets import WebSocketDisconnect

from fusedlstm import frames, log
from fusedlstm.errors import PoolFullError
from fusedlstm.ray.serve.http import BadRequestError, check_key, parse
from fusedlstm.ray.serve.service import DrainingError

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.serve.messages import Message
    from fusedlstm.ray.serve.service import Service

_MALFORMED, _TOO_LARGE, _FAILED, _RESTARTS = 1007, 1009, 1011, 1012  # codes with which a WebSocket is closed
# A connection is not read while it has so many unanswered messages, or while these and their replies take more memory
# than so many of the longest message.
_MOST_UNANSWERED, _MOST_HELD = 64, 4
_MOST_REASON = 120  # bytes


class TooLargeError(ValueError):
    """A message is too large."""


async def stream(websocket: WebSocket) -> None:
    """Serve one connection until it is closed."""
    await websocket.accept()
    await _Connection(websocket, websocket.app.state.service).run()


class _Connection:
    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self._websocket, self._service = websocket, service
        self._unanswered: set[asyncio.Task[None]] = set()
        self._held = 0  # bytes
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Take messages. Close with a code and a reason at the first that is malformed or too large."""
        ending = asyncio.create_task(self._end_when_drained(asyncio.current_task()))
        try:
            while True:
                await self._take(await self._websocket.receive())
        except (BadRequestError, frames.FrameError) as error:
            await self._close(_MALFORMED, str(error))
        except TooLargeError as error:
            await self._close(_TOO_LARGE, str(error))
        except (WebSocketDisconnect, asyncio.CancelledError):  # it was closed, by the client or by `ending`
            pass
        finally:
            ending.cancel()

    async def _end_when_drained(self, run: asyncio.Task[Any] | None) -> None:
        await self._service.drained.wait()
        if self._unanswered:
            await asyncio.wait(self._unanswered)
        await self._close(_RESTARTS, "the service is ending")
        if run is not None:
            run.cancel()

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with self._sending:
                await self._websocket.close(code, reason.encode()[:_MOST_REASON].decode(errors="ignore"))
        except (RuntimeError, OSError, WebSocketDisconnect):  # the client was faster
            pass

    async def _take(self, received: dict[str, Any]) -> None:
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code") or 1005)
        data = received.get("bytes")
        content: str | bytes = (received.get("text") or "") if data is None else data
        size = len(content.encode() if isinstance(content, str) else content)
        if size > self._service.limits.max_message_bytes:
            raise TooLargeError(f"wanted at most {self._service.limits.max_message_bytes} bytes; got {size}")
        if isinstance(content, str):
            await self._control(parse(content))
        else:
            self._step(content)
        most = _MOST_HELD * self._service.limits.max_message_bytes
        while len(self._unanswered) >= _MOST_UNANSWERED or self._held > most:
            await asyncio.wait(self._unanswered, return_when=asyncio.FIRST_COMPLETED)

    def _step(self, data: bytes) -> None:
        service = self._service
        request = frames.decode_request(data, service.input_size)
        if len(request.handles) > service.limits.max_waiting_rows:
            raise TooLargeError(f"wanted at most {service.limits.max_waiting_rows} rows; got {len(request.handles)}")
        reply = frames.reply_bytes(len(request.handles), service.width)
        if reply > service.limits.max_message_bytes:
            raise TooLargeError(f"the reply would have {reply} bytes, more than {service.limits.max_message_bytes}")
        if not np.isfinite(request.x).all():
            raise BadRequestError("x: wanted finite numbers")
        message = service.submit(request.handles, request.sequence, request.x, request.deadline_ms)
        self._held += len(data) + reply
        task = asyncio.create_task(self._answer(message, request.message_id, len(data) + reply))
        self._unanswered.add(task)
        task.add_done_callback(self._unanswered.discard)

    async def _answer(self, message: Message, message_id: int, held: int) -> None:
        try:
            await message.done
            await self._send("bytes", frames.encode_reply(message_id, message.status, message.next, message.h))
        except Exception as error:
            log.warning("a message was not answered: %s", error)
            await self._close(_FAILED, "the message can't be answered")
        finally:
            self._held -= held

    async def _send(self, kind: str, content: str | bytes) -> None:
        try:
            async with self._sending:
                await self._websocket.send({"type": "websocket.send", kind: content})
        except (RuntimeError, OSError, WebSocketDisconnect):  # the client has gone away
            pass

    async def _control(self, wanted: dict[str, Any]) -> None:
        if len(wanted) != 1 or not isinstance(next(iter(wanted.values())), list):
            raise BadRequestError('wanted {"open": [keys]} or {"close": [handles]}')
        [(name, values)] = wanted.items()
        if name == "open":
            await self._open([check_key(key) for key in values])
        elif name == "close":
            if not all(type(handle) is int and 0 <= handle < 2**64 for handle in values):
                raise BadRequestError("close: wanted handles")
            await self._close_sessions(np.array(values, np.uint64))
        else:
            raise BadRequestError(f"wanted open or close; got {name[:20]!r}")

    async def _close_sessions(self, handles: NumpyArray) -> None:
        keys = self._service.keys_of(handles)
        try:
            await self._service.close(keys)
        except DrainingError as error:
            await self._refuse(error)
        else:
            await self._send("text", json.dumps({"closed": len(keys)}))

    async def _refuse(self, error: Exception) -> None:
        await self._send("text", json.dumps({"error": str(error), "retry_after": 1}))

    async def _open(self, keys: list[str]) -> None:
        try:
            await self._service.open(keys)
        except (PoolFullError, DrainingError) as error:
            await self._refuse(error)
            return
        handles, after = self._service.find(keys)
        opened = list(zip(keys, handles.tolist(), after.tolist(), strict=True))
        await self._send("text", json.dumps({"opened": opened}))
