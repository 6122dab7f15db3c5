"""The kernels that a use of weights is expected to load are those that it loads."""

import pytest

from fusedlstm import LSTMWeights, StackedWeights
from fusedlstm.backends.uses import Use

from support.cells import functions_of
from support.driver_child import of_the_driver
from support.whole_use import everything, noted

pytestmark = of_the_driver

EVERY_OPTION = {"peephole": True, "cell_clip": 0.5, "proj_size": 6, "proj_clip": 0.3}
WEIGHTS = {
    "aligned": (LSTMWeights, (24, 32), {}),
    "odd": (LSTMWeights, (5, 7), {"peephole": True}),
    "pairs": (LSTMWeights, (6, 10), {"cell_clip": 0.5}),
    "projection": (LSTMWeights, (24, 40), EVERY_OPTION),
    "narrow projection": (LSTMWeights, (8, 8), {"proj_size": 6}),
    "odd projection": (LSTMWeights, (8, 8), {"proj_size": 3}),
    "functions": (LSTMWeights, (8, 12), functions_of(2)),
    "zoneout": (LSTMWeights, (8, 12), {"zoneout_h": 0.2}),
    "zoneout of a projection": (LSTMWeights, (8, 40), {"zoneout_h": 0.2, **EVERY_OPTION}),
    "layers": (StackedWeights, (8, 12, 2), {}),
    "residual layers": (StackedWeights, (12, 12, 2), {"residual": True}),
    "layers with projections": (StackedWeights, (8, 40, 2), EVERY_OPTION),
    "both directions": (StackedWeights, (8, 12, 2), {"bidirectional": True}),
}
KERNELS = [
    *(("float64", None), ("float32", "simt"), ("float16", "tensor_small"), ("bfloat16", None)),
    *(("float16", "tensor_medium"), ("bfloat16", "tensor_large"), ("float16", "matmul")),
]


def weights_of(name, dtype):
    kind, sizes, options = WEIGHTS[name]
    return kind.random(*sizes, seed=0, dtype=dtype, **options)


def compared(use, monkeypatch):
    """Return the kernels that are only loaded, and those that are only listed."""
    from fusedlstm.backends.cuda.instances import instances

    listed = {(kernel.file, kernel.name) for kernel in instances(use, 90)}
    with noted(monkeypatch) as loaded:
        everything(use)
    return loaded - listed, listed - loaded


# Each form of weights with one kernel, and each kernel with about two forms. The others run at night.
CASES = [
    pytest.param(name, *kernel, marks=[pytest.mark.nightly] * ((row + column) % len(KERNELS) > 0))
    for row, name in enumerate(WEIGHTS)
    for column, kernel in enumerate(KERNELS)
]


@pytest.mark.sampled
@pytest.mark.parametrize(("name", "dtype", "kernel"), CASES)
def test_listed_instances_are_loaded(name, dtype, kernel, monkeypatch):
    use = Use(weights_of(name, dtype), kernel=kernel, batches=(5, 40))
    assert compared(use, monkeypatch) == (set(), set())


@pytest.mark.parametrize(
    "name", ["aligned", pytest.param("zoneout", marks=pytest.mark.nightly), "both directions", "narrow projection"]
)
def test_listed_instances_of_scans(name, monkeypatch):
    """Few rows and many are in other tiles. Single steps have the table's kernels."""
    dtype, precision = ("float32", "high") if name == "aligned" else ("bfloat16", "highest")
    use = Use(
        weights_of(name, dtype), precision, kernel="scan", batches=(5, 1100), objects=("sequence",), contiguous=True
    )
    assert compared(use, monkeypatch) == (set(), set())


def test_scans_are_listed_where_they_run():
    from fusedlstm.backends.cuda.instances import instances

    wide = Use(LSTMWeights.random(8, 97, seed=0), "high", kernel="scan", objects=("sequence",))
    assert any(kernel.file == "scan.cu" for kernel in instances(wide, 90))
    with pytest.raises(ValueError, match="^kernel 'scan' can't run there: with TF32, scan has at most 96 units"):
        instances(wide, 86)
