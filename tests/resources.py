"""What each instance of a kernel takes of a multiprocessor, by architecture: from NVRTC's log, and as it was kept.

python tests/resources.py --write   measures all, and keeps it in data/resources.json: after a change to a kernel, or
                                    to NVRTC, whose difference in that file is then to be read.
"""

import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import NamedTuple

import ml_dtypes
import numpy as np

from fusedlstm.backends.cuda import kernels as launch
from fusedlstm.backends.cuda import step_kernels as step_launches
from fusedlstm.backends.cuda import tiles
from fusedlstm.backends.cuda.runtime import compile as compiler
from fusedlstm.functions import ACTIVATIONS, Functions

from support.cells import functions_of
from support.places import DATA

TABLE = DATA / "resources.json"
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
WITH_TF32 = tuple(architecture for architecture in ARCHITECTURES if architecture >= 80)
# One of each family, for which all instances of step.cu and project.cu are compiled; for the others two of each tile.
FAMILIES = (80, 90, 120)
DTYPES = [np.dtype(t) for t in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)]
# Every set of options is compiled for one architecture, the rest of the instances for all.
OPTIONS = list(product([False, True], repeat=3))
PLANNED_OPTIONS = list(product([False, True], repeat=2))
ARCHITECTURE_OF_OPTIONS = 90
PLAIN = Functions()
# Those of one activation; and each function in each role, the first of them for every kernel and architecture.
PLAINS = [Functions.of(activation=name) for name in ACTIVATIONS]
GENERALS = [Functions.of(**functions_of(k)) for k in (11, *range(11), 12)]
CELLS = [*PLAINS, GENERALS[0]]


class Resources(NamedTuple):
    """Registers of a thread, its bytes on the stack and spilled there, and a block's bytes of shared memory.

    Those are static ones, and dynamic ones, which the launch gives.
    """

    registers: int
    stack: int
    spilled: int
    shared: int
    dynamic: int = 0


def gate_dtypes(dtype):
    """Of the cell's own matmul, and of a caller's."""
    return [np.dtype(np.float32), dtype] if dtype.itemsize == 2 else [dtype]


def pointwise_kernels(dtype):
    """All widths and functions, each with all options; tanh with none, too."""
    for gates, width, functions in product(gate_dtypes(dtype), (1, 4), CELLS):
        for option in (False, True) if functions == PLAIN else (True,):
            yield launch.pointwise_kernel(gates, dtype, width, functions, option, option, option)


def planned_kernels(dtype):
    """As of pointwise.cu, whose gates are always of the arithmetic's dtype here."""
    for width, functions in product((1, 4), CELLS):
        for option in (False, True) if functions == PLAIN else (True,):
            yield launch.planned_kernel(dtype, width, functions, option, option)


def tiles_of(dtype):
    """Of kernels/step.cu, whose tensor cores multiply float32, too; and simt, which multiplies float32 and float64."""
    simt_large = tiles.SIMT_LARGE_FLOAT64 if dtype.itemsize == 8 else tiles.SIMT_LARGE
    simt = [tiles.SIMT_SMALL, tiles.SIMT_MEDIUM, simt_large] if dtype.itemsize >= 4 else []
    return simt + [tile for tile in tiles.ALL if tile.pairs and dtype.itemsize < 8]


TILES = [(tile, dtype) for dtype in DTYPES for tile in tiles_of(dtype)]
# One tile for tensor cores and one for fma, for functions and zoneout.
TILES_OF_FUNCTIONS = [case for case in TILES if case[0] in (tiles.TENSOR_MEDIUM, tiles.SIMT_SMALL)]


def step_kernels(tile, dtype):
    """Rows aligned or not, the width of what a thread moves, and all options or none; and of projections.

    Those are in the step's launch, of as many units as a tile has, or in one of their own.
    """
    of_pairs = [(True, 2, True), (True, 2, False), (False, 1, True), (True, 1, False)]
    of_single = [(True, 1, True), (True, 1, False), (False, 1, True)]
    for aligned, width, options in of_pairs if tile.pairs else of_single:
        yield step_launches.step_kernel(tile, dtype, PLAIN, options, options, aligned, width)
    widths = (2, 1) if tile.pairs else (1,)
    bytes_of_m = tile.bytes_of_m(tile.units, dtype)
    yield step_launches.step_kernel(tile, dtype, PLAIN, True, True, True, widths[0], bytes_of_m)
    for width in widths:
        yield step_launches.project_kernel(tile, dtype, width)


def step_kernels_on(tile, dtype, architecture):
    """Those that are compiled for an architecture."""
    every = tuple(step_kernels(tile, dtype))
    return every if architecture in FAMILIES else (every[0], every[-1])


def functions_kernels(tile, dtype):
    """Yield steps with the functions that step_kernels leaves out."""
    for functions in (*PLAINS, *GENERALS):
        if functions != PLAIN:
            yield step_launches.step_kernel(tile, dtype, functions, True, True, True, 2 if tile.pairs else 1)


def option_kernels(flags):
    """One instance for each dtype, with these of the three options of pointwise.cu, or of the two of planned.cu."""
    if len(flags) == 2:
        return [launch.planned_kernel(dtype, 4, PLAIN, *flags) for dtype in DTYPES]
    return [launch.pointwise_kernel(gate_dtypes(dtype)[0], dtype, 4, PLAIN, *flags) for dtype in DTYPES]


def kernels_by_dtype():
    """The small ones, which have an instance for each dtype and no more, or one for all."""
    kernels = (
        *(launch.clip_kernel, launch.select_kernel, launch.add_kernel),
        *(launch.finish_kernel, launch.reset_kernel, launch.gather_kernel),
    )
    interleaving = (launch.interleave_kernel, launch.pad_kernel)
    return [
        *(kernel(dtype) for kernel in kernels for dtype in DTYPES),
        *(kernel(dtype, rounded=False) for kernel in interleaving for dtype in DTYPES),
        *(launch.check_kernel(), launch.state_rows_kernel()),
    ]


def zoneout_kernels():
    """Yield kernels with zoneout: lstm_finish of each dtype, and steps and projections of TILES_OF_FUNCTIONS."""
    functions, part = Functions(zoneout_c=0.1, zoneout_h=0.2), 0.2
    for dtype in DTYPES:
        yield launch.finish_kernel(dtype, part)
    for tile, dtype in TILES_OF_FUNCTIONS:
        width = 2 if tile.pairs else 1
        for bytes_of_m in (0, tile.bytes_of_m(tile.units, dtype)):
            yield step_launches.step_kernel(tile, dtype, functions, True, True, True, width, bytes_of_m)
        yield step_launches.project_kernel(tile, dtype, width, part)


def rounding_kernels():
    """Those that round to TF32."""
    return [kernel(np.dtype(np.float32), rounded=True) for kernel in (launch.interleave_kernel, launch.pad_kernel)]


def instances():
    """All that is compiled by tests, by name: the kernels, and the architectures of each."""
    kernels = [kernel for dtype in DTYPES for kernel in (*pointwise_kernels(dtype), *planned_kernels(dtype))]
    kernels += kernels_by_dtype()
    of_options = [kernel for flags in (*OPTIONS, *PLANNED_OPTIONS) for kernel in option_kernels(flags)]
    architectures = {kernel.name: (kernel, {ARCHITECTURE_OF_OPTIONS}) for kernel in of_options}
    of_functions = [kernel for case in TILES_OF_FUNCTIONS for kernel in functions_kernels(*case)]
    architectures |= {
        kernel.name: (kernel, {ARCHITECTURE_OF_OPTIONS}) for kernel in (*of_functions, *zoneout_kernels())
    }
    architectures |= {kernel.name: (kernel, set(WITH_TF32)) for kernel in rounding_kernels()}
    for case, architecture in product(TILES, WITH_TF32):
        for kernel in step_kernels_on(*case, architecture):
            architectures.setdefault(kernel.name, (kernel, set()))[1].add(architecture)
    return architectures | {kernel.name: (kernel, set(ARCHITECTURES)) for kernel in kernels}


def compiled(kernel, architecture):
    """An instance's mangled name, its machine code, and what it takes."""
    option = f"-arch=sm_{architecture}"
    mangled, code, log = compiler.compile_kernel(kernel.file, kernel.name, option, ["--ptxas-options=-v"])
    assert "warning" not in log, f"{kernel.name} for sm_{architecture}:\n{log}"
    return mangled, code, in_log(log)._replace(dynamic=kernel.shared)


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


# Of a multiprocessor, by architecture: KiB of shared memory, and of it a block's at most; threads; blocks.
MULTIPROCESSORS = {
    80: (164, 163, 2048, 32),
    86: (100, 99, 1536, 16),
    89: (100, 99, 1536, 24),
    90: (228, 227, 2048, 32),
    100: (228, 227, 2048, 32),
    120: (100, 99, 1536, 24),
}
_REGISTERS, _RESERVED = 65536, 1024  # of a multiprocessor; bytes of shared memory that each block takes besides


def blocks_at_once(measured, threads, architecture):
    """How many blocks of so many threads a multiprocessor has room for."""
    shared, of_block, most_threads, most_blocks = MULTIPROCESSORS[architecture]
    taken = measured.shared + measured.dynamic
    if taken > of_block << 10:
        return 0
    registers = -(-measured.registers // 8) * 8 * threads  # which are given by 256 to a warp
    return min(
        *(most_blocks, most_threads // threads),
        *(_REGISTERS // registers, (shared << 10) // (taken + _RESERVED)),
    )


def write():
    """Measure everything, a row an instance."""

    def row(name, kernel, architectures):
        measured = {architecture: compiled(kernel, architecture)[2] for architecture in sorted(architectures)}
        return f"    {json.dumps(name)}: {json.dumps(measured)}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(lambda item: row(item[0], *item[1]), instances().items()))
    about = {"nvrtc": nvrtc_version(), "numbers": Resources._fields}
    head = ",\n  ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in about.items())
    body = ",\n".join(rows)
    TABLE.write_text(f'{{\n  {head},\n  "instances": {{\n{body}\n  }}\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
