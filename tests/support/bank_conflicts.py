"""Conflicts between the banks of shared memory, from an emulated launch's trace.

Shared memory has 32 banks of 4-byte words. A warp's instruction takes a wavefront for each of its phases: 8 lanes that
access 16 bytes, 16 lanes that access 8, or all 32. If lanes of a phase access different words of a bank, it takes more.
See https://docs.nvidia.com/cuda/cuda-c-programming-guide/, "Shared Memory", and the profiler's counters of wavefronts.
"""

import functools
import re
from collections import Counter, defaultdict
from typing import NamedTuple

LANES, BANKS, WORD = 32, 32, 4
# Functions of kernels/ that access shared memory. All others access only the block's rows, which are structs of
# pointers.
FUNCTIONS = {
    *(f"staging.cuh: {name}" for name in ("stage_weights", "stage_rows", "clear", "put")),
    *(f"{file}.cuh: multiply_tile" for file in ("tensor_small", "simt")),
    *(f"tensor.cuh: load_{operand}" for operand in "ab"),
    *(f"tensor_small.cuh: {name}" for name in ("share", "sum")),
}
ROWS = "rows"
LARGEST, POINTER = 16, 8  # bytes


class Cost(NamedTuple):
    """Wavefronts of some instructions, and the fewest possible."""

    wavefronts: int
    fewest: int


def costs(trace, kernels):
    """Return the cost of a launch's accesses, by (function, "load" or "store", bytes).

    `kernels` is the folder of the kernels.
    """
    return _costs(trace, {place: _name(lines, kernels) for place, lines in trace.lines.items()})


def costs_by_line(trace):
    """Return the cost of a launch's accesses, by (lines of the kernels, "load" or "store", bytes)."""
    names = {place: " <- ".join(f"{file}:{line}" for file, line in lines) for place, lines in trace.lines.items()}
    return _costs(trace, names)


def _costs(trace, names):
    found = {}
    for (function, writes, size), lanes in _instructions(trace.accesses, names):
        access, cost = (function, "store" if writes else "load", size), wavefronts(lanes, size)
        before = found.get(access, Cost(0, 0))
        found[access] = Cost(before.wavefronts + cost.wavefronts, before.fewest + cost.fewest)
    return found


def wavefronts(lanes, size):
    """Return the cost of an instruction, from the addresses of its active lanes and the bytes that each accesses."""
    phases = _phases(lanes, size)
    return Cost(sum(map(_of_phase, phases)), len(phases))


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


def _name(lines, kernels):
    """Return the innermost of FUNCTIONS at a place, or ROWS."""
    names = (f"{file}: {_function_at(kernels / file, line)}" for file, line in lines)
    return next(filter(FUNCTIONS.__contains__, names), ROWS)


@functools.cache
def _function_at(file, line):
    """Return the last function that is defined up to a line."""
    above = "\n".join(file.read_text(encoding="utf-8").splitlines()[:line])
    names = re.findall(r"^ *(?:template <.*> )?(?:DEVICE|MEMBER) .*?(\w+)\(", above, re.MULTILINE)
    return names[-1] if names else None


def _instructions(accesses, names):
    """Yield instructions of warps: function, whether it writes, and bytes; and the addresses by lane.

    The n-th accesses of a warp's threads at a place are one instruction.
    """
    found = defaultdict(dict)
    for (block, thread), own in _by_thread(accesses).items():
        times = Counter()
        for place, writes, address, size in _joined(own, names):
            times[place, size] += 1
            instruction = block, thread // LANES, place, writes, size, times[place, size]
            found[instruction][thread % LANES] = address
    for (_, _, place, writes, size, _), lanes in found.items():
        yield (names[place], writes, size), lanes


def _by_thread(accesses):
    threads = defaultdict(list)
    for place, address, block, thread, size, writes in accesses.tolist():
        threads[block, thread].append((place, bool(writes), address, size))
    return threads


def _joined(accesses, names):
    """Return a thread's accesses as a GPU makes them: vectors whole, and structs pointer by pointer."""
    joined = []
    for place, writes, address, size in accesses:
        if names[place] == ROWS:
            joined += [(place, writes, address + k, min(size, POINTER)) for k in range(0, size, POINTER)]
        elif joined and _continues(joined[-1], (place, writes, address, size), names):
            joined[-1] = (*joined[-1][:3], joined[-1][3] + size)
        else:
            joined.append((place, writes, address, size))
    return joined


def _continues(before, access, names):
    """Whether an access is to the next element of a vector. The emulator may access elements one by one."""
    (place, wrote, first, length), (at, writes, address, size) = before, access
    whole = first // LARGEST == (address + size - 1) // LARGEST and first + length == address
    return whole and wrote == writes and names[place] == names[at]
