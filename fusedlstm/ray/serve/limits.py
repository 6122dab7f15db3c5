"""Limits: how a service gathers rows, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from fusedlstm.validation.arguments import check_real, check_size, fail


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How a service gathers rows into ticks, and when it refuses more.

    A tick is one step of the pool, with rows of many clients.

    Args:
        max_rows: the most rows of a tick. A tick starts as soon as so many wait.
        max_wait_ms: how many milliseconds the first row waits until a tick starts with fewer rows.
        max_waiting_rows: the most rows that wait. Further ones are BUSY.
        max_session_rows: the most rows of one session that wait. Further ones are BUSY.
        max_ticks: the most ticks that are sent and not yet answered.
        answer_seconds: how long a tick waits for a shard. Then other shards' rows are delivered, and the sessions of
            the late shard are BUSY until it answers.
        max_message_bytes: the longest message, body or reply.
        drain_seconds: how long a service that ends still steps rows that wait. After that, they are BUSY.
        idle_seconds: after how long unused sessions are closed; None for never.

    Raises:
        TypeError: an argument has the wrong kind.
        ValueError: a number is too small.
    """

    max_rows: int = 1024
    max_wait_ms: float = 2.0
    max_waiting_rows: int = 16384
    max_session_rows: int = 64
    max_ticks: int = 2
    answer_seconds: float = 1.0
    max_message_bytes: int = 2**20
    drain_seconds: float = 20.0
    idle_seconds: float | None = 3600.0

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_waiting_rows", "max_session_rows", "max_ticks", "max_message_bytes"):
            check_size(name, getattr(self, name), 1)
        if check_real("max_wait_ms", self.max_wait_ms) < 0:
            fail(ValueError, "max_wait_ms", "a number >= 0", str(self.max_wait_ms))
        for name in ("answer_seconds", "drain_seconds"):
            if check_real(name, getattr(self, name)) <= 0:
                fail(ValueError, name, "a positive number", str(getattr(self, name)))
        if self.idle_seconds is not None and check_real("idle_seconds", self.idle_seconds) <= 0:
            fail(ValueError, "idle_seconds", "a positive number, or None", str(self.idle_seconds))
