"""Limits: how a service gathers rows, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from fusedlstm.validation.arguments import check_real, check_size, fail


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How a service gathers rows into ticks, and how much it takes.

    Args:
        max_rows: the most rows of a tick. A tick goes as soon as so many wait.
        max_wait_ms: the milliseconds after which a tick goes with fewer rows.
        max_waiting_rows: the most rows that wait. More are BUSY.
        max_session_rows: the most rows of one session that wait. More are BUSY.
        max_ticks: the most ticks that are sent and not yet answered.
        answer_seconds: how long a tick waits for a shard. Then it delivers other shards' rows, and this one's sessions
            are BUSY until it answers.
        max_message_bytes: the longest message, body or reply.
        drain_seconds: how long rows that wait are still stepped when the service ends. Then they are BUSY.
        idle_seconds: sessions that are unused for so long are closed; None for never.

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
