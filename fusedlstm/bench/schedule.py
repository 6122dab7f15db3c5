"""Take steps by a schedule, and note when each was due, began and ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Block:
    """Steps one after the other. Times are in seconds, of one clock.

    Attributes:
        due: how many steps the schedule has.
        elapsed: the time of the whole block.
        deadlines: when each step was due. Back to back, this is when it began.
        starts: when it began.
        ends: when it ended.
    """

    due: int = 0
    elapsed: float = 0.0
    deadlines: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)


def by_deadlines(
    step: Callable[[], object],
    every: float,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> Block:
    """Take a step every `every` seconds, as a program does that serves a live stream.

    The deadlines are fixed beforehand. So a slow step doesn't postpone the next ones: they begin late, and their delay
    counts. Steps that are still due after `seconds` may begin for another tenth of it. The others are left out. At
    least one step is taken.
    """
    block = Block(due=max(1, round(seconds / every)))
    start = clock()
    first = start + every
    end = first + block.due * every
    last = end + block.due * every / 10
    for k in range(block.due):
        deadline = first + k * every
        while (now := clock()) < deadline:
            sleep(deadline - now)
        if now >= last and block.ends:
            break
        began = clock()
        step()
        ended = clock()
        block.deadlines.append(deadline)
        block.starts.append(began)
        block.ends.append(ended)
    block.elapsed = max(end, block.ends[-1]) - first
    return block


def back_to_back(step: Callable[[], object], seconds: float, clock: Callable[[], float] = time.perf_counter) -> Block:
    """Take steps without pauses, at least one, until `seconds` have passed."""
    block = Block()
    began = first = clock()
    while not block.due or began - first < seconds:
        step()
        ended = clock()
        block.starts.append(began)
        block.ends.append(ended)
        block.due += 1
        began = clock()
    block.deadlines = block.starts
    block.elapsed = block.ends[-1] - first
    return block
