"""LSTMCell: one step of an LSTM, both states in and both out."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from fusedlstm import log
from fusedlstm.arrays import dtypes
from fusedlstm.arrays.exchange import Exchange, in_order, is_native
from fusedlstm.backends import kernel_choice
from fusedlstm.backends.select import choose
from fusedlstm.stacked import StackedWeights
from fusedlstm.state import LSTMState, check_state_type
from fusedlstm.stepper import Steppable
from fusedlstm.validation.arguments import check_bool, check_choice, check_size, check_threads
from fusedlstm.validation.signatures import Signatures
from fusedlstm.validation.step import CheckedPairs, StepChecks
from fusedlstm.validation.training import check_trainable
from fusedlstm.validation.weights import check_one_layer, check_replacement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Array, Empty
    from fusedlstm.backends.base import CellEngine
    from fusedlstm.pullback import CellPullback
    from fusedlstm.weights import LSTMWeights


class LSTMCell(Steppable[LSTMState]):
    """One step of an LSTM for a batch of B rows: (x, h, c) -> the next (h, c), by the formula in `fusedlstm.weights`.

    A cell holds weights but no state. Several threads may call it at once, and a signal handler may call it during
    another call. The same call always gives the same bits.

    Args:
        weights: an LSTMWeights. x and h must have its dtype. c has the same dtype, or float32 if that is a 16-bit one.
        backend: "numpy", "cuda" or `"cuda:<index>"`. None uses the environment variable FUSEDLSTM_BACKEND. If that is
            not set, the backend is cuda if it can run here, else numpy.
        precision: the precision of float32 matmuls on a GPU. "highest" is IEEE float32. "high" allows TF32, which has
            10-bit mantissas. Other dtypes and NumPy ignore it.
        check_state: whether each call warns if |h| is over 1, which a step can't produce. The usual cause is that h and
            c are swapped. Cells with a projection, or with a gate or output function that can exceed 1, are not
            checked. On a GPU the check waits for the device.
        batch_invariant: whether to make each row bitwise independent of the rest of its batch. A row then gives the
            same bits at any place in any batch, even beside rows of NaN. This holds for steps, Steppers, pools and
            sequences, however a sequence is split. The bits of a NaN may differ. All bits may differ on another
            machine, or with another NumPy or BLAS. On NumPy, the cell tests this with its weights when it is made. It
            then holds with one thread or several, for I + P up to 16,000. Products there work on blocks of 8 rows, so a
            batch of 1 takes as long as one of 8. From 8 rows on, this costs next to nothing with OpenBLAS's AVX-512
            kernels. With other kernels, large batches take much longer. They run in one thread, and the BLAS packs the
            weights again for each block. On a GPU, steps use the kernel "tensor_medium" for float16, bfloat16, and
            float32 with precision="high", otherwise "simt".
        kernel: the kernel of steps on a GPU. NumPy only checks the name. None chooses the fastest kernel that
            `fusedlstm tune` has measured for the layer and batch, or else the one in a table of predictions, unless
            batch_invariant is set. The times are read once, when the cell is made. A name forces that kernel
            everywhere. "matmul" is matrix products followed by one kernel. Calls of one step multiply with cuBLAS,
            everything else with cuBLASLt. The other kernels each do a whole step, except that a large projection takes
            a second kernel. They need compute capability 8.0. "tensor_large" (for many rows), "tensor_medium" and
            "tensor_small" (for few rows) use tensor cores, for float16, bfloat16, and float32 with precision="high".
            "simt" uses fma, for float32 and float64.
        threads: the most threads of a call on NumPy, in Steppers and pools too. A GPU ignores it. None, or a
            number above that of NumPy's BLAS, uses as many as the BLAS has, which is often one for each core. If there
            are more threads than idle cores, the log says so once. With few rows, one thread is often fastest and
            steadiest. OpenBLAS has one number of threads for the whole process. So during a call, products in other
            threads use no more than that either, and their last bits may differ. Setting and restoring the number takes
            a small part of a step, even of one row. The environment variable OPENBLAS_NUM_THREADS takes no time, and
            can also raise the number.

    Raises:
        TypeError: `weights` is not an LSTMWeights, a flag is not a bool, `kernel` is not a str, or `threads` is not an
            int.
        ValueError: the backend, precision or kernel is unknown, the kernel doesn't fit the dtype, the precision or
            batch_invariant, or `threads` is less than 1.
        RuntimeError: NumPy or its BLAS can't guarantee batch_invariant or set its threads, or the GPU is too old for
            batch_invariant or for the kernel. The message says which.
        BackendUnavailableError: the named backend can't run here; the message says why.
    """

    _is_cell, _maker = True, "cell.asarray"

    def __init__(
        self,
        weights: LSTMWeights,
        *,
        backend: str | None = None,
        precision: str = "highest",
        check_state: bool = False,
        batch_invariant: bool = False,
        kernel: str | None = None,
        threads: int | None = None,
    ) -> None:
        check_one_layer(weights)
        check_choice("precision", precision, ("highest", "high"))
        check_bool("check_state", check_state)
        self._weights: LSTMWeights = weights
        self._options: dict[str, Any] = {
            "precision": precision,
            "check_state": check_state,
            "batch_invariant": batch_invariant,
            "kernel": kernel,
            "threads": check_threads(threads),
        }
        self._backend = choose(backend)
        check_bool("batch_invariant", batch_invariant)
        kernel_choice.check(kernel, weights.dtype.name, precision, batch_invariant=batch_invariant)
        self._checks = StepChecks(
            self._backend,
            {"I": weights.input_size, "N": weights.hidden_size, "P": weights.output_size},
            weights.dtype,
            dtypes.state_dtype(weights.dtype),
        )
        self._engine = self._backend.cell_engine(
            weights, precision, batch_invariant=batch_invariant, kernel=kernel, threads=self._options["threads"]
        )
        self._signature = self._backend.signature
        self._array_type, self._empty = self._backend.array_type, self._backend.empty
        self._known = Signatures()  # signatures of (x, h, c) that passed the checks
        self._out = CheckedPairs(self._backend.overlap)
        self._warns = check_state and weights.proj_size is None and weights.functions.up_to_1
        log.info("%r on %s", self, self._backend.device)

    @property
    def weights(self) -> LSTMWeights:
        """The current weights."""
        return self._weights

    @property
    def _engines(self) -> Sequence[CellEngine]:
        return (self._engine,)

    @property
    def _layers_of_weights(self) -> StackedWeights:
        return StackedWeights([self._weights])

    def zero_state(self, batch: int, like: Any = None) -> LSTMState:
        """Return a state of zeros for `batch` rows, in new arrays on the cell's device.

        Args:
            batch: B, which may be 0.
            like: an array of the library that the state should be in. None gives NumPy or CuPy arrays.

        Raises:
            TypeError: `batch` is not an int, or `like` is not an array.
            ValueError: `batch` is negative, or `like` is not on the cell's device.
        """
        B = check_size("batch", batch, 0)
        checks, zeros = self._checks, self._backend.zeros
        shapes = (B, checks.sizes["P"]), (B, checks.sizes["N"])
        if like is None:
            return LSTMState(h=zeros(shapes[0], checks.dtype), c=zeros(shapes[1], checks.c_dtype))
        with Exchange(self._backend, like) as exchange:
            exchange.check_place("like", like)
            h, c = exchange.empty(shapes[0], checks.dtype), exchange.empty(shapes[1], checks.c_dtype)
            h.fill(0)
            c.fill(0)
            return exchange.lend_state(LSTMState(h=h, c=c))

    def set_weights(self, weights: LSTMWeights) -> None:
        """Replace the weights with others of the same sizes, dtype and options, in place.

        On a GPU this overwrites the old weights, in order with CuPy's and PyTorch's current streams. Earlier steps use
        the old weights. Later steps use the new ones, even in Steppers and pools on any stream. No other thread may
        call the cell meanwhile. On NumPy the weights are replaced atomically. Calls that are still running, in any
        thread, continue with the old weights.

        If this raises or is interrupted, the cell keeps all its old weights.

        Raises:
            RuntimeError: on a GPU, this thread is in the middle of a call of the cell, or of one of its Steppers or
                pools. This happens if a signal handler, a finalizer or a callback calls `set_weights`.
            TypeError: `weights` is not an LSTMWeights.
            ValueError: sizes, dtype or options differ. The message says which.
        """
        check_replacement(self._weights, weights)
        with in_order(self._backend):
            (self._engine,), self._weights = self._exchanged(StackedWeights([weights])), weights

    def __call__(
        self,
        x: Array,
        state: LSTMState,
        *,
        is_first: Any = None,
        reset_to: LSTMState | None = None,
        out: LSTMState | None = None,
    ) -> LSTMState:
        """Return the state after one step; its `.h` is the output.

        Arrays may come from any library that shares its memory, even from several libraries at once: NumPy, CuPy,
        PyTorch, JAX, and others with DLPack or `__cuda_array_interface__`. They must be on the cell's device. Nothing
        is copied. The result is in the library of x. On a GPU the work is queued on that library's current stream, in
        order with the current streams of the other libraries.

        Args:
            x: (B, I) in the cell's dtype, on its device, with any strides. B may be 0.
            state: h (B, P) in the cell's dtype and c (B, N), with any strides.
            is_first: (B,) booleans, in an array on the device, a host array or a list. True marks a row that begins a
                new sequence. Its state is reset before this step, and even a NaN in it has no effect.
            reset_to: the state to reset those rows to, with one row or B; None for zeros.
            out: C-contiguous arrays to write the result to and to return. `out.c` may be `state.c`. Otherwise `out`
                must not share memory with an argument. So `out.h` must not be `state.h`: alternate between two states.
                JAX's arrays are immutable, so they can't be `out`. On a GPU, `out` may be shared through DLPack, or
                through a CUDA array interface that names no stream. The call then waits until `out` is written.

        Returns:
            An LSTMState with h (B, P) and c (B, N). It is `out`, or has new arrays in the library of x. If that
            library can't import DLPack, they are NumPy or CuPy arrays.

        Raises:
            TypeError: an argument has the wrong kind, dtype or library (nothing is cast, moved or broadcast).
            ValueError: an argument has the wrong shape or device, or `out` can't be written.
        """
        if type(state) is not LSTMState:
            check_state_type(state)
        native = self._array_type
        if (
            type(x) is native
            and type(state.h) is native
            and type(state.c) is native
            and (out is None or (type(out) is LSTMState and type(out.h) is native and type(out.c) is native))
            and ((is_first is None and reset_to is None) or is_native(native, is_first, reset_to))
        ):
            return self._step(x, state, is_first, reset_to, out, self._empty)
        checks = self._checks
        wanted = checks.dtype, checks.c_dtype, checks.whose
        with Exchange(self._backend, x) as exchange:
            result = self._step(
                exchange.borrow("x", x, checks.dtype, checks.whose),
                exchange.borrow_state("state", state, *wanted),
                exchange.borrow_mask("is_first", is_first),
                exchange.borrow_state("reset_to", reset_to, *wanted),
                exchange.borrow_out("out", out, *wanted),
                exchange.empty,
            )
            return exchange.lend_state(result) if out is None else out

    def _step(
        self,
        x: Array,
        state: LSTMState,
        is_first: Any,
        reset_to: LSTMState | None,
        out: LSTMState | None,
        empty: Empty,
    ) -> LSTMState:
        """Step with the backend's arrays. Write the result to `out`, or to new arrays from `empty`."""
        h, c = state.h, state.c
        try:
            signature = self._signature(x, h, c)
        except AttributeError:  # one of them isn't an array: the checks will say so
            signature = None
        if signature not in self._known:
            self._check_inputs(x, state, signature)
        B = x.shape[0]
        if reset_to is not None:
            reset_to = self._checks.check_reset(reset_to, is_first, B)
        if is_first is not None:
            is_first = self._checks.check_mask(is_first, B)
        if out is None:
            sizes = self._checks.sizes
            out = LSTMState(h=empty((B, sizes["P"]), h.dtype), c=empty((B, sizes["N"]), c.dtype))
        elif reset_to is not None or not self._out.fits(out, state, x, is_first):
            self._checks.check_out(out, x, state, is_first, reset_to)
            self._out.remember(state, out)
        if self._warns:
            self._warn_of_large_h(h, is_first, 4)
        engine = self._engine
        reset = None if reset_to is None else engine.prepare_reset(reset_to.h, reset_to.c)
        engine.run(x, h, c, out.h, out.c, is_first, reset)
        return out

    def vjp(
        self, x: Array, state: LSTMState, *, is_first: Any = None, reset_to: LSTMState | None = None
    ) -> tuple[LSTMState, CellPullback]:
        """Take one step as a call does, and also return a function for its gradients.

        This is for training without a framework, on NumPy, in float32 or float64. Gradients flow as in `LSTM.vjp`:

            state, pullback = cell.vjp(x, state)
            gradients = pullback(LSTMState(h=d_h, c=d_c))

        Don't change x, the state and `reset_to` before the last call of the pullback, which reads them again.

        Args:
            x: as in a call.
            state: as in a call.
            is_first: as in a call.
            reset_to: as in a call.

        Returns:
            The state after the step, with the bits of a call, and a CellPullback.

        Raises:
            NotImplementedError: the cell is on a GPU.
            TypeError: as in a call, or the weights have 16 bits.
            ValueError: as in a call, or the cell has zoneout.
        """
        from fusedlstm.backends.sequence_run import SequenceRun
        from fusedlstm.pullback import CellPullback, Forward

        training, checks = self._training, self._checks
        check_trainable(self._layers_of_weights)
        check_state_type(state)
        wanted = checks.dtype, checks.c_dtype, checks.whose
        with Exchange(self._backend, x) as exchange:
            borrowed = exchange.borrow("x", x, checks.dtype, checks.whose)
            old = exchange.borrow_state("state", state, *wanted)
            is_first = exchange.borrow_mask("is_first", is_first)
            reset_to = exchange.borrow_state("reset_to", reset_to, *wanted)
            checks.check_inputs(borrowed, old)
            B = borrowed.shape[0]
            resets = None if reset_to is None else [checks.check_reset(reset_to, is_first, B)]
            flags = None if is_first is None else checks.check_mask(is_first, B)[None]
            h = exchange.empty((B, checks.sizes["P"]), checks.dtype)
            new = LSTMState(h=h, c=exchange.empty((B, checks.sizes["N"]), checks.c_dtype))
            run = SequenceRun(
                xs=borrowed[None],
                states=[old],
                outputs=self._backend.empty((1, *h.shape), checks.dtype),
                finals=[new],
                is_first=flags,
                reset_to=resets,
            )
            forward = Forward(self._backend, training, self._engines, run, x)
            forward.start(is_step=True)
            if self._warns:
                self._warn_of_large_h(old.h, None if flags is None else flags[0], 3)
            return exchange.lend_state(new), CellPullback(forward, checks)

    def _check_inputs(self, x: Array, state: LSTMState, signature: Any) -> None:
        """Check x and state, and remember that their signature passed."""
        self._checks.check_inputs(x, state)
        self._known.add(signature)

    def _warn_of_large_h(self, h: Array, is_first: Array | None, stacklevel: int) -> None:
        largest = self._backend.largest_over_1(h, is_first)
        if largest:
            warnings.warn(
                f"state.h holds {largest:g}, but a step can't produce |h| over 1: are h and c swapped?",
                stacklevel=stacklevel,
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # Remake it on the same backend and device, so that it can be pickled for another process.
        place = self.backend if self.backend == "numpy" else self.device
        return _restore, (self._weights, place, self._options)

    def __repr__(self) -> str:
        invariant = ", batch_invariant=True" if self._options["batch_invariant"] else ""
        kernel = self._options["kernel"]
        forced = "" if kernel is None else f", kernel={kernel!r}"
        limit = "" if self._options["threads"] is None else f", threads={self._options['threads']}"
        return f"LSTMCell({self._weights!r}, backend={self.backend!r}{invariant}{forced}{limit})"


def _restore(weights: LSTMWeights, backend: str, options: dict[str, Any]) -> LSTMCell:
    return LSTMCell(weights, backend=backend, **options)
