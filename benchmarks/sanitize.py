"""Run steps, sequences, Steppers and pools under a sanitizer: all dtypes, kernels and options, and edge sizes.

CuPy's memory pool hides overruns from sanitizers, so each array here is a separate allocation.
"""

import argparse
import gc

import cupy
import numpy as np

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, StatePool
from fusedlstm.backends import kernel_choice

SIZES = ((1, 1, 1), (3, 5, 7), (5, 8, 128), (2, 3, 513), (257, 4, 12))
OPTIONS = {"peephole": True, "cell_clip": 0.5, "proj_size": 3, "proj_clip": 0.2}


def steps(dtype, rng):
    """Step a cell, with resets, and with results written to other arrays."""
    for B, I, N in SIZES:
        for options in ({}, OPTIONS):
            cell = LSTMCell(LSTMWeights.random(I, N, seed=0, dtype=dtype, **options), backend="cuda")
            x = cell.asarray(rng.normal(size=(B, I)))
            zero = cell.zero_state(B)
            state = cell(x, zero, is_first=rng.random(B) < 0.5, reset_to=cell.zero_state(1))
            state = cell(x, state, out=LSTMState(h=zero.h, c=state.c))
            assert np.isfinite(state.to_numpy().c).all()


def sequences(dtype, rng):
    """Run sequences with both directions, lengths, resets and residuals."""
    for B, I, N in SIZES:
        weights = StackedWeights.random(
            I, N, 2, seed=0, dtype=dtype, bidirectional=True, proj_size=I, residual=(True, False)
        )
        lstm = LSTM(weights, backend="cuda")
        options = {"lengths": rng.integers(0, 4, B), "is_first": rng.random((3, B)) < 0.3}
        outputs, _ = lstm(lstm.asarray(rng.normal(size=(3, B, I))), reset_to=lstm.zero_state(1), **options)
        assert_finite(outputs)


def owners(I, N, dtype):
    """Yield owners of Steppers and pools for each kernel of the dtype: a plain cell, and layers with all options."""
    weights = StackedWeights.random(I, N, 2, seed=0, dtype=dtype, residual=(False, True), **OPTIONS)
    for kernel in kernel_choice.NAMES:
        for precision in ("highest", "high") if dtype == "float32" else ("highest",):
            if kernel_choice.reason_against(kernel, dtype, precision) is None:
                options = {"backend": "cuda", "precision": precision, "kernel": kernel}
                yield LSTMCell(LSTMWeights.random(I, N, seed=0, dtype=dtype), **options)
                yield LSTM(weights, **options)


def steppers(dtype, rng):
    """Step Steppers with arrays on the GPU and in host memory, with and without resets, to zeros and to a state."""
    for B, I, N in SIZES[1:]:
        for owner in owners(I, N, dtype):
            reset_to = owner.stepper(1).read()
            for host, begin in ((False, None), (False, reset_to), (True, None)):
                stepper = owner.stepper(B, host=host, reset_to=begin)
                x = rng.normal(size=(B, I))
                stepper.step(x.astype(owner.weights.dtype) if host else owner.asarray(x))
                stepper.write(stepper.read())
                stepper.step(is_first=rng.random(B) < 0.5)
                assert_finite(stepper.output)
                stepper.reset()


def pools(dtype, rng):
    """Step pools by slots on the host and on the GPU, with padding. Then step by invalid slots on the GPU."""
    for B, I, N in SIZES[1:]:
        for owner in owners(I, N, dtype):
            pool = StatePool(owner, B + 3)
            live = pool.allocate(B + 2)
            pool.write(live, pool.read(live))
            slots = rng.permutation(live)[:B]
            slots[B // 2] = -1
            x, first = owner.asarray(rng.normal(size=(B, I))), rng.random(B) < 0.5
            out = pool.step(x, slots, is_first=first)
            pool.step(x, cupy.asarray(slots), is_first=first, out=out, strict=True)
            assert_finite(out)
            slots[:] = rng.choice(
                [live[0], live[1], B + 2, B + 3, -2], B
            )  # the third is inactive, the rest out of range
            slots[0] = B + 2
            pool.step(x, cupy.asarray(slots), out=out)
            assert_finite(out)
            assert is_refused(pool)
            pool.release(live[:1])
            pool.reset(live[1:])


def is_refused(pool):
    """Return whether the pool reports invalid slots."""
    try:
        pool.check()
    except ValueError:
        return True
    return False


def assert_finite(array):
    array = array if isinstance(array, np.ndarray) else array.get()
    assert np.isfinite(array.astype(np.float64)).all()


WORKS = {"steps": steps, "sequences": sequences, "steppers": steppers, "pools": pools}
DTYPES = ("bfloat16", "float32", "float16", "float64")


def main():
    """Run everything that was asked for, and wait for the GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanitize", description=__doc__)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    options = parser.parse_args()
    cupy.cuda.set_allocator(None)
    gc.disable()  # it might free memory during a capture, which CUDA refuses if CuPy has no pool
    rng = np.random.default_rng(0)
    for dtype in options.dtypes:
        for name in options.works:
            WORKS[name](dtype, rng)
            cupy.cuda.Device().synchronize()
            print(f"sanitized {name} of {dtype}", flush=True)


if __name__ == "__main__":
    main()
