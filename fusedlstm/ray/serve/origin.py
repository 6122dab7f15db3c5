"""SameOrigin: refuse the requests that a browser sends for another site's page."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Receive, Scope, Send

_PORT = re.compile(r":\d*$")
_OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")


def own_names(host: str) -> tuple[str, ...] | None:
    """Return the names of this machine that a Host may have if `host` is a loopback address, or else None."""
    try:
        is_loopback = host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        is_loopback = False
    own = f"[{host}]" if ":" in host else host
    return tuple(dict.fromkeys([*_OWN_NAMES, own.lower()])) if is_loopback else None


class SameOrigin:
    """Passes requests to an app if they have no Origin, or that of their own host. Refuses others.

    Otherwise any page in a browser on this machine could use a service at 127.0.0.1. With `hosts`, a page can't do so
    either if its site's name is changed to lead to this machine.

    Args:
        app: the app.
        hosts: the names that a request's Host may have, in lower case, without ports; None for all.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None = None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it: HTTP with 403, and a WebSocket before it opens."""
        wrong = self._wrong(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        if wrong is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await JSONResponse({"error": wrong}, 403)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": wrong})

    def _wrong(self, headers: Headers) -> str | None:
        origin, host = headers.get("origin"), headers.get("host", "")
        if self._hosts is not None and _PORT.sub("", host.lower()) not in self._hosts:
            return f"Host: wanted one of {', '.join(self._hosts)}"
        if origin is not None and origin.partition("://")[2] != host:
            return "the request is from another site's page"
        return None
