"""The kernels of a GPU's steps: names are checked alike on every backend, and tables choose one."""

import copy
import itertools
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, StackedWeights, StatePool
from fusedlstm.backends import kernel_choice as choice
from fusedlstm.backends import select, sequence_choice
from fusedlstm.backends.cuda.runtime import probe
from fusedlstm.backends.cuda.scan_tiles import LAST, scan_tile
from fusedlstm.backends.measured import Measured

from support.backends import needs_cuda

TENSOR_ONLY = 'multiplies float16, bfloat16, and float32 with precision="high" only'

# The dtype, the options, the error and its whole message.
BAD = {
    "an int": (
        "float32",
        {"kernel": 3},
        TypeError,
        "kernel: wanted a str or None; got int",
    ),
    "an unknown name": (
        "float32",
        {"kernel": "tensor"},
        ValueError,
        "kernel: wanted None or one of 'matmul', 'tensor_large', 'tensor_medium', 'tensor_small', 'simt'; got 'tensor'",
    ),
    "tensor cores for IEEE float32": (
        "float32",
        {"kernel": "tensor_large"},
        ValueError,
        "kernel: wanted None or one of 'matmul', 'simt' for float32, precision=\"highest\"; got 'tensor_large'. "
        f"tensor_large {TENSOR_ONLY}",
    ),
    "tensor cores for float64": (
        "float64",
        {"kernel": "tensor_small", "precision": "high"},
        ValueError,
        f"kernel: wanted None or one of 'matmul', 'simt' for float64; got 'tensor_small'. tensor_small {TENSOR_ONLY}",
    ),
    "fma for 16 bits": (
        "float16",
        {"kernel": "simt"},
        ValueError,
        "kernel: wanted None or one of 'matmul', 'tensor_large', 'tensor_medium', 'tensor_small'{scan} for float16; "
        "got 'simt'. simt multiplies float32 and float64 only",
    ),
}
# The sizes and options of weights, the dtype, the options, and the last words of the message.
NO_SCANS = {
    "IEEE float32": ((3, 4), {}, "float32", {}, f"scan {TENSOR_ONLY}"),
    "float64": ((3, 4), {}, "float64", {"precision": "high"}, f"scan {TENSOR_ONLY}"),
    "many units": ((3, 129), {}, "float16", {}, "scan has at most 128 units, and a layer has 129 (layers[0])"),
    "a TF32 projection": (
        (3, 4),
        {"proj_size": 4},
        "float32",
        {"precision": "high"},
        "with TF32, scan has no projection (layers[0])",
    ),
    "many columns": (
        (3, 4),
        {"proj_size": 5},
        "float16",
        {},
        "scan projects N units to at most N columns, but a layer projects 4 to 5 (layers[0])",
    ),
    "batch invariance": (
        *((3, 4), {}, "float16", {"batch_invariant": True}),
        "Batch-invariant steps always use this kernel, which sums every row in the same order",
    ),
}
BAD_INVARIANT = {
    "cuBLAS": ("float32", "highest", "matmul", "'simt' with batch_invariant=True for float32, precision=\"highest\""),
    "fma at TF32": ("float32", "high", "simt", "'tensor_medium' with batch_invariant=True for float32"),
    "large tiles": ("float16", "highest", "tensor_large", "'tensor_medium' with batch_invariant=True for float16"),
}


def make(kind, backend, dtype="float32", **options):
    return kind(LSTMWeights.random(3, 4, dtype=dtype, seed=0), backend=backend, **options)


@pytest.mark.parametrize("kind", [LSTMCell, LSTM])
@pytest.mark.parametrize("name", BAD)
def test_bad_kernels(name, kind, backend):
    dtype, options, error, message = BAD[name]
    with pytest.raises(error) as caught:
        make(kind, backend, dtype, **options)
    scans = kind is LSTM and dtype == "float16"
    assert str(caught.value) == message.format(scan=", 'scan'" * scans)


@pytest.mark.parametrize("name", NO_SCANS)
def test_layers_that_cannot_scan(name, backend):
    sizes, options, dtype, more, words = NO_SCANS[name]
    weights = StackedWeights.random(*sizes, num_layers=2, seed=0, dtype=dtype, **options)
    with pytest.raises(ValueError, match="^kernel: wanted None or") as caught:
        LSTM(weights, backend=backend, kernel="scan", **more)
    assert f"; got 'scan'. {words}" in str(caught.value)


def test_cells_cannot_scan(backend):
    wanted = (
        "kernel: wanted None or one of 'matmul', 'tensor_large', 'tensor_medium', 'tensor_small' for float16; "
        "got 'scan'. scan runs whole sequences, so only an LSTM can use it"
    )
    with pytest.raises(ValueError) as caught:
        make(LSTMCell, backend, "float16", kernel="scan")
    assert str(caught.value) == wanted


def test_lstms_name_their_kernels(backend):
    """A forced scan is for sequences. Steppers, pools and steps have the kernel that they have without a name."""
    on_cpu, weights = backend == "numpy", StackedWeights.random(3, 4, num_layers=2, seed=0, dtype="float16")
    for options, wanted in (({"kernel": "scan"}, "scan"), ({}, "scan"), ({"batch_invariant": True}, "tensor_medium")):
        lstm = LSTM(weights, backend=backend, **options)
        names = ("numpy" if on_cpu else wanted,) * 2
        assert lstm.kernels(4, 1) == lstm.kernels(100, 5) == lstm.sequencer(3, 5).kernels == names
        of_steps = LSTM(weights, backend=backend, **({} if "kernel" in options else options))
        assert lstm.stepper(5).kernels == of_steps.stepper(5).kernels != ("scan",) * 2
        assert StatePool(lstm, 8).kernels(5) == StatePool(of_steps, 8).kernels(5)
    for name in ("tensor_small", "matmul"):
        assert LSTM(weights, backend=backend, kernel=name).kernels(9, 5) == (("numpy" if on_cpu else name),) * 2
    for sizes, error in (((0, 1), ValueError), ((1, 0), ValueError), ((1.0, 1), TypeError), ((1, None), TypeError)):
        with pytest.raises(error, match="^(steps|batch): wanted"):
            lstm.kernels(*sizes)


def test_few_steps_are_single_steps(backend):
    """A scan takes at least three steps at once: in a Sequencer's graph, or a chunk of a call."""
    names = ("numpy",) * 3 if backend == "numpy" else ("scan", "tensor_medium", "matmul")
    weights = LSTMWeights.random(3, 4, seed=0, dtype="float16")
    for kernel in (None, "scan"):
        lstm = LSTM(weights, backend=backend, kernel=kernel)
        assert lstm.kernels(1, 5) == lstm.kernels(2, 5) == lstm.kernels(3, 5) == names[1:2]
        assert lstm.sequencer(1, 5).kernels == lstm.sequencer(2, 5).kernels == names[1:2]
        assert lstm.kernels(4, 5) == lstm.kernels(69, 5) == lstm.sequencer(3, 5).kernels == names[:1]
    assert LSTM(weights, backend=backend, kernel="matmul").kernels(1, 5) == names[2:]


def choose(
    B,
    I,
    N,
    dtype="bfloat16",
    capability=90,
    *,
    steps=3,
    precision="high",
    projects=False,
    forced=None,
    scans=True,
    can_plan=True,
    measured=None,
):
    about = dtype, precision, capability
    options = {"projects": projects, "forced": forced, "scans": scans, "can_plan": can_plan, "measured": measured}
    return sequence_choice.choose(steps, B, (I, N, N), *about, **options)


@pytest.mark.parametrize(
    ("scans", "others"),
    [
        ({"B": 4096, "N": 64}, {"B": 4097, "N": 64}),
        ({"B": 2048, "N": 128}, {"B": 2049, "N": 65}),
        ({"N": 128}, {"N": 129}),
        ({"B": 1024, "I": 4096}, {"B": 1024, "I": 4097}),
        ({"B": 512, "I": 2048, "dtype": "float32"}, {"B": 513, "I": 2048, "dtype": "float32"}),
        ({"N": 96, "dtype": "float32", "capability": 86}, {"N": 97, "dtype": "float32", "capability": 86}),
        ({"N": 128, "dtype": "float32", "capability": 90}, {"dtype": "float32", "precision": "highest"}),
        ({"dtype": "float16", "capability": 120}, {"dtype": "float64"}),
        ({"capability": 80}, {"capability": 75}),
        ({"forced": "scan", "B": 1 << 20}, {"forced": "tensor_small"}),
        ({}, {"scans": False}),
        ({"forced": "scan"}, {"forced": "scan", "scans": False}),
        ({"projects": True}, {"projects": True, "dtype": "float32"}),
    ],
)
def test_which_sequences_scan(scans, others):
    """Others have the kernel of single steps."""
    usual = {"B": 1, "I": 8, "N": 8}
    assert choose(**usual | scans) == "scan"
    asked = {"dtype": "bfloat16", "precision": "high", "capability": 90, "forced": None, **usual, **others}
    B, I, N, dtype, precision = (asked[name] for name in ("B", "I", "N", "dtype", "precision"))
    wanted = choice.choose(
        B, I, N, N, dtype, precision, asked["capability"], forced=sequence_choice.of_steps(asked["forced"])
    )
    assert choose(**usual | others) == wanted != "scan"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, "scan"),
        ({"steps": 2}, "tensor_medium"),
        ({"B": 9}, "scan"),  # by the table
        ({"B": 9, "scans": False}, "tensor_large"),  # by the times of single steps
        ({"scans": False}, "matmul"),
        ({"scans": False, "can_plan": False}, "tensor_small"),
        ({"forced": "scan", "scans": False}, "matmul"),
        ({"forced": "tensor_large"}, "tensor_large"),
        ({"N": 129}, "matmul"),
        ({"dtype": "float32", "projects": True}, "matmul"),
        ({"dtype": "float32", "N": 97}, "scan"),
        ({"dtype": "float32", "N": 97, "capability": 86}, "matmul"),
        ({"dtype": "float32", "N": 97, "capability": 86, "can_plan": False}, "tensor_small"),
        ({"capability": 75}, "matmul"),
    ],
)
def test_the_fastest_that_can_run(options, wanted):
    """Times of kernels that can't run with these options, or on this GPU, don't count."""
    of_sequences = {8: {"scan": 1e-6, "matmul": 2e-6, "tensor_small": 3e-6}}
    times = Measured({99: {"tensor_large": 1e-6}}, "now", of_sequences)
    usual = {"B": 8, "I": 8, "N": 8, "measured": times}
    assert choose(**usual | options) == wanted


def test_old_gpus_use_matmul_for_sequences():
    times = Measured({}, "now", {8: {"tensor_small": 1e-6, "scan": 2e-6, "matmul": 3e-6}})
    assert choose(8, 8, 8, capability=75, measured=times) == "matmul"
    assert choose(8, 8, 8, capability=80, measured=times) == "tensor_small"


@pytest.mark.parametrize("capability", [80, 86, 87, 89, 90, 100, 103, 110, 120])
def test_scans_fit_into_shared_memory(capability):
    """Wherever a scan is allowed, a block of few rows fits, with flags or without."""
    for dtype, N in itertools.product(("float16", "float32"), (1, 32, 33, 96, 97, 128)):
        if sequence_choice.reason_against_device(N, dtype, "high", capability) is None:
            assert {scan_tile(B, N, np.dtype(dtype), capability, flags=LAST).rows for B in (1, 9999)} <= {8, 16, 32, 64}


@needs_cuda
def test_scans_are_refused_on_a_small_gpu(monkeypatch):
    from fusedlstm.backends.cuda.backend import CudaBackend

    weights = LSTMWeights.random(3, 97, seed=0)
    for capability, words in ((75, "steps in one kernel need .*"), (86, "with TF32, scan has at most 96 units .* 97")):
        monkeypatch.setattr(CudaBackend, "_capability", capability)
        with pytest.raises(RuntimeError, match=rf"^kernel='scan' can't run on cuda:0: {words}$"):
            LSTM(weights, backend="cuda", precision="high", kernel="scan")


@pytest.mark.parametrize("name", BAD_INVARIANT)
def test_invariance_needs_its_kernel(name):
    dtype, precision, kernel, wanted = BAD_INVARIANT[name]
    with pytest.raises(ValueError, match=re.escape(f"kernel: wanted None or {wanted}")) as caught:
        make(LSTMCell, "numpy", dtype, precision=precision, kernel=kernel, batch_invariant=True)
    assert f"; got {kernel!r}. Batch-invariant steps always use this kernel" in str(caught.value)
    make(LSTMCell, "numpy", dtype, precision=precision, batch_invariant=True)
    only = choice.invariant(dtype, precision)
    assert choice.check(only, dtype, precision, batch_invariant=True) is None
    make(LSTM, "numpy", dtype, precision=precision, kernel=only, batch_invariant=True)


@pytest.mark.parametrize(
    ("dtype", "precision", "fitting"),
    [
        ("float64", "highest", {"matmul", "simt"}),
        ("float64", "high", {"matmul", "simt"}),
        ("float32", "highest", {"matmul", "simt"}),
        ("float32", "high", set(choice.NAMES)),
        ("float16", "highest", {*choice.NAMES} - {"simt"}),
        ("bfloat16", "high", {*choice.NAMES} - {"simt"}),
    ],
)
def test_dtypes_of_each_kernel(dtype, precision, fitting):
    assert {name for name in choice.NAMES if choice.reason_against(name, dtype, precision) is None} == fitting
    assert choice.arithmetic(dtype, precision) == ("tf32" if (dtype, precision) == ("float32", "high") else dtype)
    assert choice.invariant(dtype, precision) == ("tensor_medium" if "tensor_medium" in fitting else "simt")


@pytest.mark.parametrize("kind", [LSTMCell, LSTM])
def test_copies_and_repr_keep_the_kernel(kind, backend):
    one = make(kind, backend, kernel="simt")
    assert repr(one) == repr(make(kind, backend))[:-1] + ", kernel='simt')"
    for twin in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert (repr(twin), twin._options) == (repr(one), one._options)
        assert backend == "numpy" or [engine.kernel for engine in twin._engines] == ["simt"]
    assert "kernel" not in repr(make(kind, backend))
    assert backend == "numpy" or [engine.kernel for engine in make(kind, backend)._engines] == [None]


def test_steppers_and_pools_name_their_kernels(backend):
    lstm = LSTM(StackedWeights.random(3, 4, num_layers=2, seed=0), backend=backend, kernel="matmul")
    wanted = ("numpy" if backend == "numpy" else "matmul",) * 2
    assert lstm.stepper(5).kernels == wanted
    pool = StatePool(lstm, 8)
    assert pool.kernels(1) == pool.kernels(8) == wanted
    for batch, error in ((0, ValueError), (1.0, TypeError)):
        with pytest.raises(error, match="batch: wanted"):
            pool.kernels(batch)


def test_old_gpus_cannot_step_in_one_kernel():
    assert choice.reason_against_device(80) is None
    assert choice.reason_against_device(120) is None
    wanted = "steps in one kernel need compute capability 8.0, and this GPU has 7.5"
    assert choice.reason_against_device(75) == wanted


@needs_cuda
def test_one_kernel_is_refused_on_an_old_gpu(monkeypatch):
    from fusedlstm.backends.cuda.backend import CudaBackend

    monkeypatch.setattr(CudaBackend, "_capability", 75)
    message = r"^kernel='simt' can't run on cuda:0: steps in one kernel need compute capability 8\.0, .* has 7\.5$"
    for kind in (LSTMCell, LSTM):
        with pytest.raises(RuntimeError, match=message):
            make(kind, "cuda", kernel="simt")
        make(kind, "cuda", kernel="matmul")
        make(kind, "cuda")


@needs_cuda
def test_info_says_how_each_gpu_steps(monkeypatch):
    monkeypatch.setattr(select, "unavailable_reason", lambda name: None)
    monkeypatch.setattr(probe, "describe_gpus", lambda: ["New", "Old"])
    monkeypatch.setattr(probe, "capabilities", lambda: [90, 75])
    rows = select.facts()
    assert rows[:2] == [("backend numpy", "runs"), ("backend cuda", "runs")]
    assert rows[3:-1] == [
        ("GPU 0", "New"),
        ("", "steps: the kernel is chosen by a table of predictions"),
        ("GPU 1", "Old"),
        ("", "steps: matmul and pointwise, as compute capability 7.5 is older than 8.0"),
    ]


@needs_cuda
def test_capabilities_of_gpus():
    found = probe.capabilities()
    assert found
    assert all(isinstance(capability, int) and capability >= 75 for capability in found)


def test_kernel_choice_imports_no_cupy():
    code = "import sys; import fusedlstm.backends.kernel_choice; assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_table_covers_every_size():
    """Bounds of rows and columns increase, up to an unlimited one. Kernels fit the arithmetic."""
    for kind, rows in choice._TABLE.items():
        dtype, precision = ("float32", "high") if kind == "tf32" else (kind, "highest")
        batches = [most for most, _ in rows]
        assert batches == sorted(set(batches))
        for _, columns in rows:
            sizes = [most for most, _ in columns]
            assert sizes == sorted(set(sizes))
            assert {choice.reason_against(kernel, dtype, precision) for _, kernel in columns} == {None}
        for B in (1, 33, 10**6):
            for I, N, P in ((0, 1, None), (8, 64, 16), (10_000, 20_000, None)):
                assert choice.choose(B, I, N, P, dtype, precision, 80) in choice.NAMES


def test_chosen_kernels():
    bf16, f32 = ("bfloat16", "highest"), ("float32", "highest")
    assert choice.choose(1, 128, 128, None, *bf16, 90) == "tensor_small"
    assert choice.choose(16384, 256, 256, 256, *bf16, 90) == "tensor_large"
    assert choice.choose(16384, 1024, 1024, None, *bf16, 90) == "matmul"
    assert choice.choose(1, 128, 128, None, *f32, 90) == "matmul"
    # The first has products of the size of N = I = 229, whose kernel at this batch differs from that of N = 512.
    assert [choice.choose(256, 23, N, P, *bf16, 90) for N, P in ((512, 182), (512, None))] == [
        "tensor_small",
        "tensor_medium",
    ]


@pytest.mark.parametrize(("capability", "wanted"), [(80, "large"), (90, "large"), (86, "medium"), (120, "medium")])
def test_medium_tiles_replace_lone_large_ones(capability, wanted):
    """A multiprocessor with 100 KiB of shared memory has room for only one block of large tiles."""
    bf16, size = ("bfloat16", "highest"), (256, 256, None)
    assert choice.choose(16384, *size, *bf16, capability) == f"tensor_{wanted}"
    assert choice.one_kernel_layers(16384, ((4096, 4096, None), size), *bf16, capability) == (f"tensor_{wanted}",) * 2
    assert choice.choose(16384, *size, *bf16, capability, forced="tensor_large") == "tensor_large"


def test_old_gpus_and_forced_kernels():
    bf16, f32 = ("bfloat16", "highest"), ("float32", "highest")
    assert choice.choose(1, 128, 128, None, *bf16, 75) == "matmul"
    for B in (1, 100_000):
        assert choice.choose(B, 128, 128, None, *f32, 90, forced="simt") == "simt"
        assert choice.choose(B, 128, 128, None, *bf16, 90, forced="matmul") == "matmul"


def test_all_layers_use_matmul_if_one_does():
    bf16 = ("bfloat16", "highest")
    one_kernel, matmul = (128, 128, None), (2048, 2048, None)
    assert choice.choose_layers(1, [one_kernel], *bf16, 90) == ("tensor_small",)
    assert choice.choose_layers(256, [one_kernel, (512, 512, None)], *bf16, 90) == (
        "tensor_small",
        "tensor_medium",
    )
    assert choice.choose_layers(256, [one_kernel, matmul], *bf16, 90) == ("matmul", "matmul")
    assert choice.choose_layers(256, [one_kernel, matmul], *bf16, 90, forced="tensor_large") == ("tensor_large",) * 2
