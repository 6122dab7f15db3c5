"""The services that are compared, each in a process of its own: python -m benchmarks.serving.services NAME LOAD.

It prints its URL when it is ready, and ends when its standard input does. Each step uses one thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn

from benchmarks.serving.load import LOCAL, SERVE, SHARDED, Load
from fusedlstm.ray import ShardedPool
from fusedlstm.ray.serve import LocalPool, app_of, build

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARDS = 2
OPTIONS = {"backend": "numpy", "threads": 1}


@contextlib.contextmanager
def ray_started() -> Iterator[None]:
    """Start Ray on this machine, and end it."""
    import ray

    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config={"max_direct_call_object_size": 4 * 2**20},
    )
    try:
        yield
    finally:
        ray.shutdown()


def pool_of(name: str, load: Load) -> Any:
    """Return the pool of a service under uvicorn."""
    if name == SHARDED:
        return ShardedPool(load.weights, shards=SHARDS, capacity=load.sessions, options=OPTIONS)
    if name == LOCAL:
        return LocalPool(load.weights, load.sessions, **OPTIONS)
    from benchmarks.serving.dictionary_pool import DictionaryPool

    return DictionaryPool(load.weights, load.sessions)


def under_uvicorn(name: str, load: Load) -> None:
    """Serve the app in this process."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app_of(lambda: pool_of(name, load)), log_level="warning", ws_per_message_deflate=False, lifespan="on"
        )
        server = uvicorn.Server(config)
        asyncio.run(until_stdin_ends(server, listening))


def under_serve(_: str, load: Load) -> None:
    """Serve the app in a replica of Ray Serve, behind its proxy."""
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build(load.weights, shards=SHARDS, capacity=load.sessions, options=OPTIONS))
    print(f"ws://127.0.0.1:{port}/stream", flush=True)
    sys.stdin.read()
    serve.shutdown()


async def until_stdin_ends(server: uvicorn.Server, listening: socket.socket) -> None:
    """Run a server, and say when it is ready."""
    running = asyncio.create_task(server.serve([listening]))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    if server.started:
        print(f"ws://127.0.0.1:{listening.getsockname()[1]}/stream", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
    await running


def main(name: str, load: Load) -> None:
    """Serve until standard input ends."""
    with ray_started() if name in (SERVE, SHARDED) else contextlib.nullcontext():
        (under_serve if name == SERVE else under_uvicorn)(name, load)


if __name__ == "__main__":
    main(sys.argv[1], Load.from_json(sys.argv[2]))
