"""The kernels of a GPU's step: names are checked alike on every backend, and a table chooses one."""

import copy
import pickle
import re
import subprocess
import sys

import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, StackedWeights, StatePool
from fusedlstm.backends import kernel_choice as choice
from fusedlstm.backends import select
from fusedlstm.backends.cuda.runtime import probe

from support.backends import needs_cuda

ALL = "'matmul', 'tensor_large', 'tensor_medium', 'tensor_small', 'simt'"
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
        f"kernel: wanted None or one of {ALL}; got 'tensor'",
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
        "kernel: wanted None or one of 'matmul', 'tensor_large', 'tensor_medium', 'tensor_small' for float16; "
        "got 'simt'. simt multiplies float32 and float64 only",
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
    assert str(caught.value) == message


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
