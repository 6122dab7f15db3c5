"""Conflicts between the banks of shared memory, from an emulated launch's trace.

Shared memory has 32 banks of 4-byte words. A warp's instruction takes a wavefront for each of its phases: 8 lanes that
access 16 bytes, 16 lanes that access 8, or all 32. If lanes of a phase access different words of a bank, it takes more.
See https://docs.nvidia.com/cuda/cuda-c-programming-guide/, "Shared Memory", and the profiler's counters of wavefronts.
"""

from collections import defaultdict
from typing import NamedTuple

BANKS, WORD = 32, 4
# Functions of kernels/ that access shared memory. Accesses elsewhere are by the kernel itself, to its rows.
FUNCTIONS = (
    *("stage_weights", "stage_rows", "clear", "put"),
    *("Tensor::multiply_tile", "Simt::multiply_tile"),
    *("TensorSmall::multiply_tile", "TensorSmall::share", "TensorSmall::sum"),
)
ROWS = "rows"
LARGEST = 16  # bytes of an access


class Cost(NamedTuple):
    """Wavefronts of some instructions, and the fewest possible."""

    wavefronts: int
    fewest: int


def costs(trace):
    """Return the cost of a launch's accesses by (function, "load" or "store", bytes)."""
    found = defaultdict(lambda: Cost(0, 0))
    for (function, writes, size), lanes in _instructions(trace):
        key, before = (function, "store" if writes else "load", size), found[function, "store" if writes else "load", size]
        found[key] = Cost(before.wavefronts + wavefronts(lanes, size), before.fewest + len(_phases(lanes, size)))
    return dict(found)


def wavefronts(lanes, size):
    """Return the wavefronts of an instruction, from the address of each active lane and the bytes of its access."""
    return sum(map(_of_phase, _phases(lanes, size)))


def _phases(lanes, size):
    """Return the words of each phase that has active lanes."""
    phases = defaultdict(set)
    for lane, address in lanes.items():
        phases[lane * max(size, WORD) // (BANKS * WORD)].update(
            range(address // WORD, (address + size - 1) // WORD + 1)
        )
    return list(phases.values())


def _of_phase(words):
    in_bank = defaultdict(int)
    for word in words:
        in_bank[word % BANKS] += 1
    return max(in_bank.values())


def _instructions(trace):
    """Yield instructions of warps: a function, whether it writes, its bytes; and addresses by lane.

    The same instruction is at the same place in all threads, and it is the same execution if it has the same number.
    """
    names = {place: next((each for each in chain if each in FUNCTIONS), ROWS) for place, chain in trace.functions.items()}
    found, counts = defaultdict(dict), defaultdict(int)
    for (block, thread), accesses in _by_thread(trace.accesses).items():
        for place, writes, address, size in _joined(accesses, names):
            place = block, thread // 32, place, size
            counts[place, thread] += 1
            found[place, counts[place, thread], names[place[2]], writes][thread % 32] = address
    for ((_, _, _, size), _, name, writes), lanes in found.items():
        yield (name, writes, size), lanes


def _by_thread(accesses):
    threads = defaultdict(list)
    for place, address, block, thread, size, writes in accesses.tolist():
        threads[block, thread].append((place, bool(writes), address, size))
    return threads


def _joined(accesses, names):
    """Return a thread's accesses, with the elements of a vector joined. The emulator may access them one by one."""
    joined = []
    for place, writes, address, size in accesses:
        if names[place] == ROWS:  # pointers, in structs of more than an access
            joined += [(place, writes, address + k, min(size, 8)) for k in range(0, size, 8)]
            continue
        if joined:
            at, wrote, first, length = joined[-1]
            together = first + length == address and first // LARGEST == (address + size - 1) // LARGEST
            if together and wrote == writes and names[at] == names[place]:
                joined[-1] = at, wrote, first, length + size
                continue
        joined.append((place, writes, address, size))
    return joined
