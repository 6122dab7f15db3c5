"""build: the application of Ray Serve, with its pool, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

from fusedlstm import log
from fusedlstm.ray.serve.app import app_of
from fusedlstm.ray.serve.limits import Limits
from fusedlstm.ray.serve.open_sessions import check_capacity
from fusedlstm.ray.serve.pools import check_served
from fusedlstm.ray.sharded_pool import ShardedPool
from fusedlstm.stacked import load_weights
from fusedlstm.validation.arguments import check_path, check_real, check_size, fail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from contextlib import AbstractAsyncContextManager

    from ray import serve
    from starlette.applications import Starlette

    from fusedlstm.validation.arguments import AnyPath

_LOOK_EVERY = 0.5  # seconds
_END = 60.0  # the seconds after which Serve kills a service that is still ending


def build(
    weights: Any,
    *,
    shards: int,
    capacity: int,
    limits: Limits = Limits(),  # noqa: B008 (it is immutable)
    folder: AnyPath | None = None,
    max_connections: int = 1000,
    num_gpus: float = 0,
    hosts: Collection[str] | None = None,
    **options: Any,
) -> serve.Application:
    """Return the application of a service, to run with Ray Serve.

    Its only replica owns a ShardedPool. When the application is deployed again or deleted, the replica takes nothing
    new, finishes the rows that wait, saves its sessions, and closes its WebSockets. The next replica loads them.

    Args:
        weights: LSTMWeights, StackedWeights, or the path of their file on the replica's machine.
        shards: the number of shards.
        capacity: the number of sessions that each shard can hold.
        limits: how to gather rows, and what to refuse.
        folder: where sessions are saved when the service ends, and loaded from when it starts. All machines on which
            the replica may run must share it. With None, they are lost.
        max_connections: the most requests and WebSockets at the same time. As many more wait. Others are refused.
        num_gpus: the number of GPUs for each shard.
        hosts: the names that a request's Host may have, in lower case, without ports. Others get 403. None allows all.
        options: more options of the ShardedPool, such as `snapshot`.

    Raises:
        TypeError: an argument has the wrong kind.
        ValueError: a number is too small, there are too many sessions, a layer reads backward, or the top layer is
            residual.
    """
    path = None if folder is None else os.path.abspath(check_path("folder", folder))
    most = check_size("max_connections", max_connections, 1)
    check_capacity(check_size("shards", shards, 1) * check_size("capacity", capacity, 1))
    if check_real("num_gpus", num_gpus) < 0:
        fail(ValueError, "num_gpus", "a number >= 0", str(num_gpus))
    if isinstance(weights, (str, bytes, os.PathLike)):
        weights = os.path.abspath(check_path("weights", weights))
    else:
        check_served("weights", weights)

    from ray import serve
    from ray.serve.config import BackpressureConfig

    def make_pool() -> ShardedPool:
        loaded = load_weights(weights) if isinstance(weights, str) else weights
        return ShardedPool(loaded, shards=shards, capacity=capacity, num_gpus=num_gpus, **options)

    def make_app() -> Any:
        app = app_of(make_pool, limits, path, hosts)
        app.router.lifespan_context = _keeping_error(app.router.lifespan_context)
        return app

    deployment = serve.deployment(
        name="sessions",
        num_replicas=1,
        max_ongoing_requests=most,
        max_queued_requests=most,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        graceful_shutdown_timeout_s=_END,
        graceful_shutdown_wait_loop_s=_LOOK_EVERY,
    )
    application: serve.Application = deployment(serve.ingress(make_app)(_Replica)).bind()
    return application


def _keeping_error(lifespan: Callable[[Any], AbstractAsyncContextManager[Any]]) -> Any:
    """Return a lifespan that keeps the error of a failed start in the app's state, as Serve would drop it."""

    @contextlib.asynccontextmanager
    async def keeping(app: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(lifespan(app))
            except Exception as error:
                app.state.error = error
            yield

    return keeping


class _Replica:
    """The replica. Serve waits until its WebSockets are closed, so it drains the service once Serve wants to end it."""

    app: Starlette  # which Serve sets

    def __init__(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._drain_when_stopped())

    def check_health(self) -> None:
        """Raise the error of a failed start. Serve calls this first of all, and tells the error."""
        error = getattr(self.app.state, "error", None)
        if error is not None:
            raise error

    async def _drain_when_stopped(self) -> None:
        from ray import serve

        context = serve.get_replica_context()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                is_stopping = await asyncio.to_thread(_is_stopping, context.app_name, context.deployment)
            except Exception as error:
                log.warning("the state of this service is not known: %s", error)
                continue
            service = getattr(self.app.state, "service", None)
            if is_stopping and service is not None:
                await service.drain()
                return


def _is_stopping(app: str, deployment: str) -> bool:
    """Return whether the only replica of a deployment is being stopped."""
    from ray import serve

    found = serve.status().applications.get(app)
    if found is None or found.status == "DELETING":
        return found is not None
    states = found.deployments[deployment].replica_states if deployment in found.deployments else {}
    return "STOPPING" in states and "RUNNING" not in states
