"""The log of calls to the fake driver, and the steps of graphs."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

_driver: Any = None


class Entry(NamedTuple):
    """A call in the log.

    Attributes:
        kind: "launch", "graph", "record", "wait", or "synchronize" if the host waits.
        stream: the stream's handle, 0 for the default one; None if the host waits for a device.
        what: the kind of the launched step: "kernel", "matmul", "memcpy", "memcpy2D" or "memset". For a graph or an
            event, its handle.
        name: the kernel's name, or "device" if the host waits for a device.
    """

    kind: str
    stream: int | None
    what: str | int
    name: str


def use(driver: ctypes.CDLL) -> None:
    """Observe this driver."""
    global _driver
    driver.driver_log_size.restype = ctypes.c_size_t
    driver.driver_log_entry.restype = driver.driver_graph_step.restype = ctypes.c_char_p
    _driver = driver


def clear() -> None:
    """Clear the log."""
    _driver.driver_log_clear()


def log() -> list[Entry]:
    """Return the calls since `clear`."""
    return [_entry(number) for number in range(_driver.driver_log_size())]


def _entry(number: int) -> Entry:
    stream, handle, step, name = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_char_p(), ctypes.c_char_p()
    kind = _driver.driver_log_entry(ctypes.c_size_t(number), *map(ctypes.byref, (stream, handle, step, name)))
    words = (name.value or b"").decode()
    pointer = None if words == "device" else stream.value or 0
    return Entry(kind.decode(), pointer, (step.value or b"").decode() or handle.value or 0, words)


def end_captures() -> int:
    """End all captures. Return how many there were."""
    return int(_driver.driver_end_captures()) if _driver is not None else 0


def steps(graph: Any) -> list[tuple[str, str]]:
    """Return the kind and name of each step of a CuPy graph."""
    handle, name = ctypes.c_void_p(graph.graphExec), ctypes.c_char_p()
    found = []
    for number in range(_driver.driver_graph_steps(handle)):
        kind = _driver.driver_graph_step(handle, number, ctypes.byref(name))
        found.append((kind.decode(), (name.value or b"").decode()))
    return found
