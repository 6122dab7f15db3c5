"""Machine code as its instructions on memory, by NVIDIA's disassembler."""

import re
import subprocess
import tempfile
from collections import Counter

# An address, a predicate or none, and a load or store: global, local, or of a space that is known at run time only.
_ACCESS = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(LDG|LDL|LD|STG|STL|ST)((?:\.\w+)*)\s", re.MULTILINE)
_BITS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}


def disassembler():
    """The path of nvdisasm, or None where it is not installed."""
    try:
        from cuda.pathfinder import find_nvidia_binary_utility
    except ImportError:
        return None
    return find_nvidia_binary_utility("nvdisasm")


def accesses(code):
    """How many instructions of machine code load and store how many bits: {("LDG", 128): 13, ...}."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [disassembler(), "--print-code", "--no-dataflow", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Counter((name, _bits(suffixes.split("."))) for name, suffixes in _ACCESS.findall(text))


def _bits(suffixes):
    return next((_BITS[suffix] for suffix in suffixes if suffix in _BITS), 32)
