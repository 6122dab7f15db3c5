"""app_of: the ASGI app of a service, for Ray Serve, uvicorn, or tests."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute

from fusedlstm.ray.serve import http
from fusedlstm.ray.serve.limits import Limits
from fusedlstm.ray.serve.origin import SameOrigin
from fusedlstm.ray.serve.service import Service
from fusedlstm.ray.serve.stream import stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from fusedlstm.ray.serve.pools import Pool


def app_of(
    make_pool: Callable[[], Pool],
    limits: Limits = Limits(),  # noqa: B008 (it is immutable)
    folder: str | None = None,
    hosts: Collection[str] | None = None,
) -> Starlette:
    """Return the ASGI app of a service.

    When the app starts, it makes the pool and starts the service. When it ends, it drains the service.

    Args:
        make_pool: makes the pool, in a thread.
        limits: how to gather rows, and what to refuse.
        folder: where the service saves its sessions when it ends, and loads them from when it starts; None for nowhere.
        hosts: the names that a request's Host may have, in lower case, without ports. Others get 403. None allows all.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        pool = await asyncio.to_thread(make_pool)
        shutdown = getattr(pool, "shutdown", lambda: None)
        try:
            service = Service(pool, limits, folder)
            app.state.service = service
            await service.start()
            yield
            await service.drain()
        finally:
            shutdown()

    routes = [*http.routes(), WebSocketRoute("/stream", stream)]
    return Starlette(
        routes=routes,
        middleware=[Middleware(SameOrigin, hosts=hosts)],
        exception_handlers={HTTPException: http.not_served},
        lifespan=lifespan,
    )
