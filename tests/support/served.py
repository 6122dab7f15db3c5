"""A service in a thread of this process, over a local pool, on a free port."""

import contextlib
import socket
import threading
import warnings


@contextlib.contextmanager
def served(weights, capacity):
    """Serve sessions of these weights, and give the URL of the WebSocket."""
    import uvicorn

    with warnings.catch_warnings(action="ignore"):  # those of Ray Serve
        from fusedlstm.ray.serve import LocalPool, app_of

    app = app_of(lambda: LocalPool(weights, capacity, backend="numpy", threads=1))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"ws://127.0.0.1:{listening.getsockname()[1]}/stream"
        finally:
            server.should_exit = True
            thread.join()
