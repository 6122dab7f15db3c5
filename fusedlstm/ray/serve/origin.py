"""SameOrigin: refuse the requests that a browser sends for another site's page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_CLOSE = {"type": "websocket.close", "code": 1008, "reason": "the request is from another site's page"}


class SameOrigin:
    """Passes requests to an app if they have no Origin, or that of their own host. Refuses others.

    Otherwise any page in a browser on this machine could use a service at 127.0.0.1.

    Args:
        app: the app.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it: HTTP with 403, and a WebSocket before it opens."""
        headers = Headers(scope=scope) if scope["type"] in ("http", "websocket") else {}
        origin = headers.get("origin")
        if origin is None or origin.partition("://")[2] == headers.get("host"):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await JSONResponse({"error": "the request is from another site's page"}, 403)(scope, receive, send)
        else:
            await send(_CLOSE)
