"""Facts about the machine code of lstm_scan. If one isn't true, steps take longer."""

import re
from collections import Counter

_KEPT = 8  # steps of K whose weights are in registers


def complaints(program, kernel):
    """Return the facts that are not true of the loop over steps, for an instance with blocks of 8 rows."""
    shape = Shape(kernel.name)
    found = Counter(each.opcode for each in loop(program))
    groups = Counter()
    for opcode, count in found.items():
        groups[opcode.partition(".")[0]] += count
    wanted = {
        "HMMA": 4 * shape.k_steps,
        "LDSM": shape.k_steps // 2,
        "LDGSTS": 4,
        "MUFU": 8 * 4,  # of 4 units
        "LDG": shape.global_loads,
        "BAR": 1,
        "LDL": 0,
        "STL": 0,
    }
    wrong = {name: (groups[name], count) for name, count in wanted.items() if groups[name] != count}
    if found["LDS.128"] != shape.vector_loads:
        wrong["LDS.128"] = found["LDS.128"], shape.vector_loads
    if groups["STG"] + groups["ST"] != 2:
        wrong["STG"] = groups["STG"] + groups["ST"], 2  # outputs, in pairs
    return wrong


class Shape:
    """The sizes and options of an instance, from its name. It has tanh and pairs of units."""

    def __init__(self, name):
        T, units, rows, peephole, flags = re.fullmatch(
            r"lstm_scan<ScanTile<(\w+), (\d+), (\d+)>, .*, (\w+), \w+, (\w+), 2>", name
        ).groups()
        self.k_steps = int(units) * (4 if T == "float" else 2) // 32
        self.has_flags = flags != "NO_FLAGS"

    @property
    def global_loads(self):
        """Loads of the input of two rows; and of flags, and of what h and c of two rows are reset to."""
        return 2 + (1 + 4) * self.has_flags

    @property
    def vector_loads(self):
        """Loads of 16 bytes from shared memory: x's part of 4 units and the bias of 2; weights without a register."""
        return 4 + 2 + 4 * max(self.k_steps - _KEPT, 0)


def loop(program):
    """Return the instructions of the loop over steps: the loop with the longest jump back."""
    ways = [(at, number) for number, each in enumerate(program) for at in each.next if at <= number]
    first, last = max(ways, key=lambda way: way[1] - way[0])
    return program[first : last + 1]
