"""Every instance of every kernel, compiled for every architecture by NVRTC, as on a machine with a GPU."""

import functools
import itertools
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fusedlstm import dtypes
from fusedlstm.weights import ACTIVATIONS

import sass
import stand_in

try:
    from fusedlstm.backends.cuda import compile as compiler
    from fusedlstm.backends.cuda import launch

    import resources
except ImportError as error:  # neither CuPy nor NVRTC
    if os.environ.get("FUSEDLSTM_REQUIRE_NVRTC") == "1":
        raise
    pytest.skip(f"kernels are not compiled here: {error}", allow_module_level=True)

real_nvrtc = stand_in.real.get("nvrtc", compiler.nvrtc)
if real_nvrtc is stand_in.nvrtc:
    assert os.environ.get("FUSEDLSTM_REQUIRE_NVRTC") != "1", "NVRTC is not installed"
    pytest.skip("kernels are not compiled here: NVRTC is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def _with_real_nvrtc(monkeypatch):
    """Also where the stand-in for CuPy has its place."""
    monkeypatch.setattr(compiler, "nvrtc", real_nvrtc)


# Where a test would be skipped for want of a tool, or of the pinned NVRTC, this machine fails.
REQUIRED = os.environ.get("FUSEDLSTM_REQUIRE_NVRTC") == "1"
KEPT_NVRTC, KEPT = resources.kept()


@functools.cache
def compiled(kernel, architecture):
    return resources.compiled(kernel, architecture)


def assert_compiles(kernel, architecture):
    mangled, code, measured = compiled(kernel, architecture)
    assert code[:4] == b"\x7fELF", kernel.name
    assert mangled.encode() in code, kernel.name
    same_nvrtc = resources.nvrtc_version() == KEPT_NVRTC
    wrong = resources.complaint(kernel.name, architecture, measured, KEPT, same_nvrtc=same_nvrtc)
    assert wrong is None, wrong


@pytest.mark.parametrize("architecture", resources.ARCHITECTURES)
@pytest.mark.parametrize("dtype", resources.DTYPES, ids=str)
def test_pointwise(architecture, dtype):
    """All dtypes, widths and activations, each with all options and with none."""
    for kernel in resources.pointwise_kernels(dtype):
        assert_compiles(kernel, architecture)


@pytest.mark.parametrize("architecture", resources.ARCHITECTURES)
@pytest.mark.parametrize("dtype", resources.DTYPES, ids=str)
def test_planned(architecture, dtype):
    """As of pointwise.cu."""
    for kernel in resources.planned_kernels(dtype):
        assert_compiles(kernel, architecture)


@pytest.mark.parametrize("flags", [*resources.OPTIONS, *resources.PLANNED_OPTIONS])
def test_options(flags):
    """Every set of options, of pointwise.cu and of planned.cu."""
    for kernel in resources.option_kernels(flags):
        assert_compiles(kernel, resources.ARCHITECTURE_OF_OPTIONS)


@pytest.mark.parametrize("architecture", resources.ARCHITECTURES)
def test_kernels_by_dtype(architecture):
    for kernel in resources.kernels_by_dtype():
        assert_compiles(kernel, architecture)


def test_resources_are_compared():
    """The table is of the NVRTC that contributors have; with another, local memory alone is looked for."""
    if resources.nvrtc_version() != KEPT_NVRTC:
        words = f"resources.json is of NVRTC {KEPT_NVRTC}, this is {resources.nvrtc_version()}: no registers compared"
        assert not REQUIRED, words
        pytest.skip(words)


def test_resources_are_of_the_instances_that_there_are():
    wanted = {name: architectures for name, (_, architectures) in resources.instances().items()}
    assert {name: set(row) for name, row in KEPT.items()} == wanted


def test_more_resources_are_complained_of():
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


def test_a_spill_is_seen_in_the_log_and_in_the_code(tmp_path, monkeypatch):
    """Of a kernel of which so many blocks are to be resident that each thread has too few registers."""
    for file in compiler.sources.folder().iterdir():
        text = file.read_text(encoding="utf-8")
        (tmp_path / file.name).write_text(text.replace("__launch_bounds__(256)", "__launch_bounds__(256, 8)"))
    monkeypatch.setattr(compiler.sources, "folder", lambda: tmp_path)
    kernel = launch.pointwise_kernel(np.dtype("f4"), np.dtype("f4"), 4, "tanh", True, True, True)
    _, code, measured = resources.compiled(kernel, 90)
    assert measured.spilled
    assert measured.stack
    if sass.disassembler() is not None:
        assert {"LDL", "STL"} <= {name for name, _ in sass.accesses(code)}


def vectors(what, arrays, width):
    """Loads or stores of so many vectors of each of these dtypes, by their bits."""
    accesses = Counter()
    for dtype, count in arrays:
        bits = dtype.itemsize * 8 * width
        accesses[what, min(bits, 128)] += count * max(1, bits // 128)
    return accesses


def of_pointwise(gates, dtype, width, options):
    """The kernel, and the loads and stores in its source."""
    c = dtypes.state_dtype(dtype)
    loads = vectors("LDG", [(gates, 8), (dtype, 7 if options else 4), (c, 1)], width)
    if options:
        loads["LDG", 8] += 1  # is_first
    kernel = launch.pointwise_kernel(gates, dtype, width, "tanh", options, options, options)
    return kernel, loads, vectors("STG", [(dtype, 1), (c, 1)], width)


def of_planned(dtype, width, options):
    """Of gates and c, of bias, input and peepholes, and of a row's slot; of c, h and the copy."""
    c = dtypes.state_dtype(dtype)
    loads = vectors("LDG", [(c, 5), (dtype, 8 if options else 5)], width)
    loads["LDG", 32] += 1
    kernel = launch.planned_kernel(dtype, width, "tanh", options, options)
    return kernel, loads, vectors("STG", [(c, 1), (dtype, 2)], width)


def cases_of_vectors(dtype):
    """Both widths with all options, and the wider with none."""
    options = [(1, True), (4, False), (4, True)]
    with_gates = itertools.product(resources.gate_dtypes(dtype), options)
    return [of_pointwise(gates, dtype, *each) for gates, each in with_gates] + [
        of_planned(dtype, *each) for each in options
    ]


def listings(kernels, architecture):
    """The accesses in each kernel's machine code."""
    if sass.disassembler() is None:
        assert not REQUIRED, "nvdisasm is not installed"
        pytest.skip("machine code is not read here: nvdisasm is not installed")
    codes = [compiled(kernel, architecture)[1] for kernel in kernels]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(sass.accesses, codes))


@pytest.mark.parametrize("architecture", [75, 90, 120])
@pytest.mark.parametrize("dtype", resources.DTYPES, ids=str)
def test_memory_is_moved_by_vectors(architecture, dtype):
    """The machine code has the source's loads and stores, each of all a thread's units, and no others.

    A load may be there more than once, as the compiler copies code for each outcome of a branch.
    """
    cases = cases_of_vectors(dtype)
    found_in = listings([kernel for kernel, _, _ in cases], architecture)
    for (kernel, loads, stores), found in zip(cases, found_in, strict=True):
        assert set(found) == set(loads) | set(stores), kernel.name
        assert all(found[load] >= count for load, count in loads.items()), (kernel.name, found)
        assert {key: count for key, count in found.items() if key[0] == "STG"} == stores, kernel.name


@pytest.mark.parametrize("architecture", [75, 90, 120])
@pytest.mark.parametrize("dtype", resources.DTYPES, ids=str)
def test_a_pools_state_is_moved_by_16_bytes(architecture, dtype):
    """Loaded and stored, or zeros are; a loop may be unrolled, but into nothing smaller."""
    (found,) = listings([launch.gather_kernel(dtype)], architecture)
    assert found["STG", 128] == 2 * found["LDG", 128] > 0
    x, c = dtype.itemsize * 8, dtypes.state_dtype(dtype).itemsize * 8
    # Beside elements of x and c: two flags, the slot, of which a part may do, and the row's.
    wanted = {("LDG", bits) for bits in (8, 64, x, 128)} | {("STG", bits) for bits in (32, x, c, 128)}
    assert wanted <= set(found) <= wanted | {("LDG", 32)}
    assert found["LDG", 8] == 2


@pytest.mark.parametrize("name", ["lstm_clip<float>", "lstm_pointwise<float, float, 4, 0, true, true, true>"])
def test_portable_code_for_gpus_newer_than_nvrtc(name):
    file = "clip.cu" if "clip" in name else "pointwise.cu"
    mangled, code, _ = compiler.compile_kernel(file, name, compiler.architecture("999"))
    assert b".target sm_" in code
    assert mangled.encode() in code


def test_architectures():
    assert compiler.architecture("90") == "-arch=sm_90"
    assert compiler.architecture("999").startswith("-arch=compute_")
    with pytest.raises(RuntimeError, match="no GPU as old as this, of compute capability 35"):
        compiler.architecture("35")


def test_errors_show_the_compilers_log():
    with pytest.raises(RuntimeError, match=r"clip\.cu: lstm_clip<nonsense> does not compile .*\n.*nonsense"):
        compiler.compile_kernel("clip.cu", "lstm_clip<nonsense>", "-arch=sm_90")
    with pytest.raises(RuntimeError, match="unknown activation"):
        compiler.compile_kernel(
            "pointwise.cu", "lstm_pointwise<float, float, 1, 6, false, false, false>", "-arch=sm_90"
        )


def test_compiled_once_and_kept(tmp_path, monkeypatch):
    """The second time comes from the disk; a damaged file, or another digest, is compiled again."""
    monkeypatch.setenv("FUSEDLSTM_CACHE_DIR", str(tmp_path / "cache"))
    compiled = []
    real = compiler.compile_kernel
    monkeypatch.setattr(compiler, "compile_kernel", lambda *a: compiled.append(a) or real(*a))
    first = compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_90")
    assert compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_90") == first
    assert len(compiled) == 1
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_90") == first
    assert len(compiled) == 2
    compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_80")
    monkeypatch.setattr(compiler.sources, "digest", lambda: "another")
    compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_90")
    assert len(compiled) == 4
    monkeypatch.setattr(compiler.nvrtc, "getVersion", lambda: (99, 9))
    monkeypatch.setattr(compiler, "compile_kernel", lambda *a: compiled.append(a) or (*first, ""))
    compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_90")
    assert len(compiled) == 5, "another NVRTC may compile it better"


def test_compile_seconds_are_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FUSEDLSTM_CACHE_DIR", str(tmp_path / "cache"))
    with caplog.at_level("INFO", logger="fusedlstm"):
        compiler._kept_or_compiled("clip.cu", "lstm_clip<float>", "-arch=sm_90")
    assert re.search(r"compiled lstm_clip<float> for -arch=sm_90 in \d+\.\d\d s", caplog.text)


@pytest.mark.parametrize("architecture", [75, 90, 120])
def test_kernels_of_the_primitives_tests(architecture):
    """Those that a GPU runs first."""
    file = str(Path(__file__).parent / "primitives.cu")
    for name in (
        *(f"{kernel}<{name}>" for kernel in ("widened", "narrowed") for name in launch._C_NAMES.values()),
        *(f"moved<{name}, 4>" for name in launch._C_NAMES.values()),
        *(f"shared<{name}>" for name in ("float", "double")),
        *(f"activated<{name}, {k}>" for name in ("float", "double") for k in range(len(ACTIVATIONS))),
        *(
            f"{kernel}<float>"
            for kernel in ("sigmoids", "exponentials", "exponentials_minus_1", "magnitudes", "clipped")
        ),
    ):
        assert compiler.compile_kernel(file, name, f"-arch=sm_{architecture}")[1][:4] == b"\x7fELF"


def test_blocks_are_within_their_bounds():
    """A launch of more threads than __launch_bounds__ says is refused by CUDA; an emulator does not know it."""
    for file in compiler.sources.folder().glob("*.cu"):
        bounds = [int(number) for number in re.findall(r"__launch_bounds__\((\d+)", file.read_text())]
        assert len(bounds) == file.read_text().count("__global__"), file.name
        assert min(bounds) >= launch._THREADS, file.name
