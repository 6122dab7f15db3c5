"""Serve a file of weights over HTTP and WebSockets, for the command `fusedlstm serve`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

from fusedlstm import log
from fusedlstm.stacked import load_weights
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_DIRECT = 4 * 2**20  # Ray sends arrays of up to so many bytes with a call, not through its object store
_NAME, _MOST_PORT = "fusedlstm", 65535


def add_command(add: Callable[..., argparse.ArgumentParser], number: Callable[[str], int]) -> None:
    """Add the command's options. `number` parses those that are positive ints."""
    command = add(
        "serve",
        help="step sessions of many clients over HTTP and WebSockets",
        description="Serve a file of weights: open, step and close sessions over HTTP and WebSockets. States are in "
        "shards, which are processes of Ray. Without --address, Ray is started on this machine. Ctrl-C or SIGTERM "
        "finishes the rows that wait, and saves the sessions if there is a --folder. This needs the extra `ray`.",
    )
    command.add_argument("weights", metavar="WEIGHTS", help="a file of LSTMWeights or StackedWeights")
    for name, default, metavar, text in (
        ("--shards", 2, "N", "the number of shards"),
        ("--capacity", 10_000, "N", "the number of sessions that each shard can hold"),
        ("--port", 8000, "N", "the port to listen at"),
        ("--max-rows", 1024, "N", "the most rows of a tick, which is one step with rows of many clients"),
    ):
        command.add_argument(name, type=number, default=default, metavar=metavar, help=f"{text}; default: {default}")
    command.add_argument(
        "--num-gpus", type=float, default=0, metavar="N", help="GPUs for each shard; default: 0, for NumPy"
    )
    command.add_argument("--host", default="127.0.0.1", help="the address to listen at; default: 127.0.0.1, only local")
    command.add_argument(
        "--max-wait-ms", type=float, default=2.0, metavar="MS", help="how long a tick waits for more rows; default: 2"
    )
    command.add_argument(
        "--idle-seconds",
        type=float,
        default=3600.0,
        metavar="S",
        help="close sessions that are unused for so long; default: 3600",
    )
    command.add_argument("--folder", help="where sessions are saved at the end, and loaded from at the start")
    command.add_argument("--address", help='the Ray cluster to use, such as "auto"; default: start one here')


def serve(say: Callable[[str], None], options: argparse.Namespace) -> int:
    """Serve until the process is interrupted.

    Args:
        say: writes a line.
        options: those of `add_command`.

    Raises:
        OSError: the weights can't be read, something else listens at the port, or another service uses the folder.
        ValueError: an option has a wrong value, a layer reads backward, the top layer is residual, or the folder's
            sessions have other weights.
        RuntimeError: the service failed to start.
        ImportError: Ray is not installed.
    """
    weights = load_weights(options.weights)
    from fusedlstm.ray.serve import Limits, build
    from fusedlstm.ray.serve.origin import own_names
    from fusedlstm.ray.serve.pools import check_served

    check_served("WEIGHTS", weights)
    limits = Limits(
        max_rows=options.max_rows,
        max_wait_ms=options.max_wait_ms,
        max_waiting_rows=16 * options.max_rows,
        idle_seconds=options.idle_seconds,
    )
    application = build(
        options.weights,
        shards=options.shards,
        capacity=options.capacity,
        num_gpus=options.num_gpus,
        limits=limits,
        folder=options.folder,
        hosts=own_names(options.host) if options.address is None else None,
    )
    if options.address is None:  # a cluster's Serve may listen there already, or elsewhere, and have another folder
        _check_free(options.host, options.port)
        if options.folder is not None:
            _check_folder(options.folder, weights)
    _run(say, application, options)
    return 0


def _check_free(host: str, port: int) -> None:
    """Raise OSError if nothing can listen there."""
    if port > _MOST_PORT:
        fail(ValueError, "--port", f"at most {_MOST_PORT}", str(port))
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[0][4])
    except OSError as error:
        raise OSError(error.errno, f"can't listen at {host}, port {port}: {error.strerror}") from error


def _check_folder(folder: str, weights: Any) -> None:
    """Raise what the service would raise about its folder, after seconds and in another process."""
    from fusedlstm.ray.serve import saved

    saved.probe(folder)
    with contextlib.closing(saved.lock(folder, saved.LOCK_SECONDS)):
        saved.check(folder, weights)


def _check_gpus(options: argparse.Namespace) -> None:
    """Raise ValueError if the cluster has too few GPUs for the shards. One that may grow only logs a warning."""
    import ray

    wanted, found = options.shards * options.num_gpus, ray.cluster_resources().get("GPU", 0)
    if wanted <= found:
        return
    if options.address is None:
        most = f"at most {found:g} GPUs in all {options.shards} shards, as Ray finds no more here"
        fail(ValueError, "--num-gpus", most, f"{wanted:g}")
    log.warning("this cluster has %g GPUs. The service waits until there are %g", found, wanted)


def _deploy(application: Any) -> None:
    """Wait until the application is ready. Raise RuntimeError with the replica's own error if it fails."""
    from ray import serve

    try:
        serve.run(application, name=_NAME, route_prefix="/")
    except RuntimeError as error:
        found = serve.status().applications.get(_NAME)
        messages = [each.message.strip() for each in found.deployments.values()] if found else []
        if not any(messages):
            raise
        cause = "".join(messages).splitlines()[-1]  # the end of the replica's traceback
        raise RuntimeError(f"the service failed to start: {cause}") from error


def _run(say: Callable[[str], None], application: Any, options: argparse.Namespace) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.INFO if "verbose" in options else logging.WARNING)
    own = {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": max(os.cpu_count() or 1, options.shards + 2),
        "_system_config": {"max_direct_call_object_size": _DIRECT},
    }
    given = own if options.address is None else {"address": options.address}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ray.init(**given, log_to_driver="verbose" in options, logging_level=logging.WARNING)
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray's own would end this process at once
    try:
        _check_gpus(options)
        serve.start(http_options={"host": options.host, "port": options.port})
        try:
            _deploy(application)
            host = f"[{options.host}]" if ":" in options.host else options.host
            say(f"listening at http://{host}:{options.port}")
            threading.Event().wait()
        finally:
            serve.delete(_NAME)  # waits until the service has finished its rows and saved its sessions
    finally:
        ray.shutdown()
