"""The service's HTTP: open, step and close one session a request, in JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fusedlstm.errors import PoolFullError
from fusedlstm.frames import Status
from fusedlstm.ray.serve.service import DrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.exceptions import HTTPException
    from starlette.requests import Request

    from fusedlstm.ray.serve.service import Service

MOST_KEY = 200  # characters
_RETRY = {"Retry-After": "1"}
_CODES = {
    Status.OK: 200,
    Status.REPEATED: 200,
    Status.OUT_OF_ORDER: 409,
    Status.BUSY: 429,
    Status.LATE: 504,
    Status.WENT_BACK: 409,
    Status.NOT_OPEN: 410,
    Status.FAILED: 500,
}
_SAID = {
    Status.OUT_OF_ORDER: "not stepped: the number is neither that of the next step nor the one before",
    Status.BUSY: "not stepped: too many rows wait, or a shard is slow or restarting. Send it again later",
    Status.LATE: "not stepped: its deadline has passed",
    Status.WENT_BACK: "not stepped: the session lost steps, as a shard died. Send them again, from next on",
    Status.NOT_OPEN: "the session is not open: it was never opened, or closed, unused for too long, or lost. Open it",
    Status.FAILED: "the output is missing. If next is above the step's number, send it again for its output",
}


class BadRequestError(ValueError):
    """A request is malformed or too large."""

    def __init__(self, text: str, code: int = 400) -> None:
        super().__init__(text)
        self.code = code


def routes() -> list[Route]:
    """Return the routes of one session a request."""
    return [
        Route("/sessions", _count, methods=["GET"]),
        Route("/sessions/{key:path}/steps", _step, methods=["POST"]),
        Route("/sessions/{key:path}", _open, methods=["PUT"]),
        Route("/sessions/{key:path}", _close, methods=["DELETE"]),
    ]


async def not_served(_: Request, error: HTTPException) -> Response:
    """Answer a request with an unknown path or method."""
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def check_key(key: Any) -> str:
    """Return a session's key, or raise BadRequestError."""
    if not isinstance(key, str) or not 0 < len(key) <= MOST_KEY:
        raise BadRequestError(f"key: wanted a string of 1 to {MOST_KEY} characters")
    return key


def parse(text: str | bytes) -> dict[str, Any]:
    """Return the object in a JSON text, or raise BadRequestError."""
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"wanted JSON; {str(error)[:80]}") from None
    if not isinstance(found, dict):
        raise BadRequestError("wanted a JSON object")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _failed(text: str, code: int, **more: Any) -> JSONResponse:
    return JSONResponse({"error": text, **more}, code, _RETRY if code in (429, 503) else None)


async def _count(request: Request) -> Response:
    return JSONResponse(_service(request).stats())


async def _open(request: Request) -> Response:
    service = _service(request)
    try:
        key = check_key(request.path_params["key"])
        is_new = await service.open([key])
    except BadRequestError as error:
        return _failed(str(error), error.code)
    except (PoolFullError, DrainingError) as error:
        return _failed(str(error), 503)
    handles, after = service.find([key])
    if not handles[0]:
        return _failed("the session was closed or lost while it was opened: try again", 503)
    return JSONResponse({"session": key, "handle": int(handles[0]), "next": int(after[0])}, 201 if is_new[0] else 200)


async def _close(request: Request) -> Response:
    try:
        await _service(request).close([request.path_params["key"]])
    except DrainingError as error:
        return _failed(str(error), 503)
    return Response(status_code=204)


async def _step(request: Request) -> Response:
    service = _service(request)
    try:
        handles, _ = service.find([check_key(request.path_params["key"])])
        x, sequence, deadline_ms = _checked(parse(await _body(request, service.limits.max_message_bytes)), service)
    except BadRequestError as error:
        return _failed(str(error), error.code)
    message = service.submit(handles, np.array([sequence]), x, deadline_ms)
    await message.done
    status, after = Status(int(message.status[0])), int(message.next[0])
    if status in (Status.OK, Status.REPEATED):
        if not np.isfinite(message.h).all():
            return _failed("the step was done, but its output is not finite", 500, status=status.name, next=after)
        return JSONResponse({"h": message.h[0].tolist(), "status": status.name, "next": after})
    code = 503 if status is Status.BUSY and service.is_draining else _CODES[status]
    return _failed(_SAID[status], code, status=status.name, next=after)


async def _body(request: Request, most: int) -> bytes:
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise BadRequestError(f"wanted a body of at most {most} bytes", 413)
        parts.append(part)
    return b"".join(parts)


def _checked(body: Mapping[str, Any], service: Service) -> tuple[Any, int, int]:
    """Return x (1, I), the step's number or 0, and the deadline in milliseconds or 0. Raise BadRequestError."""
    unknown = body.keys() - {"x", "sequence", "deadline_ms"}
    if unknown or "x" not in body:
        raise BadRequestError("wanted the field x, and optionally sequence and deadline_ms")
    given, size = body["x"], service.input_size
    if not isinstance(given, list) or len(given) != size or not {type(number) for number in given} <= {int, float}:
        raise BadRequestError(f"x: wanted a list of {size} numbers")
    try:
        with np.errstate(over="ignore"):
            x = np.array([given], np.float64).astype(np.float32)
    except OverflowError:
        x = np.full((1, size), np.inf, np.float32)
    if not np.isfinite(x).all():
        raise BadRequestError("x: wanted numbers that float32 can hold")
    numbers = []
    for name in ("sequence", "deadline_ms"):
        number = body.get(name)
        if number is not None and not (type(number) is int and 1 <= number < 2**32):
            raise BadRequestError(f"{name}: wanted an integer from 1 to {2**32 - 1}")
        numbers.append(number or 0)
    return x, numbers[0], numbers[1]
