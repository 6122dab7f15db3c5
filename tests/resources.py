"""The resources of each kernel instance by architecture, from NVRTC's log and from the kept table.

python tests/resources.py --write   measures all, and writes data/resources.json. Run it after a change to a kernel
                                    or to NVRTC, and review the difference in that file.
"""

import functools
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, product
from typing import NamedTuple

import ml_dtypes
import numpy as np

from fusedlstm.backends.cuda import kernels as launch
from fusedlstm.backends.cuda import scan_kernels, scan_tiles, slot_kernels, tiles, weight_kernels
from fusedlstm.backends.cuda import sequence_kernels as sequence_launches
from fusedlstm.backends.cuda import step_kernels as step_launches
from fusedlstm.backends.kernel_choice import TENSOR
from fusedlstm.functions import ACTIVATIONS, Functions

from support import real_nvrtc
from support.cells import FUNCTIONS, functions_of
from support.places import DATA

TABLE = DATA / "resources.json"
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
WITH_TF32 = tuple(architecture for architecture in ARCHITECTURES if architecture >= 80)
# One architecture of each family compiles all instances of step.cu and project.cu. Others compile two of each tile.
FAMILIES = (80, 90, 120)
DTYPES = [np.dtype(t) for t in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)]
# Every set of options is compiled for one architecture, the other instances for all.
OPTIONS = list(product([False, True], repeat=3))
PLANNED_OPTIONS = list(product([False, True], repeat=2))
ARCHITECTURE_OF_OPTIONS = 90
PLAIN = Functions()
# Cells with one activation, and with each function in each role. GENERALS[0] is in every kernel and architecture.
PLAINS = [Functions.of(activation=name) for name in ACTIVATIONS]
GENERALS = [Functions.of(**functions_of(k)) for k in (11, *(k for k in range(len(FUNCTIONS)) if k != 11))]
CELLS = [*PLAINS, GENERALS[0]]


class Resources(NamedTuple):
    """A thread's registers, and its bytes of stack and of spills; a block's static and dynamic shared memory.

    The launch sets the dynamic part.
    """

    registers: int
    stack: int
    spilled: int
    shared: int
    dynamic: int = 0


def gate_dtypes(dtype):
    """Return the dtypes of gates: from the cell's own matmul, and from a caller's."""
    return [np.dtype(np.float32), dtype] if dtype.itemsize == 2 else [dtype]


def pointwise_kernels(dtype):
    """Yield all widths and functions, each with all options, and tanh without any, too."""
    for gates, width, functions in product(gate_dtypes(dtype), (1, 4), CELLS):
        for option in (False, True) if functions == PLAIN else (True,):
            yield launch.pointwise_kernel(gates, dtype, width, functions, option, option, option)


def planned_kernels(dtype):
    """Yield kernels as `pointwise_kernels` does, but with gates always in the arithmetic's dtype."""
    for width, functions in product((1, 4), CELLS):
        for option in (False, True) if functions == PLAIN else (True,):
            yield launch.planned_kernel(dtype, width, functions, option, option)


@functools.cache
def tiles_of(dtype, architecture):
    """Return the tiles of step.cu that an architecture uses.

    Tensor cores multiply all but float64, and simt multiplies float32 and float64.
    """
    kernels = [*(TENSOR if dtype.itemsize < 8 else ()), *(["simt"] if dtype.itemsize >= 4 else ())]
    of = product(kernels, (1 << k for k in range(20)), (1 << k for k in range(12)))
    used = {tiles.tile_of(kernel, B, N, dtype, architecture) for kernel, B, N in of}
    return [tile for tile in tiles.ALL if tile in used]


def _used(tile, dtype):
    return any(tile in tiles_of(dtype, architecture) for architecture in WITH_TF32)


TILES = [(tile, dtype) for dtype in DTYPES for tile in tiles.ALL if _used(tile, dtype)]
# One tile with tensor cores and one with fma, for functions and zoneout.
TILES_OF_FUNCTIONS = [case for case in TILES if case[0] in (tiles.TENSOR_MEDIUM, tiles.SIMT_SMALL)]


def step_kernels(tile, dtype):
    """Yield steps and projections, with aligned and unaligned rows, each vector width, and all options or none.

    A projection is in the step's launch, with as many units as a tile has, or in its own.
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
    """Return the kernels that are compiled for an architecture: none if it doesn't use the tile."""
    if tile not in tiles_of(dtype, architecture):
        return ()
    every = tuple(step_kernels(tile, dtype))
    return every if architecture in FAMILIES else (every[0], every[-1])


def functions_kernels(tile, dtype):
    """Yield steps with the functions that step_kernels leaves out."""
    for functions in (*PLAINS, *GENERALS):
        if functions != PLAIN:
            yield step_launches.step_kernel(tile, dtype, functions, True, True, True, 2 if tile.pairs else 1)


def option_kernels(flags):
    """Return one instance for each dtype, with these options: three for pointwise.cu, or two for planned.cu."""
    if len(flags) == 2:
        return [launch.planned_kernel(dtype, 4, PLAIN, *flags) for dtype in DTYPES]
    return [launch.pointwise_kernel(gate_dtypes(dtype)[0], dtype, 4, PLAIN, *flags) for dtype in DTYPES]


def kernels_by_dtype():
    """Return the small kernels, which have one instance for each dtype, or a single one."""
    kernels = (
        *(launch.clip_kernel, launch.select_kernel, launch.add_kernel),
        *(launch.finish_kernel, launch.reset_kernel, slot_kernels.gather_kernel),
    )
    interleaving = (weight_kernels.interleave_kernel, weight_kernels.pad_kernel)
    return [
        *(kernel(dtype) for kernel in kernels for dtype in DTYPES),
        *(kernel(dtype, rounded=False) for kernel in interleaving for dtype in DTYPES),
        *(slot_kernels.check_kernel(), slot_kernels.state_rows_kernel(), sequence_launches.flags_kernel()),
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


def sequence_kernels_on(architecture):
    """Yield kernels of sequences: lstm_pointwise with and without flags, and the others with idle rows.

    Steps and projections are those of tiles that the architecture uses.
    """
    for dtype in DTYPES:
        for width, options in product((1, 4), (False, True)):
            flags = options, options, options, True
            yield launch.pointwise_kernel(gate_dtypes(dtype)[0], dtype, width, PLAIN, *flags)
        for part in (0.0, 0.2):
            yield launch.finish_kernel(dtype, part, sequence=True)
    for tile, dtype in TILES:
        if tile not in tiles_of(dtype, architecture):
            continue
        width = 2 if tile.pairs else 1
        for bytes_of_m in (0, tile.bytes_of_m(tile.units, dtype)):
            yield step_launches.step_kernel(tile, dtype, PLAIN, True, True, True, width, bytes_of_m, idle=True)
        yield step_launches.project_kernel(tile, dtype, width, idle=True)


# The dtypes of scan.cu, and its tiles with the most registers: of 8 rows, and of more.
SCAN_DTYPES = [dtype for dtype in DTYPES if dtype.itemsize < 8]
SCAN_TILES = [scan_tiles.ScanTile(128, rows) for rows in (8, 16)]
# Scans that also project: those of 16 bits.
PROJECTING = list(product([dtype for dtype in SCAN_DTYPES if dtype.itemsize == 2], SCAN_TILES))


def gates_kernels(architecture):
    """Return the kernels that compute x's part for scans on an architecture."""
    used = [scan_tiles.gates_tile(B, 128, SCAN_DTYPES[0], architecture) for B in (1, 1 << 20)]
    return [scan_kernels.gates_kernel(*each) for each in product(dict.fromkeys(used), SCAN_DTYPES, (True, False))]


def scan_kernels_on(architecture):
    """Yield scans without options and with all of them; for ARCHITECTURE_OF_OPTIONS, also other tiles and functions."""
    for dtype, tile in product(SCAN_DTYPES, SCAN_TILES):
        yield scan_kernels.scan_kernel(tile, dtype, PLAIN, False, False, scan_tiles.NO_FLAGS, 2)
        yield scan_kernels.scan_kernel(tile, dtype, PLAIN, True, True, scan_tiles.LAST, 2)
    for dtype, tile in PROJECTING:
        projecting = replace(tile, projects=True)
        yield scan_kernels.scan_kernel(projecting, dtype, PLAIN, False, False, scan_tiles.NO_FLAGS, 2)
        yield scan_kernels.scan_kernel(projecting, dtype, PLAIN, True, True, scan_tiles.LAST, 2)
    if architecture != ARCHITECTURE_OF_OPTIONS:
        return
    of_bfloat16, of_float32 = SCAN_DTYPES[-1], SCAN_DTYPES[0]
    for dtype, units, rows in product((of_float32, of_bfloat16), (32, 64, 96), (8, 64)):
        tile = scan_tiles.ScanTile(units, rows)
        yield scan_kernels.scan_kernel(tile, dtype, PLAIN, True, True, scan_tiles.ZEROS, 1)
    for functions in (*GENERALS[::3], Functions(zoneout_c=0.1, zoneout_h=0.2)):
        yield scan_kernels.scan_kernel(SCAN_TILES[0], of_bfloat16, functions, True, True, scan_tiles.LAST, 2)


def rounding_kernels():
    """Return the kernels that round to TF32."""
    return [
        kernel(np.dtype(np.float32), rounded=True)
        for kernel in (weight_kernels.interleave_kernel, weight_kernels.pad_kernel)
    ]


def instances():
    """Return all instances that tests compile, by name: each kernel with its architectures."""
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
    for architecture in FAMILIES:
        of_sequences = sequence_kernels_on(architecture), gates_kernels(architecture), scan_kernels_on(architecture)
        for kernel in chain.from_iterable(of_sequences):
            architectures.setdefault(kernel.name, (kernel, set()))[1].add(architecture)
    return architectures | {kernel.name: (kernel, set(ARCHITECTURES)) for kernel in kernels}


def compiled(kernel, architecture):
    """Return an instance's mangled name, its machine code, and its resources."""
    option = f"-arch=sm_{architecture}"
    mangled, code, log = real_nvrtc.compile_kernel(kernel.file, kernel.name, option, ["--ptxas-options=-v"])
    assert "warning" not in log, f"{kernel.name} for sm_{architecture}:\n{log}"
    return mangled, code, in_log(log)._replace(dynamic=kernel.shared)


def in_log(log):
    """Return the resources that the compiler reports for a program of one kernel."""

    def bytes_or_number(pattern):
        found = re.findall(pattern, log)
        assert len(found) == 1, f"{pattern!r} should be in the compiler's log once:\n{log}"
        return int(found[0])

    stores, loads = (bytes_or_number(rf"(\d+) bytes spill {what}") for what in ("stores", "loads"))
    stack, registers = bytes_or_number(r"(\d+) bytes stack frame"), bytes_or_number(r"Used (\d+) registers")
    shared = bytes_or_number(r"(\d+) bytes smem") if "bytes smem" in log else 0  # not reported if there is none
    return Resources(registers, stack, stores + loads, shared)


def kept():
    """Return the kept table: NVRTC's version, and resources by name and architecture."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    rows = table["instances"].items()
    return table["nvrtc"], {
        name: {int(architecture): Resources(*numbers) for architecture, numbers in row.items()} for name, row in rows
    }


def complaint(name, architecture, measured, table, *, same_nvrtc=True):
    """Describe what is wrong with an instance, or return None.

    Local memory is wrong with any NVRTC. Other numbers are compared only with those of the same NVRTC.
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


# By architecture, for a multiprocessor: KiB of shared memory, a block's limit of it, threads, and blocks.
MULTIPROCESSORS = {
    80: (164, 163, 2048, 32),
    86: (100, 99, 1536, 16),
    89: (100, 99, 1536, 24),
    90: (228, 227, 2048, 32),
    100: (228, 227, 2048, 32),
    120: (100, 99, 1536, 24),
}
_REGISTERS, _RESERVED = 65536, 1024  # per multiprocessor; bytes of shared memory that each block takes in addition


def blocks_at_once(measured, threads, architecture):
    """Return how many blocks with this many threads fit on a multiprocessor."""
    shared, of_block, most_threads, most_blocks = MULTIPROCESSORS[architecture]
    taken = measured.shared + measured.dynamic
    if taken > of_block << 10:
        return 0
    registers = -(-measured.registers // 8) * 8 * threads  # allocated to warps in units of 256
    return min(
        *(most_blocks, most_threads // threads),
        *(_REGISTERS // registers, (shared << 10) // (taken + _RESERVED)),
    )


def write():
    """Measure everything, and write one row for each instance."""

    def row(name, kernel, architectures):
        measured = {architecture: compiled(kernel, architecture)[2] for architecture in sorted(architectures)}
        return f"    {json.dumps(name)}: {json.dumps(measured)}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(lambda item: row(item[0], *item[1]), instances().items()))
    about = {"nvrtc": real_nvrtc.version(), "numbers": Resources._fields}
    head = ",\n  ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in about.items())
    body = ",\n".join(rows)
    TABLE.write_text(f'{{\n  {head},\n  "instances": {{\n{body}\n  }}\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
