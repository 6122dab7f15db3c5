"""Count instructions and memory accesses in machine code, by NVIDIA's disassembler."""

import re
import subprocess
import tempfile
from collections import Counter

# An address, a predicate or none, and an opcode with its modifiers.
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*(?:\.\w+)*)", re.MULTILINE)
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


def instructions(code):
    """Count each instruction in machine code: {"HMMA.16816.F32.BF16": 2, ...}."""
    return Counter(in_order(code))


def in_order(code):
    """List the instructions in machine code, in its order."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [disassembler(), "--print-code", "--no-dataflow", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return _INSTRUCTION.findall(text)


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
