"""Compile every instance of every kernel for every architecture with NVRTC, as on a machine with a GPU."""

import functools
import itertools
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fusedlstm.arrays import dtypes

from support import real_nvrtc, sass, scan_code, step_code
from support.cells import FUNCTIONS

try:
    import resources

    from fusedlstm.backends.cuda import kernels as launch
    from fusedlstm.backends.cuda import slot_kernels
    from fusedlstm.backends.cuda.function_types import function_type
    from fusedlstm.backends.cuda.runtime import compile as compiler
    from fusedlstm.backends.cuda.runtime.structs import C_NAMES
except ImportError as error:  # no CuPy
    if os.environ.get("FUSEDLSTM_REQUIRE_NVRTC") == "1":
        raise
    pytest.skip(f"kernels are not compiled here: {error}", allow_module_level=True)

# If this is set, tests that lack a tool or the pinned NVRTC fail instead of being skipped.
REQUIRED = os.environ.get("FUSEDLSTM_REQUIRE_NVRTC") == "1"


@pytest.fixture(autouse=True)
def _with_real_nvrtc(monkeypatch):
    """Use the real NVRTC, even if the fake driver has replaced it."""
    if real_nvrtc.missing():
        assert not REQUIRED, real_nvrtc.missing()
        pytest.skip(f"kernels are not compiled here: {real_nvrtc.missing()}")
    monkeypatch.setattr(compiler, "compile_kernel", real_nvrtc.compile_kernel)
    monkeypatch.setattr(compiler, "architecture", real_nvrtc.architecture)


KEPT_NVRTC, KEPT = resources.kept()


@functools.cache
def compiled(kernel, architecture):
    return resources.compiled(kernel, architecture)


def assert_compiles(kernel, architecture):
    mangled, code, measured = compiled(kernel, architecture)
    assert code[:4] == b"\x7fELF", kernel.name
    assert mangled.encode() in code, kernel.name
    same_nvrtc = real_nvrtc.version() == KEPT_NVRTC
    wrong = resources.complaint(kernel.name, architecture, measured, KEPT, same_nvrtc=same_nvrtc)
    assert wrong is None, wrong


# CI compiles every instance for MAIN, and each kernel's first and last for the other architectures. The nightly run
# compiles the rest of what `resources.instances` lists, and all for AT_NIGHT, which have the instructions of 80.
MAIN = resources.ARCHITECTURE_OF_OPTIONS
OTHERS = [architecture for architecture in resources.ARCHITECTURES if architecture != MAIN]
AT_NIGHT = (86, 89)


def marked(architectures):
    """Return architectures as parameters, those of AT_NIGHT marked."""
    return [pytest.param(each, marks=[pytest.mark.nightly] * (each in AT_NIGHT)) for each in architectures]


def sampled(kernels, architecture):
    every = tuple(kernels)
    return every if architecture == MAIN else (every[0], every[-1])


@pytest.mark.parametrize("architecture", marked(resources.ARCHITECTURES))
@pytest.mark.parametrize("dtype", resources.DTYPES, ids=str)
def test_pointwise(architecture, dtype):
    """Compile all widths and functions for MAIN, and the first and last for other architectures."""
    for kernel in sampled(resources.pointwise_kernels(dtype), architecture):
        assert_compiles(kernel, architecture)


@pytest.mark.parametrize("architecture", marked(resources.ARCHITECTURES))
@pytest.mark.parametrize("dtype", resources.DTYPES, ids=str)
def test_planned(architecture, dtype):
    """Compile as in test_pointwise."""
    for kernel in sampled(resources.planned_kernels(dtype), architecture):
        assert_compiles(kernel, architecture)


@pytest.mark.nightly
@pytest.mark.parametrize("architecture", OTHERS)
@pytest.mark.parametrize("dtype", resources.DTYPES, ids=str)
@pytest.mark.parametrize("kernels", [resources.pointwise_kernels, resources.planned_kernels])
def test_all_pointwise_instances_compile(kernels, architecture, dtype):
    for kernel in kernels(dtype):
        assert_compiles(kernel, architecture)


@pytest.mark.sampled
@pytest.mark.parametrize("flags", [*resources.OPTIONS, *resources.PLANNED_OPTIONS])
def test_options(flags):
    """Compile every set of options of pointwise.cu and planned.cu."""
    for kernel in resources.option_kernels(flags):
        assert_compiles(kernel, resources.ARCHITECTURE_OF_OPTIONS)


@pytest.mark.parametrize("architecture", marked(resources.ARCHITECTURES))
def test_kernels_by_dtype(architecture):
    for kernel in resources.kernels_by_dtype():
        assert_compiles(kernel, architecture)


@pytest.mark.parametrize("architecture", marked(resources.WITH_TF32))
def test_kernels_that_round(architecture):
    for kernel in resources.rounding_kernels():
        assert_compiles(kernel, architecture)


def test_rounding_kernels_need_tf32():
    for kernel in resources.rounding_kernels():
        with pytest.raises(RuntimeError, match="TF32 needs sm_80"):
            compiled(kernel, 75)


@functools.cache
def each_compiled(kernels, architecture):
    """Compile kernels as `compiled` does, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda kernel: compiled(kernel, architecture), kernels))


def of_tiles(cases):
    """Return parameters: a tile, its dtype, and perhaps an architecture. Those of AT_NIGHT are marked."""
    return [
        pytest.param(
            *case,
            id="-".join((case[0].c_name(case[1]), *map(str, case[1:]))),
            marks=[pytest.mark.nightly] * (case[-1] in AT_NIGHT),
        )
        for case in cases
    ]


def tiles_of(architectures):
    """Return all tiles, each with its dtypes and the architectures that use it."""
    return of_tiles(
        [
            (tile, dtype, architecture)
            for tile, dtype in resources.TILES
            for architecture in architectures
            if tile in resources.tiles_of(dtype, architecture)
        ]
    )


# Blocks that fit a multiprocessor at once: on sm_80, on sm_86, 89 and 120, and on sm_90 and 100; None where a tile is
# not used.
BLOCKS = {
    "TensorWide<{}>": (1, None, 1),
    "TensorLarge<{}>": (2, 1, 2),
    "TensorMedium<{}>": (4, None, 4),
    "TensorMedium<{}, 3>": (None, 3, None),
    "TensorSmall<{}, 8>": (3, None, 5),
    "TensorSmall<{}, 8, 3>": (None, 3, None),
    "TensorSmall<{}, 32>": (2, 1, 3),
    "SimtLarge<{}>": (2, 1, 2),
    "SimtMedium<{}>": (4, None, 4),
    "SimtMedium<{}, 3>": (None, 3, None),
    "SimtSmall<{}>": (4, 4, 4),
}
BLOCKS_OF_FLOAT64 = {
    "SimtLarge<{}>": (1, 1, 1),
    "SimtMedium<{}>": (3, None, 3),
    "SimtMedium<{}, 3>": (None, 3, None),
    "SimtSmall<{}>": (4, 4, 4),
}
COLUMNS_OF_BLOCKS = {80: 0, 86: 1, 89: 1, 90: 2, 100: 2, 120: 1}


def assert_steps_compile(kernels, tile, dtype, architecture):
    """Assert that kernels compile, and that a multiprocessor has room for the blocks they are made for."""
    each = each_compiled(kernels, architecture)
    most = (BLOCKS_OF_FLOAT64 if dtype.itemsize == 8 else BLOCKS)[tile.template][COLUMNS_OF_BLOCKS[architecture]]
    for kernel, (_, _, measured) in zip(kernels, each, strict=True):
        assert_compiles(kernel, architecture)
        # Unaligned rows, and projections in the same launch, may take more: see step.cu.
        aligned = kernel.file == "project.cu" or ", false, true, " in kernel.name
        blocks = resources.blocks_at_once(measured, tile.threads, architecture)
        assert blocks >= (most if aligned else 1), (kernel.name, measured)


# For each tile, the tensor-core products or scalar multiply-adds in the loop over tiles of K.
PRODUCTS = {
    "TensorWide<{}>": 64,
    "TensorLarge<{}>": 32,
    "TensorMedium<{}>": 16,
    "TensorMedium<{}, 3>": 16,
    "TensorSmall<{}, 8>": 4,
    "TensorSmall<{}, 8, 3>": 4,
    "TensorSmall<{}, 32>": 16,
    "SimtLarge<{}>": 256,
    "SimtMedium<{}>": 128,
    "SimtMedium<{}, 3>": 128,
    "SimtSmall<{}>": 128,
}
HMMA = {"float16": "HMMA.16816.F32", "bfloat16": "HMMA.16816.F32.BF16", "float32": "HMMA.1688.F32.TF32"}


def assert_multiplies(kernel, found, tile, dtype):
    """Assert that a step copies 16 bytes at a time asynchronously, and uses tensor cores only if its tile does."""
    names = {name.partition(".")[0] for name in found}
    whole = {name.replace(".LTC128B", "") for name in found}  # the compiler may have the L2 load 128 bytes at a time
    assert {"LDGSTS.E.BYPASS.128", "LDGSTS.E.BYPASS.128.ZFILL", "LDGDEPBAR", "DEPBAR.LE"} <= whole, kernel.name
    products = PRODUCTS[tile.template]
    if tile.pairs:
        assert {name for name in found if name.startswith("HMMA")} == {HMMA[dtype.name]}, kernel.name
        assert found[HMMA[dtype.name]] == products, kernel.name
        assert found["LDSM.16.M88.4"], kernel.name
    else:
        assert "HMMA" not in names, kernel.name
        assert found["LDS.128"], kernel.name
        multiply_add = "DFMA" if dtype.itemsize == 8 else "FFMA"
        added = sum(count for name, count in found.items() if name.startswith(multiply_add))
        assert added >= products // (4 if dtype.itemsize == 8 else 1), kernel.name


@pytest.mark.sampled
@pytest.mark.parametrize(("tile", "dtype", "architecture"), tiles_of(resources.WITH_TF32))
def test_steps(tile, dtype, architecture):
    """Each tile compiles. The machine code of its first instance multiplies and accesses memory as it should."""
    kernels = sampled(resources.step_kernels(tile, dtype), architecture)
    assert_steps_compile(kernels, tile, dtype, architecture)
    if REQUIRED or sass.disassembler() is not None:  # without it, the test has still compiled the kernels
        (program,) = listings(kernels[:1], architecture, sass.program)
        assert_multiplies(kernels[0], Counter(each.opcode for each in program), tile, dtype)
        assert not step_code.complaints(program, tile, dtype), kernels[0].name


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("tile", "dtype", "architecture"), tiles_of([each for each in resources.FAMILIES if each != MAIN])
)
def test_all_step_instances_compile(tile, dtype, architecture):
    assert_steps_compile(resources.step_kernels_on(tile, dtype, architecture), tile, dtype, architecture)


def test_blocks_at_once():
    """Registers, shared memory, threads and resident blocks each limit a multiprocessor."""

    def blocks(architecture, threads, **taken):
        few = resources.Resources(registers=16, stack=0, spilled=0, shared=0)
        return resources.blocks_at_once(few._replace(**taken), threads, architecture)

    assert blocks(90, 256, registers=121) == 2
    assert blocks(90, 256, registers=129) == 1
    assert blocks(90, 256, shared=1 << 10, dynamic=55 << 10) == 4
    assert blocks(90, 256, shared=1 << 10, dynamic=56 << 10) == 3
    assert blocks(90, 256, dynamic=227 << 10) == 1
    assert blocks(90, 256, dynamic=(227 << 10) + 1) == 0
    assert [blocks(architecture, 512) for architecture in (80, 86)] == [4, 3]
    assert [blocks(architecture, 32) for architecture in (80, 86, 89)] == [32, 16, 24]


@pytest.mark.nightly
@pytest.mark.parametrize("architecture", resources.FAMILIES)
def test_kernels_of_sequences_compile(architecture):
    kernels = tuple(resources.sequence_kernels_on(architecture))
    each_compiled(kernels, architecture)
    for kernel in kernels:
        assert_compiles(kernel, architecture)


@pytest.mark.sampled
@pytest.mark.parametrize(("tile", "dtype"), of_tiles(resources.TILES_OF_FUNCTIONS))
def test_functions_of_steps(tile, dtype):
    kernels = tuple(resources.functions_kernels(tile, dtype))
    each_compiled(kernels, MAIN)
    for kernel in kernels:
        assert_compiles(kernel, MAIN)


@pytest.mark.sampled
@pytest.mark.parametrize("architecture", resources.FAMILIES)
@pytest.mark.parametrize("dtype", resources.SCAN_DTYPES, ids=str)
def test_scans_compile_without_spills(dtype, architecture):
    """Compile the largest tiles. Weights stay in registers, and a step has the expected instructions."""
    kernels = [each for each in resources.scan_kernels_on(architecture) if each.struct.types["T"] == dtype]
    of_x = [each for each in resources.gates_kernels(architecture) if each.struct.types["T"] == dtype]
    each_compiled((*of_x, *kernels), architecture)
    for kernel in (*of_x, *kernels):
        assert_compiles(kernel, architecture)
    if REQUIRED or sass.disassembler() is not None:
        few = kernels[: 2 * len(resources.SCAN_TILES)]
        for kernel, program in zip(few, listings(few, architecture, sass.program), strict=True):
            assert not scan_code.complaints(program, kernel), kernel.name


def test_steps_need_sm_80():
    """On sm_75, the first primitive's assertion fails."""
    for tile, dtype in resources.TILES:
        step, *_, project = resources.step_kernels(tile, dtype)
        for kernel in (step, project):
            with pytest.raises(RuntimeError, match="static assertion failed with .*needs sm_80"):
                compiled(kernel, 75)


def test_resources_are_compared():
    """The table is for contributors' NVRTC. With another, only local memory is checked."""
    if real_nvrtc.version() != KEPT_NVRTC:
        words = f"resources.json is of NVRTC {KEPT_NVRTC}, this is {real_nvrtc.version()}: no registers compared"
        assert not REQUIRED, words
        pytest.skip(words)


def test_resources_list_every_instance():
    wanted = {name: architectures for name, (_, architectures) in resources.instances().items()}
    assert {name: set(row) for name, row in KEPT.items()} == wanted


def test_more_resources_are_reported():
    name, other = "lstm_clip<float>", "lstm_clip<other>"
    table = {name: {90: resources.Resources(registers=10, stack=0, spilled=0, shared=64)}}

    def complaint(*measured, name=name, architecture=90, **options):
        return resources.complaint(name, architecture, resources.Resources(*measured), table, **options)

    assert complaint(10, 0, 0, 64) is None
    assert complaint(9, 0, 0, 0) is None
    assert complaint(11, 0, 0, 64) == f"{name} for sm_90 takes more registers: 11, and 10 in resources.json"
    assert complaint(10, 0, 0, 65) == f"{name} for sm_90 takes more shared: 65, and 64 in resources.json"
    assert complaint(11, 0, 0, 65, same_nvrtc=False) is None
    for same_nvrtc in (True, False):
        spilled = complaint(10, 0, 4, 64, same_nvrtc=same_nvrtc)
        assert spilled == f"{name} for sm_90 uses local memory: 4 bytes spilled, 0 bytes of stack"
        assert "8 bytes of stack" in complaint(10, 8, 0, 64, same_nvrtc=same_nvrtc)
        assert f"{other} for sm_90 is not in" in complaint(10, 0, 0, 64, name=other, same_nvrtc=same_nvrtc)
        assert "for sm_75 is not in" in complaint(10, 0, 0, 64, architecture=75, same_nvrtc=same_nvrtc)


def test_a_spill_shows_in_the_log_and_the_code(tmp_path, monkeypatch):
    """Ask for so many resident blocks that each thread has too few registers."""
    for file in compiler.sources.folder().iterdir():
        text = file.read_text(encoding="utf-8")
        (tmp_path / file.name).write_text(text.replace("__launch_bounds__(256)", "__launch_bounds__(256, 8)"))
    monkeypatch.setattr(compiler.sources, "folder", lambda: tmp_path)
    kernel = launch.pointwise_kernel(np.dtype("f4"), np.dtype("f4"), 4, resources.PLAIN, True, True, True)
    _, code, measured = resources.compiled(kernel, 90)
    assert measured.spilled
    assert measured.stack
    if sass.disassembler() is not None:
        assert {"LDL", "STL"} <= {name for name, _ in sass.accesses(code)}


def vectors(what, arrays, width):
    """Count the loads or stores of `count` vectors of each dtype, by their bits."""
    accesses = Counter()
    for dtype, count in arrays:
        bits = dtype.itemsize * 8 * width
        accesses[what, min(bits, 128)] += count * max(1, bits // 128)
    return accesses


def of_pointwise(gates, dtype, width, options):
    """Return the kernel, and the loads and stores in its source."""
    c = dtypes.state_dtype(dtype)
    loads = vectors("LDG", [(gates, 8), (dtype, 7 if options else 4), (c, 1)], width)
    if options:
        loads["LDG", 8] += 1  # is_first
    kernel = launch.pointwise_kernel(gates, dtype, width, resources.PLAIN, options, options, options)
    return kernel, loads, vectors("STG", [(dtype, 1), (c, 1)], width)


def of_planned(dtype, width, options):
    """Return the kernel, and the loads and stores in its source.

    It loads gates, c, bias, input, peepholes and a row's slot. It stores c, h and h's copy.
    """
    c = dtypes.state_dtype(dtype)
    loads = vectors("LDG", [(c, 5), (dtype, 8 if options else 5)], width)
    loads["LDG", 32] += 1
    kernel = launch.planned_kernel(dtype, width, resources.PLAIN, options, options)
    return kernel, loads, vectors("STG", [(c, 1), (dtype, 2)], width)


def cases_of_vectors(dtype):
    """Return both widths with all options, and the wider one with none."""
    options = [(1, True), (4, False), (4, True)]
    with_gates = itertools.product(resources.gate_dtypes(dtype), options)
    return [of_pointwise(gates, dtype, *each) for gates, each in with_gates] + [
        of_planned(dtype, *each) for each in options
    ]


def listings(kernels, architecture, listing=sass.accesses):
    """Return the accesses, or the instructions, in each kernel's machine code."""
    if sass.disassembler() is None:
        assert not REQUIRED, "nvdisasm is not installed"
        pytest.skip("machine code can't be read: nvdisasm is not installed")
    codes = [compiled(kernel, architecture)[1] for kernel in kernels]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(listing, codes))


@pytest.mark.sampled
@pytest.mark.parametrize("architecture", [75, 90, 120])
@pytest.mark.parametrize("dtype", resources.DTYPES, ids=str)
def test_memory_moves_in_vectors(architecture, dtype):
    """The machine code has the source's loads and stores, each for all units of a thread, and no others.

    A load may occur more than once, as the compiler copies code for each outcome of a branch.
    """
    cases = cases_of_vectors(dtype)
    found_in = listings([kernel for kernel, _, _ in cases], architecture)
    for (kernel, loads, stores), found in zip(cases, found_in, strict=True):
        assert set(found) == set(loads) | set(stores), kernel.name
        assert all(found[load] >= count for load, count in loads.items()), (kernel.name, found)
        assert {key: count for key, count in found.items() if key[0] == "STG"} == stores, kernel.name


@pytest.mark.parametrize("architecture", [75, 90, 120])
@pytest.mark.parametrize("dtype", resources.DTYPES, ids=str)
def test_a_pools_state_moves_16_bytes_at_a_time(architecture, dtype):
    """States are loaded and stored, or zeroed, 16 bytes at a time. Unrolling doesn't split them."""
    (found,) = listings([slot_kernels.gather_kernel(dtype)], architecture)
    assert found["STG", 128] == 2 * found["LDG", 128] > 0
    x, c = dtype.itemsize * 8, dtypes.state_dtype(dtype).itemsize * 8
    # Other accesses: elements of x and c, two flags, the slot (perhaps only a part of it) and the row's slot.
    wanted = {("LDG", bits) for bits in (8, 64, x, 128)} | {("STG", bits) for bits in (32, x, c, 128)}
    assert wanted <= set(found) <= wanted | {("LDG", 32)}
    assert found["LDG", 8] == 2


@pytest.mark.parametrize("name", ["lstm_clip<float>", "lstm_pointwise<float, float, 4, Functions<>, true, true, true>"])
def test_portable_code_for_gpus_newer_than_nvrtc(name):
    file = "clip.cu" if "clip" in name else "pointwise.cu"
    mangled, code, _ = compiler.compile_kernel(file, name, compiler.architecture("999"))
    assert b".target sm_" in code
    assert mangled.encode() in code


def test_architectures():
    assert compiler.architecture("90") == "-arch=sm_90"
    assert compiler.architecture("999").startswith("-arch=compute_")
    with pytest.raises(RuntimeError, match="a GPU as old as this one, of compute capability 35"):
        compiler.architecture("35")


def test_errors_show_the_compilers_log():
    with pytest.raises(RuntimeError, match=r"clip\.cu: lstm_clip<nonsense> does not compile .*\n.*nonsense"):
        compiler.compile_kernel("clip.cu", "lstm_clip<nonsense>", "-arch=sm_90")
    unknown = "lstm_pointwise<float, float, 1, Functions<Function<12>>, false, false, false>"
    with pytest.raises(RuntimeError, match="unknown function"):
        compiler.compile_kernel("pointwise.cu", unknown, "-arch=sm_90")


def test_compiled_once_and_kept(tmp_path, monkeypatch):
    """The second time comes from the disk. A damaged file or another digest is compiled again."""

    def kept(arch="-arch=sm_90"):
        return compiler.kept_or_compiled("clip.cu", "lstm_clip<float>", arch)

    monkeypatch.setenv("FUSEDLSTM_CACHE_DIR", str(tmp_path / "cache"))
    compiled = []
    real = compiler.compile_kernel
    monkeypatch.setattr(compiler, "compile_kernel", lambda *a: compiled.append(a) or real(*a))
    first = kept()
    code = first[1].read_bytes()
    assert kept() == first
    assert len(compiled) == 1
    for file in (tmp_path / "cache").iterdir():  # the code, and what is known of it
        content = file.read_bytes()
        for damaged in (content[:-1] + b"x", b"", b"{}"):
            file.write_bytes(damaged)
            assert kept() == first
            assert file.read_bytes() == content
    assert len(compiled) == 7
    kept("-arch=sm_80")
    monkeypatch.setattr(compiler.sources, "digest", lambda: "another")
    kept()
    assert len(compiled) == 9
    monkeypatch.setattr(compiler.nvrtc, "getVersion", lambda: (99, 9))
    monkeypatch.setattr(compiler, "compile_kernel", lambda *a: compiled.append(a) or (first[0], code, ""))
    kept()
    assert len(compiled) == 10, "another NVRTC should compile again"


def test_compile_seconds_are_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FUSEDLSTM_CACHE_DIR", str(tmp_path / "cache"))
    with caplog.at_level("INFO", logger="fusedlstm"):
        compiler.kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_90")
    assert re.search(r"compiled lstm_clip<float> for -arch=sm_90 in \d+\.\d\d s", caplog.text)


@pytest.mark.sampled
@pytest.mark.parametrize("architecture", [75, 90, 120])
def test_kernels_of_primitives_compile(architecture):
    """These kernels should run first on a new GPU."""
    file = str(Path(__file__).parent / "primitives.cu")
    for name in (
        *(f"{kernel}<{name}>" for kernel in ("widened", "narrowed") for name in C_NAMES.values()),
        *(f"moved<{name}, 4>" for name in C_NAMES.values()),
        *(f"shared<{name}>" for name in ("float", "double")),
        *(f"activated<{name}, {function_type(each)}>" for name in ("float", "double") for each in FUNCTIONS),
        *(f"fast<{function_type(each)}>" for each in FUNCTIONS),
        *(
            f"{kernel}<float>"
            for kernel in (
                "sigmoids",
                "exponentials",
                "exponentials_minus_1",
                "logs_of_1_plus",
                "magnitudes",
                "clipped",
            )
        ),
        "numbers_of_bits<double>",
        *(
            "exponentials_approx<float>",
            "reciprocals_approx<float>",
            "fast_products<float>",
            "shared_dynamically<float>",
        ),
    ):
        assert compiler.compile_kernel(file, name, f"-arch=sm_{architecture}")[1][:4] == b"\x7fELF"


# Kernels of test_primitives.py that need sm_80 or sm_70, and the instructions in their machine code.
MACHINE_CODE = {
    "multiplied<__half>": {"LDSM.16.M88.4": 2, "HMMA.16816.F32": 1},
    "multiplied<__nv_bfloat16>": {"LDSM.16.M88.4": 2, "HMMA.16816.F32.BF16": 1},
    "multiplied<float>": {"LDSM.16.M88.4": 2, "HMMA.1688.F32.TF32": 1},
    "fragments_multiplied<__half>": {"HMMA.16816.F32": 1},
    "fragments_multiplied<float>": {"HMMA.1688.F32.TF32": 1},
    "matrices<unsigned short>": {"LDSM.16.M88.4": 1},
    "pipelined<float, 0>": {"LDGSTS.E.BYPASS.128": 2, "LDGDEPBAR": 1, "DEPBAR.LE": 1},
    "pipelined<float, 1>": {"LDGSTS.E.BYPASS.128": 4, "LDGDEPBAR": 2, "DEPBAR.LE": 1},
    "pipelined<float, 3>": {"LDGSTS.E.BYPASS.128": 8, "LDGDEPBAR": 4, "DEPBAR.LE": 1},
    "copied_in_part<unsigned char>": {"LDGSTS.E.BYPASS.128.ZFILL": 1, "LDGDEPBAR": 1, "DEPBAR.LE": 1},
    "handed_over<unsigned long long>": {"LD.E.64.STRONG.GPU": 1, "ST.E.64.STRONG.GPU": 1},
    "arrived<unsigned>": {"ATOM.E.INC.STRONG.GPU": 1},
    "rounded_to_tf32<float>": {},
}


@pytest.mark.sampled
@pytest.mark.parametrize("architecture", [a for a in resources.ARCHITECTURES if a >= 80])
def test_primitives_compile_to_their_instructions(architecture):
    """The compiler may unroll an instruction, but not replace it."""
    file = str(Path(__file__).parent / "primitives.cu")
    for name, wanted in MACHINE_CODE.items():
        code = compiler.compile_kernel(file, name, f"-arch=sm_{architecture}")[1]
        assert code[:4] == b"\x7fELF"
        if sass.disassembler() is None:
            assert not REQUIRED, "nvdisasm is not installed"
            continue
        found = sass.instructions(code)
        assert all(found[instruction] >= count for instruction, count in wanted.items()), (name, found)
        kinds = {instruction.split(".")[0] for instruction in wanted}
        ours = {instruction for instruction in found if instruction.split(".")[0] in kinds}
        assert ours == set(wanted), name


SHARED, MATRIX = "SHARED_ARRAY(float, tile, 4);", "float d[4] = {0}; unsigned a[4] = {0}, b[2] = {0};"
REFUSED = {
    "copy_async_16": (f"{SHARED} copy_async_16(tile, in, 16);", "cp.async needs sm_80"),
    "copy_async_commit": ("copy_async_commit();", "cp.async needs sm_80"),
    "copy_async_wait": ("copy_async_wait<1>();", "cp.async needs sm_80"),
    "load_matrix_x4": (f"{SHARED} {MATRIX} load_matrix_x4(a, tile);", "used with mma of sm_80"),
    "mma_m16n8k16<__half>": (f"{MATRIX} mma_m16n8k16<__half>(d, a, b);", "mma.m16n8k16 needs sm_80"),
    "mma_m16n8k16<__nv_bfloat16>": (f"{MATRIX} mma_m16n8k16<__nv_bfloat16>(d, a, b);", "mma.m16n8k16 needs sm_80"),
    "mma_m16n8k8_tf32": (f"{MATRIX} mma_m16n8k8_tf32(d, a, b);", "mma of TF32 needs sm_80"),
    "to_tf32": ("to_tf32(1.0f);", "TF32 needs sm_80"),
    # NVRTC supports no GPU too old for these, so a larger number shows their assertion.
    "load_relaxed": ("load_relaxed<800>(in);", "ld.relaxed needs sm_70"),
    "arrive": ("unsigned counter = 0; arrive<800>(&counter, 2);", "atom.acq_rel needs sm_70"),
    "store_relaxed": ("store_relaxed<800>(in, 1);", "st.relaxed needs sm_70"),
}


def failed_assertions(call, architecture, folder, used=1):
    """Return the messages of assertions that fail in a kernel with this call alone."""
    file = folder / "call.cu"
    head = "template <int USED> __global__ void kernel(unsigned long long* in)"
    file.write_text(f'#include "primitives.cuh"\n{head} {{ if constexpr (USED) {{ {call} }} }}\n')
    try:
        compiler.compile_kernel(str(file), f"kernel<{used}>", f"-arch=sm_{architecture}")
    except RuntimeError as error:
        words = re.findall(r'error: static assertion failed with "(.*)"', str(error))
        if not words:
            raise
        return words
    return []


@pytest.mark.parametrize("primitive", REFUSED)
def test_primitives_are_refused_on_older_gpus(primitive, tmp_path):
    """Each has its own static_assert. The header compiles if the primitive isn't used."""
    call, words = REFUSED[primitive]
    assert failed_assertions(call, 75, tmp_path) == [words]
    assert failed_assertions(call, 75, tmp_path, used=0) == []
    assert failed_assertions(call, 80, tmp_path) == []


def test_products_need_16_bit_types(tmp_path):
    call = f"{MATRIX} mma_m16n8k16<float>(d, a, b);"
    assert failed_assertions(call, 80, tmp_path) == ["mma.m16n8k16 multiplies 16-bit types"]


def test_every_primitive_of_newer_gpus_is_refused():
    header = (compiler.sources.folder() / "primitives.cuh").read_text(encoding="utf-8")
    newer = set(re.findall(r"NEEDED = \d+>\s+DEVICE [^;{(]*?(\w+)\(", header))
    assert newer == {name.partition("<")[0] for name in REFUSED}


def test_blocks_are_within_their_bounds():
    """CUDA refuses launches of more threads than __launch_bounds__. An emulator doesn't check them.

    Tiles have their own bounds. test_kernels_step.py checks that launches use exactly as many threads.
    """
    for file in compiler.sources.folder().glob("*.cu"):
        bounds = re.findall(r"__launch_bounds__\((\d+|Tile::THREADS)", file.read_text())
        assert len(bounds) == file.read_text().count("__global__"), file.name
        assert all(bound == "Tile::THREADS" or int(bound) >= launch.THREADS for bound in bounds), file.name
