"""The parts of a run on a GPU, in their order: what each runs, and how long it may take.

A dry run has the same parts on the tests' fake driver, with less work in them.
"""

import shutil
from dataclasses import replace

from benchmarks.gpu.parts import Part

# Left out, as they need no GPU: tests of kernels' arguments, and those that look into the fake driver.
FIRST = ("tests/cuda/test_primitives.py", "tests/cuda/test_driver_cublaslt.py")
ORDER = ("tests/cuda/test_gpu_order.py",)
TESTS = (
    "tests/core/test_cell.py",
    "tests/core/test_cell_object.py",
    "tests/core/test_oracles.py",
    "tests/core/test_stepper.py",
    "tests/core/test_pool.py",
    "tests/core/test_pool_model.py",
    "tests/core/test_lstm.py",
    "tests/core/test_lstm_oracles.py",
    "tests/core/test_interop.py",
    "tests/core/test_lstm_interop.py",
    "tests/core/test_batch_invariant.py",
    "tests/cuda/test_batch_invariant_gpu.py",
    "tests/core/test_pointwise.py",
    "tests/core/test_zoneout.py",
    "tests/core/test_general.py",
    "tests/core/test_scan.py",
    "tests/cuda/test_stepper_gpu.py",
    "tests/cuda/test_cuda_host.py",
    "tests/cuda/test_repeated_step.py",
    "tests/cuda/test_choice.py",
    "tests/cuda/test_interleaved.py",
    "tests/core/test_replacing.py",
    "tests/core/test_pool_files.py",
    "tests/core/test_pool_errors.py",
    "tests/core/test_reentrance.py",
)
DRY_TESTS = ("tests/core/test_cell_object.py", "tests/core/test_oracles.py")
BENCHMARKS = ("step", "pool", "sequence", "workloads", "load", "state")
_PROCESSES = 8
_TO_END = 10  # seconds
_SLOWER = 8  # times as long in a dry run, whose kernels g++ compiles
_FIRST_OF_ALL = ("-p", "no:cacheprovider", "--tb=short")  # of pytest's options


def parts(*, dry=False, kernels_given=False, have=bool):
    """Return the parts. `have` tells whether a package is installed."""
    made = [
        Part("facts", 40, _module(dry, "benchmarks.gpu.facts", "{KEPT}/facts.json"), needed=True),
        Part("selftest", 45, _module(dry, "fusedlstm", *_SELFTEST, *(_DRY_SELFTEST if dry else ()))),
        _brief("probes", 30, dry),
        _tests("primitives", 45, dry, FIRST, *(("-k", "narrow or algorithm") if dry else ())),
        _brief("kernel_table", 90, dry),
        _sequence_table(50, dry),
        _tests("order", 30, dry, ORDER, *(("-k", "freed or namespace") if dry else ())),
        _tests("tests", 120, dry, DRY_TESTS if dry else TESTS, *_processes(dry, have)),
        *_sanitizers(dry, kernels_given),
        *(_benchmark(name, dry, have) for name in BENCHMARKS),
        Part("profiler", 30, _module(dry, "benchmarks.gpu.profiled", "{KEPT}/profiler.txt"), least=10),
    ]
    return [_slower(part) for part in made] if dry else made


def _slower(part):
    return replace(part, limit=_SLOWER * part.limit, test_seconds=_SLOWER * part.test_seconds)


_SELFTEST = ("selftest", "--backend", "cuda", "--json", "{RESULTS}/selftest.json")
_DRY_SELFTEST = ("--dtype", "float32", "--kernel", "simt")


def _module(dry, name, *arguments):
    fake = ("benchmarks.gpu.on_fake_driver",) if dry else ()
    return ("{PYTHON}", "-m", *fake, name, *arguments)


def _brief(name, limit, dry):
    """Return a part that measures in a child process. It has a dry run of its own, and ends before its limit."""
    seconds = (limit - _TO_END) * (_SLOWER if dry else 1)
    words = (f"benchmarks.{name}", f"{{RESULTS}}/{name}.json", "--seconds", str(seconds))
    return Part(name, limit, (*_module(False, *words), *(("--dry-run",) if dry else ())))


def _sequence_table(limit, dry):
    """Return the part for the table of sequences. Its file is kept in the archive, as results are few files."""
    part = _brief("kernel_table", limit, dry)
    words = [word.replace("{RESULTS}/kernel_table", "{KEPT}/sequence_table") for word in part.command]
    return replace(part, name="sequence_table", command=(*words, "--sequences"))


def _tests(name, limit, dry, files, *options):
    """Return a part that runs tests. They are slow on the fake driver, where `-k` chooses a few."""
    backend = {"FUSEDLSTM_TEST_BACKENDS": "emulated" if dry else "cuda"}
    command = ("{PYTHON}", "-m", "pytest", "-q", "-m", "not nightly", *_FIRST_OF_ALL, *options, *files)
    return Part(name, limit, command, tests=True, variables=backend)


def _processes(dry, have):
    """Return the options for several processes, if xdist is installed."""
    return ("-p", "xdist", "-n", str(2 if dry else _PROCESSES), "--dist", "worksteal") if have("pytest-xdist") else ()


def _sanitizers(dry, kernels_given):
    """Yield a run that compiles kernels, which would take many times as long under a sanitizer, and the sanitizers."""
    program = ("benchmarks.sanitize", *(("--works", "steps", "--dtypes", "bfloat16") if dry else ()))

    def not_compiled():
        return "the kernels were given" if kernels_given else None

    def not_installed():
        return None if shutil.which("compute-sanitizer") else "compute-sanitizer is not installed"

    yield Part("sanitized", 40, _module(dry, *program), why_not=not_compiled)
    for tool, limit, dtypes in (("memcheck", 40, _ALL), ("racecheck", 30, _ALL[:2])):
        words = ("compute-sanitizer", "--tool", tool, "--kernel-name", "kns=lstm_", "--error-exitcode", "9")
        command = (*words, *_module(False, *program, "--dtypes", *dtypes))
        yield Part(tool, limit, command, least=10, why_not=not_installed)


_ALL = ("bfloat16", "float32", "float16", "float64")


def _benchmark(name, dry, have):
    """Return a part that times one file of benchmarks."""
    few = ("-k", _FEW[name], "--benchmark-max-time=0.001", "--benchmark-min-rounds=1") if dry else ()
    options = (*_FIRST_OF_ALL, "-p", "benchmark", "--quick", "--device", "cuda", *few)
    times = f"--benchmark-json={{KEPT}}/times-{name}-{{ATTEMPT}}.json"
    command = _module(dry, "pytest", "-q", *options, times, f"benchmarks/test_{name}.py")

    def not_installed():
        return None if have("pytest-benchmark") else "pytest-benchmark is not installed"

    return Part(f"time_{name}", 45, command, least=10, tests=True, why_not=not_installed)


# The rows of a dry run. Those of `load` start no process, as another process wouldn't have the fake driver.
_FEW = {
    "step": "B1-I128 and fusedlstm",
    "pool": "B256 and fusedlstm",
    "sequence": "B1-I128 and fusedlstm",
    "workloads": "audio and fusedlstm",
    "load": "weights",
    "state": "pack_state",
}
