"""The command compile fills a cache with all that weights need, and nothing else, without a GPU."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from fusedlstm import BackendUnavailableError, LSTMWeights, StackedWeights
from fusedlstm.backends import kernel_choice, select, sequence_choice
from fusedlstm.backends.cuda.runtime import probe
from fusedlstm.backends.uses import Use
from fusedlstm.cli import main as command_line

from support import driver_child, real_nvrtc
from support.backends import needs_cuda
from support.places import ENVIRONMENT

WEIGHTS = {
    "cell": LSTMWeights.random(6, 10, proj_size=6, proj_clip=0.5, seed=0, dtype="float16"),
    "layers": StackedWeights.random(8, 12, 2, zoneout_h=0.1, seed=0),
    "directions": StackedWeights.random(8, 12, bidirectional=True, seed=0),
}
OPTIONS = [
    ("cell", []),
    ("cell", ["--kernel", "tensor_small"]),
    ("cell", ["--batch-invariant", "--dtype", "float64"]),
    ("layers", ["--precision", "high"]),
    ("layers", ["--dtype", "bfloat16", "--kernel", "tensor_medium", "--contiguous"]),
    ("directions", ["--kernel", "simt"]),
]
# Compile on a machine whose GPU nothing may use. Then use the weights in a new process.
COMPILE = """
    import sys
    for name in ("getDevice", "setDevice", "malloc", "getDeviceCount"):
        setattr(runtime, name, None)
    from fusedlstm.cli.main import main
    sys.exit(main(sys.argv[1:] or {arguments!r}))
"""
USE = """
    from pytest import MonkeyPatch
    from fusedlstm import load_weights
    from fusedlstm.backends.cuda.runtime import compile as compiler
    from fusedlstm.cli.arguments import parser
    from fusedlstm.backends.uses import Use
    from support.whole_use import everything, noted
    options = parser().parse_args({arguments!r})
    weights = load_weights(options.weights[0])
    weights = weights if options.dtype is None else weights.astype(options.dtype[0])
    about = options.precision, options.batch_invariant, options.kernel
    real, compiled = compiler.compile_kernel, []
    compiler.compile_kernel = lambda *a: compiled.append(a) or real(*a)
    with noted(MonkeyPatch()) as loaded:
        everything(Use(weights, *about, batches=options.batch, contiguous=options.contiguous))
    print(len(loaded), len(compiled), *compiled)
"""


def compile_(*arguments):
    return command_line.main(["compile", *map(str, arguments)])


@pytest.mark.sampled
@driver_child.of_the_driver
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_use_after_compile_compiles_nothing(name, options, tmp_path):
    """A whole use in another process finds every kernel in the cache, and the cache holds no other."""
    path, cache = tmp_path / "weights", tmp_path / "cache"
    WEIGHTS[name].save(path)
    arguments = ["compile", str(path), "--arch", "90", "--cache", str(cache), "--batch", "5", "--batch", "40", *options]
    done = driver_child.run(COMPILE.format(arguments=arguments))
    assert done.returncode == 0, done.stderr
    count = len(list(cache.glob("*.cubin")))
    assert re.fullmatch(rf"sm_90: {count} kernels compiled, 0 already cached, .*", done.stdout.splitlines()[0])
    used = driver_child.run(USE.format(arguments=arguments), FUSEDLSTM_CACHE_DIR=str(cache))
    assert used.stdout.split() == [str(count), "0"], used.stdout + used.stderr


@driver_child.of_the_driver
def test_selftest_after_compile_compiles_nothing(tmp_path):
    """`compile --self-test` compiles all that selftest needs, as selftest's first line says."""
    cache = str(tmp_path / "cache")
    filled = driver_child.run(COMPILE.format(arguments=["compile", "--self-test", "--arch", "90", "--cache", cache]))
    assert filled.returncode == 0, filled.stderr
    test = ["selftest", "--backend", "cuda", "--seconds", "0.001"]
    program = f"from fusedlstm.cli.main import main\nmain({test!r})"
    done = driver_child.run(program, FUSEDLSTM_CACHE_DIR=cache)
    count = len(list(Path(cache).glob("*.cubin")))
    assert re.match(rf"kernels: 0 compiled, {count} already cached, ", done.stdout), done.stdout


@pytest.mark.sampled
@driver_child.of_the_driver
@pytest.mark.parametrize("kernel", sequence_choice.NAMES)
def test_selftest_loads_what_it_compiles(kernel, monkeypatch, tmp_path, capsys):
    from fusedlstm.backends.cuda.instances import instances
    from fusedlstm.selftest.checks import checks_on
    from fusedlstm.selftest.needs import uses_of

    from support.whole_use import noted

    name = "float16" if kernel != "simt" else "float64"
    uses = uses_of(checks_on("cuda:0", (name,), (kernel,)))
    listed = {(each.file, each.name) for use in uses for each in instances(use, 90)}
    with noted(monkeypatch) as loaded:
        assert command_line.main(["selftest", "--dtype", name, "--kernel", kernel]) == 0
    assert (loaded - listed, listed - loaded) == (set(), set())


@pytest.fixture
def with_real_nvrtc():
    if real_nvrtc.missing():
        pytest.skip(real_nvrtc.missing())


REAL = [sys.executable, "-m", "fusedlstm"]


def run_really(*arguments):
    """Run the command in a process of its own, where NVRTC is the real one and there may be no GPU."""
    return subprocess.run([*REAL, *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("with_real_nvrtc")
def test_real_nvrtc_compiles_without_a_gpu(tmp_path):
    """Code for each architecture is machine code. The second time, all is there."""
    path, cache = tmp_path / "weights", tmp_path / "cache"
    LSTMWeights.random(8, 12, seed=0).save(path)
    arguments = ("compile", path, "--arch", "80", "--arch", "90", "--cache", cache, "--batch", "1", "--contiguous")
    first, second = run_really(*arguments), run_really(*arguments)
    assert first.returncode == second.returncode == 0, first.stderr
    kept = [file.read_bytes() for file in cache.glob("*.cubin")]
    assert all(content.startswith(b"\x7fELF") for content in kept)
    each = len(kept) // 2
    lines = first.stdout.splitlines()
    assert [line.partition(",")[0] for line in lines[:2]] == [f"sm_{a}: {each} kernels compiled" for a in (80, 90)]
    assert lines[2].startswith(f"{cache} serves NVRTC {real_nvrtc.version()}: ")
    assert [line.split(", ")[:2] for line in second.stdout.splitlines()[:2]] == [
        [f"sm_{a}: 0 kernels compiled", f"{each} already cached"] for a in (80, 90)
    ]


def test_rows_are_on_each_side_of_every_bound():
    """Every number of rows at which a choice changes is in instances.ROWS, and so is the next number."""
    instances = pytest.importorskip("fusedlstm.backends.cuda.instances")
    from fusedlstm.backends.cuda import scan_tiles, tiles

    bounds = {most for table in kernel_choice._TABLE.values() for most, _ in table} - {kernel_choice._MORE}
    bounds |= {rows for _, rows in sequence_choice._ROWS}
    bounds |= {rows for _, rows in scan_tiles._MEDIUM_ROWS}
    bounds |= {scan_tiles._ENOUGH_BLOCKS * rows for rows in scan_tiles._ROWS}
    bounds |= {tiles._FEW_TENSOR, tiles._FEW_SIMT, tiles._MORE_SIMT, 64, kernel_choice.ROWS_OF_A_POOL}
    bounds |= {tile.rows * tiles._ENOUGH_BLOCKS for tile in tiles.ALL}
    assert {bound for bound in bounds if not {bound, bound + 1} <= set(instances.ROWS)} == set()


@needs_cuda
def test_python_compiles_uses_and_instances(tmp_path, monkeypatch):
    """Programs may list uses of weights, or any instances by file and name."""
    from fusedlstm.backends.cuda import prefill

    folder = tmp_path / "cache"
    use = Use(LSTMWeights.random(8, 12, seed=0), batches=(1,), objects=("cell",), contiguous=True)
    filled = prefill.compile_uses([use, use], 90, folder=str(folder))
    assert (filled.arch, filled.compiled, filled.there, filled.folder) == ("sm_90", 2, 0, folder)
    monkeypatch.setenv("FUSEDLSTM_CACHE_DIR", str(folder))
    named = types.SimpleNamespace(file="clip.cu", name="lstm_clip<float>")
    assert prefill.fill([named], 90, jobs=1).compiled == 1
    assert len(list(folder.glob("*.cubin"))) == 3


# Errors.


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights"
    WEIGHTS["cell"].save(path)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kernel", "simt"], "kernel: wanted None or one of 'matmul', 'tensor_large', "),
        (
            ["--kernel", "tensor_large", "--arch", "75"],
            "kernel 'tensor_large' can't run there: steps in one kernel need",
        ),
        (["--cache", "weights/in/a/file"], "weights/in/a/file can't be used: Not a directory"),
    ],
)
@needs_cuda
def test_wrong_options_are_one_line(options, message, weights, capsys, monkeypatch):
    monkeypatch.chdir(weights.parent)
    arch = [] if "--arch" in options else ["--arch", "90"]
    assert compile_(weights, *arch, *options) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"fusedlstm: {message}")
    assert said.err.count("\n") == 1


def test_missing_weights_are_named(capsys):
    assert compile_("absent", "--arch", "90") == 1
    assert capsys.readouterr().err == "fusedlstm: [Errno 2] No such file or directory: 'absent'\n"


def test_nothing_to_compile_is_reported(capsys):
    assert compile_("--arch", "90") == 1
    assert capsys.readouterr().err == "fusedlstm: WEIGHTS: wanted at least one file, or --self-test; got none\n"


@pytest.mark.parametrize("words", ["", "--arch 9.0", "--arch sm_90", "--arch 90 --jobs 0", "--arch 90 --batch x"])
def test_wrong_usage_exits_with_2(words, weights, capsys):
    with pytest.raises(SystemExit) as ended:
        compile_(weights, *words.split())
    assert ended.value.code == 2
    assert "usage: fusedlstm compile" in capsys.readouterr().err


def test_missing_nvrtc_is_reported(weights, capsys, monkeypatch):
    monkeypatch.setattr(probe, "why_not_compile", lambda: "NVRTC is away")
    assert compile_(weights, "--arch", "90") == 1
    assert capsys.readouterr().err == "fusedlstm: kernels can't be compiled here: NVRTC is away\n"
    with pytest.raises(BackendUnavailableError):
        select.compile_uses([], 90)


@needs_cuda
def test_compiler_errors_are_counted(weights, capsys, monkeypatch, tmp_path):
    """Other kernels are compiled and kept."""
    from fusedlstm.backends.cuda.runtime import compile as compiler

    real = compiler.compile_kernel

    def fails(file, *about):
        if file == "interleave.cu":
            raise RuntimeError(f"{file} does not compile:\nplanted")
        return real(file, *about)

    monkeypatch.setattr(compiler, "compile_kernel", fails)
    cache = tmp_path / "cache"
    assert compile_(weights, "--arch", "90", "--cache", cache, "--batch", "1", "--contiguous") == 1
    said = capsys.readouterr()
    assert said.err == "fusedlstm: 2 kernels don't compile. The first: interleave.cu does not compile: planted\n"
    assert f"{len(list(cache.glob('*.cubin')))} kernels compiled" in said.out


@needs_cuda
def test_full_disk_is_reported(weights, capsys, monkeypatch, tmp_path):
    from fusedlstm.backends.cuda.runtime import cache

    monkeypatch.setattr(cache, "write", lambda name, content: tmp_path / name)
    (tmp_path / "cache").mkdir(mode=0o700)
    assert compile_(weights, "--arch", "90", "--cache", tmp_path / "cache") == 1
    assert "compiled kernels can't be written there" in capsys.readouterr().err


@needs_cuda
def test_cache_variable_is_restored(weights, monkeypatch, tmp_path):
    for before in ("elsewhere", None):
        if before is None:
            monkeypatch.delenv("FUSEDLSTM_CACHE_DIR")
        else:
            monkeypatch.setenv("FUSEDLSTM_CACHE_DIR", before)
        assert compile_(weights, "--arch", "90", "--cache", tmp_path / "cache", "--batch", "1") == 0
        assert os.environ.get("FUSEDLSTM_CACHE_DIR") == before
