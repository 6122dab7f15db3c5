"""Count instructions and memory accesses in machine code, by NVIDIA's disassembler."""

import re
import subprocess
import tempfile
from collections import Counter
from typing import NamedTuple

# An address, a predicate or none, an opcode with its modifiers, and operands.
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(@!?U?P\w+\s+)?([A-Z]\w*(?:\.\w+)*)(.*)$")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")
# Loads and stores: global, local, or in a space that is known only at run time.
_ACCESSES = {"LDG", "LDL", "LD", "STG", "STL", "ST"}
_BITS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}


def disassembler():
    """Return the path of nvdisasm, or None if it is not installed."""
    try:
        from cuda.pathfinder import find_nvidia_binary_utility
    except ImportError:
        return None
    return find_nvidia_binary_utility("nvdisasm")


class Instruction(NamedTuple):
    """An opcode with its modifiers, such as "HMMA.16816.F32.BF16", and the numbers of instructions that may follow."""

    opcode: str
    next: tuple[int, ...]


def program(code):
    """Return the instructions of machine code, in the order of their addresses."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [disassembler(), "--print-code", "--no-dataflow", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return parsed(text)


def parsed(text):
    """Return the instructions of a disassembler's text. A call is followed by the next instruction."""
    found, labels = [], {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(found)
        elif instruction := _INSTRUCTION.match(line):
            found.append(instruction.groups())

    def following(number, predicate, opcode, operands):
        kind = opcode.partition(".")[0]
        jumps = [labels[label] for label in _TARGET.findall(operands)] if kind == "BRA" else []
        # A branch may have its condition as an operand.
        always = not predicate and (kind in {"EXIT", "RET"} or (kind == "BRA" and operands.strip().startswith("`")))
        return tuple(jumps if always or number + 1 == len(found) else [*jumps, number + 1])

    return [Instruction(each[1], following(number, *each)) for number, each in enumerate(found)]


def reachable(program, starts):
    """Return the numbers of all instructions that may run after any of those in `starts`."""
    seen, waiting = set(), [after for start in starts for after in program[start].next]
    while waiting:
        number = waiting.pop()
        if number not in seen:
            seen.add(number)
            waiting += program[number].next
    return seen


def instructions(code):
    """Count each instruction in machine code: {"HMMA.16816.F32.BF16": 2, ...}."""
    return Counter(each.opcode for each in program(code))


def accesses(code):
    """Count loads and stores in machine code by their number of bits: {("LDG", 128): 13, ...}."""
    found = Counter()
    for instruction, count in instructions(code).items():
        name, *suffixes = instruction.split(".")
        if name in _ACCESSES:
            found[name, _bits(suffixes)] += count
    return found


def _bits(suffixes):
    return next((_BITS[suffix] for suffix in suffixes if suffix in _BITS), 32)
