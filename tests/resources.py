"""What each instance of a kernel takes of a multiprocessor, by architecture: from NVRTC's log, and as it was kept.

python tests/resources.py --write   measures all, and keeps it in data/resources.json: after a change to a kernel, or
                                    to NVRTC, whose difference in that file is then to be read.
"""

import json
import re
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from fusedlstm.backends.cuda import compile as compiler
from fusedlstm.backends.cuda import launch
from fusedlstm.weights import ACTIVATIONS

TABLE = Path(__file__).parent / "data" / "resources.json"
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
DTYPES = [np.dtype(t) for t in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)]
# Every set of options is compiled for one architecture, the rest of the instances for all.
OPTIONS = list(product([False, True], repeat=3))
PLANNED_OPTIONS = list(product([False, True], repeat=2))
ARCHITECTURE_OF_OPTIONS = 90


class Resources(NamedTuple):
    """Registers of a thread, its bytes on the stack and spilled there, and a block's bytes of static shared memory."""

    registers: int
    stack: int
    spilled: int
    shared: int


def gate_dtypes(dtype):
    """Of the cell's own matmul, and of a caller's."""
    return [np.dtype(np.float32), dtype] if dtype.itemsize == 2 else [dtype]


def pointwise_kernels(dtype):
    """All widths and activations, each with all options; tanh with none, too."""
    for gates, width, activation in product(gate_dtypes(dtype), (1, 4), ACTIVATIONS):
        for option in (False, True) if activation == "tanh" else (True,):
            yield launch.pointwise_kernel(gates, dtype, width, activation, option, option, option)


def planned_kernels(dtype):
    """As of pointwise.cu, whose gates are always of the arithmetic's dtype here."""
    for width, activation in product((1, 4), ACTIVATIONS):
        for option in (False, True) if activation == "tanh" else (True,):
            yield launch.planned_kernel(dtype, width, activation, option, option)


def option_kernels(flags):
    """One instance for each dtype, with these of the three options of pointwise.cu, or of the two of planned.cu."""
    if len(flags) == 2:
        return [launch.planned_kernel(dtype, 4, "tanh", *flags) for dtype in DTYPES]
    return [launch.pointwise_kernel(gate_dtypes(dtype)[0], dtype, 4, "tanh", *flags) for dtype in DTYPES]


def kernels_by_dtype():
    """The small ones, which have an instance for each dtype and no more."""
    kernels = (
        *(launch.clip_kernel, launch.select_kernel, launch.add_kernel),
        *(launch.finish_kernel, launch.reset_kernel, launch.gather_kernel),
    )
    return [kernel(dtype) for kernel in kernels for dtype in DTYPES]


def instances():
    """All that is compiled by tests, by name: the kernels, and the architectures of each."""
    kernels = [kernel for dtype in DTYPES for kernel in (*pointwise_kernels(dtype), *planned_kernels(dtype))]
    kernels += kernels_by_dtype()
    of_options = [kernel for flags in (*OPTIONS, *PLANNED_OPTIONS) for kernel in option_kernels(flags)]
    architectures = {kernel.name: (kernel, {ARCHITECTURE_OF_OPTIONS}) for kernel in of_options}
    return architectures | {kernel.name: (kernel, set(ARCHITECTURES)) for kernel in kernels}


def compiled(kernel, architecture):
    """An instance's mangled name, its machine code, and what it takes."""
    option = f"-arch=sm_{architecture}"
    mangled, code, log = compiler.compile_kernel(kernel.file, kernel.name, option, ["--ptxas-options=-v"])
    return mangled, code, in_log(log)


def in_log(log):
    """What the compiler says of a program of one kernel."""

    def bytes_or_number(pattern):
        found = re.findall(pattern, log)
        assert len(found) == 1, f"{pattern!r} is not once in the compiler's log:\n{log}"
        return int(found[0])

    stores, loads = (bytes_or_number(rf"(\d+) bytes spill {what}") for what in ("stores", "loads"))
    stack, registers = bytes_or_number(r"(\d+) bytes stack frame"), bytes_or_number(r"Used (\d+) registers")
    shared = bytes_or_number(r"(\d+) bytes smem") if "bytes smem" in log else 0  # not named where there is none
    return Resources(registers, stack, stores + loads, shared)


def nvrtc_version():
    return ".".join(map(str, compiler.nvrtc.getVersion()))


def kept():
    """The table: NVRTC's version, and resources by name and architecture."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    rows = table["instances"].items()
    return table["nvrtc"], {
        name: {int(architecture): Resources(*numbers) for architecture, numbers in row.items()} for name, row in rows
    }


def complaint(name, architecture, measured, table, *, same_nvrtc=True):
    """What is wrong with an instance in words that name it, or None.

    Local memory is wrong with any NVRTC; the other numbers are compared with those that the same NVRTC gave.
    """
    about = f"{name} for sm_{architecture}"
    if measured.spilled or measured.stack:
        return f"{about} uses local memory: {measured.spilled} bytes spilled, {measured.stack} bytes of stack"
    if architecture not in table.get(name, {}):
        return f"{about} is not in {TABLE.name}: python tests/resources.py --write"
    if not same_nvrtc:
        return None
    for what, now, before in zip(Resources._fields, measured, table[name][architecture], strict=True):
        if now > before:
            return f"{about} takes more {what}: {now}, and {before} in {TABLE.name}"
    return None


def write():
    """Measure everything, a row an instance."""
    rows = []
    for name, (kernel, architectures) in instances().items():
        row = {architecture: compiled(kernel, architecture)[2] for architecture in sorted(architectures)}
        rows.append(f"    {json.dumps(name)}: {json.dumps(row)}")
    about = {"nvrtc": nvrtc_version(), "numbers": Resources._fields}
    head = ",\n  ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in about.items())
    body = ",\n".join(rows)
    TABLE.write_text(f'{{\n  {head},\n  "instances": {{\n{body}\n  }}\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
