"""The orders in which threads and blocks may run. CUDA guarantees none, so a kernel must be right in all."""

from __future__ import annotations

from dataclasses import dataclass

# The runtime's ScheduleOrder.
FIRST_COMES_FIRST, LAST_COMES_FIRST, AT_RANDOM = range(3)


@dataclass(frozen=True)
class Schedule:
    """The order in which ready threads get their turns.

    Args:
        name: the name in test ids.
        order: one of the three constants above.
        seed: the seed of the random order.
        preempt: one in `preempt` checked accesses ends the turn, or none if 0. Only check mode checks accesses.
            Otherwise a turn ends only where threads meet.
    """

    name: str
    order: int
    seed: int = 1
    preempt: int = 0

    def __str__(self) -> str:
        return self.name


FORWARD = Schedule("forward", FIRST_COMES_FIRST)
REVERSE = Schedule("reverse", LAST_COMES_FIRST)


def shuffled(seed: int) -> Schedule:
    """Return a random order of threads and blocks."""
    return Schedule(f"shuffled-{seed}", AT_RANDOM, seed)


def preempting(seed: int, every: int = 5) -> Schedule:
    """Return a random order in which a turn may also end at an access, in check mode."""
    return Schedule(f"preempting-{seed}", AT_RANDOM, seed, every)
