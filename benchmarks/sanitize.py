"""Steps and sequences on the GPU for a sanitizer: each dtype, without options and with many, at edges of blocks.

CuPy's memory pool hides overruns from sanitizers, so each array here is an allocation of its own.
"""

import cupy
import numpy as np

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights

SIZES = ((1, 1, 1), (3, 5, 7), (5, 8, 128), (2, 3, 513), (257, 4, 12))


def sequences(dtype, rng):
    """Both directions, lengths, resets and residuals."""
    for B, I, N in SIZES:
        weights = StackedWeights.random(
            I, N, 2, seed=0, dtype=dtype, bidirectional=True, proj_size=I, residual=(True, False)
        )
        lstm = LSTM(weights, backend="cuda")
        options = {"lengths": rng.integers(0, 4, B), "is_first": rng.random((3, B)) < 0.3}
        outputs, _ = lstm(lstm.asarray(rng.normal(size=(3, B, I))), reset_to=lstm.zero_state(1), **options)
        assert np.isfinite(outputs.get().astype(np.float64)).all()


def main():
    """Run each step, and sequences, and wait for them."""
    cupy.cuda.set_allocator(None)
    rng = np.random.default_rng(0)
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        for B, I, N in SIZES:
            for options in ({}, {"peephole": True, "cell_clip": 0.5, "proj_size": 3, "proj_clip": 0.2}):
                cell = LSTMCell(LSTMWeights.random(I, N, seed=0, dtype=dtype, **options), backend="cuda")
                x = cell.asarray(rng.normal(size=(B, I)))
                zero = cell.zero_state(B)
                state = cell(x, zero, is_first=rng.random(B) < 0.5, reset_to=cell.zero_state(1))
                state = cell(x, state, out=LSTMState(h=zero.h, c=state.c))
                assert np.isfinite(state.to_numpy().c).all()
        sequences(dtype, rng)
    cupy.cuda.Device().synchronize()
    print("sanitized steps done")


if __name__ == "__main__":
    main()
