"""Thousands of random calls of a pool, compared with a dictionary of states that the cell steps."""

import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, StackedWeights

from support.pools import Player

# How far a pool and its model may differ. Their batches have different rows, and differences accumulate in the states.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 6e-2}


def cell_weights(seed, dtype):
    return LSTMWeights.random(5, 7, peephole=True, dtype=dtype, seed=seed)


def projected_weights(seed, dtype):
    return LSTMWeights.random(
        6, 9, proj_size=5, cell_clip=0.5, proj_clip=0.2, bias=False, activation="softsign", dtype=dtype, seed=seed
    )


def stacked_weights(seed, dtype):
    """Return layers of several sizes. The second and the top one are residual."""
    sizes = [(3, 8, 6, seed), (6, 6, None, seed + 100), (6, 9, 5, seed + 200), (5, 7, 5, seed + 300)]
    layers = [LSTMWeights.random(I, N, proj_size=P, dtype=dtype, seed=each) for I, N, P, each in sizes]
    return StackedWeights(layers, residual=[False, True, False, True])


def play(kind, backend, dtype, operations, path, *, exact=False, seed=0, **options):
    """Play random operations on a pool. Pass `exact` if `options` make the cell's bits reproducible."""
    variants = [kind(number, dtype) for number in range(3)]
    owner = (LSTM if kind is stacked_weights else LSTMCell)(variants[0], backend=backend, **options)
    player = Player(owner, variants, path, seed, None if exact else TOLERANCES[dtype])
    player.play(operations)
    assert min(player.done.values()) > operations / 200, "every operation should be drawn"


CASES = [
    (cell_weights, "float32", 10_000),
    (projected_weights, "float64", 1000),
    (projected_weights, "bfloat16", 1000),
    (stacked_weights, "float32", 2000),
    (stacked_weights, "float16", 500),
]


@pytest.mark.sampled
@pytest.mark.parametrize(("kind", "dtype", "operations"), CASES)
def test_random_calls(kind, dtype, operations, backend, tmp_path):
    play(kind, backend, dtype, operations, tmp_path / "pool")


@pytest.mark.parametrize(("kind", "dtype", "operations"), CASES)
def test_random_calls_bit_for_bit(kind, dtype, operations, tmp_path):
    """A pool of a batch-invariant cell gives each row the bits that the cell gives it alone."""
    play(kind, "numpy", dtype, operations, tmp_path / "pool", exact=True, batch_invariant=True)
