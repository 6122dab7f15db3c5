"""LSTM: layers and directions through whole sequences, and step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, overload

from fusedlstm import log
from fusedlstm.arrays.exchange import Exchange, in_order, is_native
from fusedlstm.backends import kernel_choice, sequence_choice
from fusedlstm.backends.select import choose
from fusedlstm.backends.sequence_run import MASKED_OUTPUTS, SequenceRun
from fusedlstm.layers import Layers
from fusedlstm.sequencer import Sequenceable
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import check_bool, check_choice, check_size, check_threads
from fusedlstm.validation.sequence import SequenceChecks
from fusedlstm.validation.signatures import Signatures
from fusedlstm.validation.training import check_trainable
from fusedlstm.validation.weights import as_layers, check_causal, check_replacement

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from fusedlstm.arrays.dtypes import Array, Empty
    from fusedlstm.backends.base import CellEngine
    from fusedlstm.pullback import LSTMPullback
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.weights import LSTMWeights

_MAKER = "lstm.asarray"  # the function that makes arrays, for messages
States: TypeAlias = tuple[LSTMState, ...]  # one for each layer and direction


class CallOptions(TypedDict, total=False):
    """The options of `LSTM.__call__` that don't change its return type."""

    lengths: Any
    mask: Any
    is_first: Any
    reset_to: States | None
    reverse: bool
    masked_outputs: str
    strict: bool


class LSTM(Sequenceable):
    """Layers of LSTM cells, each in one direction or both, run on sequences or step by step.

    A state is always a tuple of LSTMState, one for each layer and direction, in the order of `weights.layers`. If every
    layer has both directions, that is PyTorch's order: layer 0 forward, layer 0 backward, layer 1 forward ...

    An LSTM holds weights but no state. Several threads may call it at once, and a signal handler may call it during
    another call. On a GPU, a call on sequences of a new size, or with new options, first captures graphs. The last 8
    sizes and options keep theirs, each with buffers of some 50 MiB, or of one step if that needs more. If layers have
    different directions or both, each change of direction needs as many buffers again. A call nested in a capture
    raises RuntimeError. The same call always gives the same bits.

    As with `LSTMCell`, arrays on the LSTM's device may come from any library that shares its memory, even from several
    at once. Only sequences whose steps are not contiguous are copied, part by part. Results are in the library of x.

    Args:
        weights: a StackedWeights, or an LSTMWeights for a single layer.
        batch_first: whether sequences are (B, T, I), outputs (B, T, width) and masks (B, T).
        backend: "numpy", "cuda" or `"cuda:<index>"`. None chooses as in LSTMCell.
        precision: the precision of float32 matmuls on a GPU, as in LSTMCell.
        batch_invariant: as in LSTMCell, for every layer and direction. A row has the same bits as if it ran alone,
            whatever the lengths and resets of other rows.
        kernel: the kernel of every layer's steps on a GPU, as in LSTMCell. With None, measured times or a table choose
            for each layer. In a Stepper or a pool, all layers use "matmul" if one would, unless measured times say that
            the other kernels are faster in total. Here, the name may also be "scan", for sequences alone. It takes many
            steps in two launches, for layers of up to 128 units in float16, bfloat16, and float32 with
            precision="high". Only 16-bit layers may have a projection, to at most as many columns as units.
            With None, measured times or a table say which sequences scan. "scan" is for sequences alone: single steps,
            Steppers and pools choose as with None. Their last bits may differ from those of a scan.
        threads: the most threads of a call on NumPy, as in LSTMCell.

    Raises:
        TypeError: `weights` is not a StackedWeights or an LSTMWeights, a flag is not a bool, `kernel` is not a str, or
            `threads` is not an int.
        ValueError: the backend, precision or kernel is unknown, the kernel doesn't fit the dtype, the precision or
            batch_invariant, or `threads` is less than 1.
        RuntimeError: NumPy or its BLAS can't guarantee batch_invariant or set its threads, or the GPU is too old for
            batch_invariant or for the kernel. The message says which.
        BackendUnavailableError: the named backend can't run here; the message says why.
    """

    _is_cell, _maker = False, _MAKER

    def __init__(
        self,
        weights: StackedWeights | LSTMWeights,
        *,
        batch_first: bool = False,
        backend: str | None = None,
        precision: str = "highest",
        batch_invariant: bool = False,
        kernel: str | None = None,
        threads: int | None = None,
    ) -> None:
        weights = as_layers(weights)
        check_bool("batch_first", batch_first)
        check_choice("precision", precision, ("highest", "high"))
        self._weights: StackedWeights = weights
        self._options: dict[str, Any] = {
            "batch_first": batch_first,
            "precision": precision,
            "batch_invariant": batch_invariant,
            "kernel": kernel,
            "threads": check_threads(threads),
        }
        self._batch_first, self._width = batch_first, weights.output_size
        self._backend = choose(backend)
        check_bool("batch_invariant", batch_invariant)
        no_scan = sequence_choice.reason_against(weights.layers, precision)
        about = weights.dtype.name, precision
        kernel_choice.check(kernel, *about, batch_invariant=batch_invariant, no_scan=no_scan)
        self._checks = SequenceChecks(self._backend, weights, _MAKER, batch_first=batch_first)
        self._layers = Layers(
            *(self._backend, weights, precision),
            batch_invariant=batch_invariant,
            kernel=kernel,
            threads=self._options["threads"],
        )
        self._known = Signatures()  # signatures of (x, states) that passed the checks
        log.info("%r on %s", self, self._backend.device)

    @property
    def weights(self) -> StackedWeights:
        """The weights of all layers."""
        return self._weights

    @property
    def _engines(self) -> Sequence[CellEngine]:
        return self._layers.engines

    @property
    def _layers_of_weights(self) -> StackedWeights:
        return self._weights

    @property
    def batch_first(self) -> bool:
        """Whether the batch is the first axis of sequences, and time the second."""
        return self._batch_first

    def zero_state(self, batch: int, like: Any = None) -> States:
        """Return states of zeros for `batch` rows, one for each layer and direction, in new arrays on the device.

        Args:
            batch: B, which may be 0.
            like: an array of the library that the states should be in. None gives NumPy or CuPy arrays.

        Raises:
            TypeError: `batch` is not an int, or `like` is not an array.
            ValueError: `batch` is negative, or `like` is not on the LSTM's device.
        """
        B = check_size("batch", batch, 0)
        with Exchange(self._backend, like, _MAKER) as exchange:
            if like is not None:
                exchange.check_place("like", like)
            states = [self._empty_state(k, exchange.empty, B) for k in range(len(self._weights.layers))]
            for state in states:
                state.h.fill(0)
                state.c.fill(0)
            return tuple(exchange.lend_state(state) for state in states)

    def set_weights(self, weights: StackedWeights | LSTMWeights) -> None:
        """Replace the weights with others of the same sizes, dtypes and options, as `LSTMCell.set_weights` does.

        Raises:
            RuntimeError: as `LSTMCell.set_weights`.
            TypeError: `weights` is not a StackedWeights or an LSTMWeights.
            ValueError: sizes, dtypes or options differ. The message names the layer and what differs.
        """
        check_replacement(self._weights, weights)
        weights = as_layers(weights)
        with in_order(self._backend):
            self._layers.engines, self._weights = self._exchanged(weights), weights

    def kernels(self, steps: int, batch: int) -> tuple[str, ...]:
        """Return the kernel of each layer and direction in sequences of T steps and B rows.

        These are "numpy", or on a GPU names from `kernel`: the fastest one that `fusedlstm tune` has measured for the
        layer and B, or else the one in a table. If "scan" leaves one or two steps over, "tensor_medium" takes them one
        by one. It also takes whole sequences of one or two steps.

        Args:
            steps: T, at least 1.
            batch: B, at least 1.

        Raises:
            TypeError: an argument is not an int.
            ValueError: an argument is less than 1.
            BackendUnavailableError: steps can't be planned on this GPU; the message says why.
        """
        return self._layers.kernels(check_size("steps", steps, 1), check_size("batch", batch, 1))

    def step(
        self,
        x: Array,
        state: States,
        *,
        is_first: Any = None,
        reset_to: States | None = None,
    ) -> tuple[Array, States]:
        """Return the output of one step through all layers, and the states after it.

        Args:
            x: (B, I) in the LSTM's dtype, on its device, with any strides. B may be 0.
            state: a tuple with the state of each layer: h (B, P) and c (B, N), as in `LSTMCell`.
            is_first: (B,) booleans: True marks a row that begins a new sequence. Its state is reset in every layer
                before this step.
            reset_to: the state to reset those rows to: one for each layer, with one row or B; None for zeros.

        Returns:
            The output (B, width) and a new state for each layer. The output is the last state's `.h` itself, unless
            the top layer is residual.

        Raises:
            TypeError: an argument has the wrong kind, dtype or library.
            ValueError: an argument has the wrong shape or device, or a layer reads backward.
        """
        check_causal("weights", self._weights, "layers that are all forward for a step")
        if self._is_native(x, state, is_first, reset_to):
            return self._step(x, state, is_first, reset_to, self._backend.empty)
        with Exchange(self._backend, x, _MAKER) as exchange:
            output, states = self._step(
                self._borrow_x(exchange, "x", x),
                self._borrow_states(exchange, "state", state),
                exchange.borrow_mask("is_first", is_first),
                self._borrow_states(exchange, "reset_to", reset_to),
                exchange.empty,
            )
            lent = tuple(exchange.lend_state(each) for each in states)
            return lent[-1].h if output is states[-1].h else exchange.lend(output), lent

    def _is_native(self, x: Any, state: Any, is_first: Any, reset_to: Any) -> bool:
        """Return whether no exchange is needed: all arrays are exactly of the backend's class, or are host flags."""
        native = self._backend.array_type
        return (
            type(x) is native
            and reset_to is None
            and is_native(native, is_first, None)
            and isinstance(state, (tuple, list))
            and all(type(s) is LSTMState and type(s.h) is native and type(s.c) is native for s in state)
        )

    def _step(self, x: Array, state: Any, is_first: Any, reset_to: Any, empty: Empty) -> tuple[Array, States]:
        """Step with the backend's arrays. Write the results to new arrays from `empty`."""
        self._check_step(x, state)
        B = x.shape[0]
        resets = self._checks.check_reset(reset_to, is_first, B)
        if is_first is not None:
            is_first = self._checks.layer_checks[0].check_mask(is_first, B)
        news = tuple(self._empty_state(k, empty, B) for k in range(len(state)))
        return self._layers.step(x, state, is_first, resets, news, empty), news

    def _borrow_x(self, exchange: Exchange, name: str, x: Any) -> Any:
        first = self._checks.layer_checks[0]
        return exchange.borrow(name, x, first.dtype, first.whose)

    def _borrow_states(self, exchange: Exchange, name: str, states: Any) -> Any:
        """Borrow a tuple of states. Return anything else unchanged, for the checks to refuse."""
        if not isinstance(states, (tuple, list)):
            return states
        first = self._checks.layer_checks[0]
        wanted = first.dtype, first.c_dtype, first.whose
        return tuple(exchange.borrow_state(f"{name}[{k}]", each, *wanted) for k, each in enumerate(states))

    def _check_step(self, x: Array, state: Any) -> None:
        """Check x and state, unless arguments with the same signature have passed before."""
        try:
            signature = tuple((type(each), self._backend.signature(x, each.h, each.c)) for each in state)
        except (AttributeError, TypeError):  # something isn't an array or a state: the checks will say so
            signature = None
        if signature and signature in self._known and isinstance(state, (tuple, list)):
            return
        self._checks.check_x(x)
        self._checks.check_states("state", state, x.shape[0])
        self._known.add(signature)

    def _empty_state(self, k: int, empty: Empty, *sizes: int) -> LSTMState:
        """Return new arrays for a layer's state of B rows, or with two sizes for T of them."""
        layer = self._checks.layer_checks[k]
        h = empty((*sizes, layer.sizes["P"]), layer.dtype)
        return LSTMState(h=h, c=empty((*sizes, layer.sizes["N"]), layer.c_dtype))

    @overload
    def __call__(
        self,
        xs: Array,
        state: States | None = None,
        *,
        cells: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> tuple[Array, States]: ...

    @overload
    def __call__(
        self, xs: Array, state: States | None = None, *, cells: Literal[True], **options: Unpack[CallOptions]
    ) -> tuple[Array, States, States]: ...

    @overload
    def __call__(
        self, xs: Array, state: States | None = None, *, cells: bool, **options: Unpack[CallOptions]
    ) -> tuple[Array, States] | tuple[Array, States, States]: ...

    def __call__(
        self,
        xs: Array,
        state: States | None = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        is_first: Any = None,
        reset_to: States | None = None,
        reverse: bool = False,
        masked_outputs: str = "zero",
        strict: bool = False,
        cells: bool = False,
    ) -> tuple[Array, States] | tuple[Array, States, States]:
        """Run whole sequences, and return the top layer's outputs and the final states.

        Shapes here are time-major. With `batch_first` the first two axes of xs, mask, is_first and the outputs are
        swapped.

        Args:
            xs: (T, B, I) in the LSTM's dtype, on its device, with any strides. T and B may be 0.
            state: for each layer and direction, h (B, P) and c (B, N); None for zeros. A backward direction starts with
                its state at a row's last step.
            lengths: (B,) integers from 0 to T: row b takes only its first lengths[b] steps. Its final state is the one
                after these steps, or the initial state if the length is 0. A backward direction begins with the last
                of these steps. Lengths on a GPU below 0 or above T count as 0 or T, unless `strict` is set.
            mask: (T, B) booleans, instead of lengths. Row b takes step t if mask[t, b] is True, and otherwise keeps its
                state.
            is_first: (T, B) booleans. True means that step t begins a new sequence in row b. The state is reset before
                step t. A backward direction resets it after step t instead, but never after the last step that it
                takes in a row. So the returned state is never reset. Flags of steps that a row does not take are
                ignored.
            reset_to: the state to reset rows to: one for each layer and direction, with one row or B; None for zeros.
                Even a NaN in the old state has no effect after a reset.
            reverse: whether every layer runs from the last step to the first. Each output stays at the index of its x.
                Only for weights whose layers are all forward.
            masked_outputs: the outputs of steps that a row does not take. "zero" gives zeros, as TensorFlow and PyTorch
                do. "last" repeats the output of the direction's previous step, as Keras does, and gives zeros before
                the first. (Keras on JAX repeats the initial h there and, unrolled, ignores its zero_output_for_mask.)
            strict: whether to wait for lengths on a GPU, and raise if one is below 0 or above T.
            cells: whether to return the states after every step, too. On a GPU such a call never scans, and makes two
                more copies for each step and layer.

        Lengths, mask and is_first may be lists, or arrays in host memory or on the device. If they are on a GPU, a call
        neither reads them back nor waits for them, unless `strict` is set.

        Returns:
            The outputs (T, B, width), contiguous, with the top layer's directions side by side, and the final state of
            each layer and direction. With cells=True, also the state of each layer and direction after every step: an
            LSTMState with h (T, B, P) and c (T, B, N). Index t holds the state after step t. The direction's next step
            begins with it, unless it resets. If a row does not take step t, it is the row's state before. All arrays
            are new.

        Raises:
            TypeError: an argument has the wrong kind, dtype or library (nothing is cast, moved or broadcast).
            ValueError: an argument has the wrong shape or device, or `reverse` is set and a layer reads backward
                already. Or a checked length is below 0 or above T, or both lengths and a mask are given.
            RuntimeError: on a GPU, the current stream is being captured, or this thread is capturing a new graph.
            BackendUnavailableError: steps can't be planned on this GPU; the message says why.
        """
        self._check_options(masked_outputs, reverse, strict)
        check_bool("cells", cells)
        with Exchange(self._backend, xs, _MAKER) as exchange:
            arrays = xs, state, lengths, mask, is_first, reset_to
            run, outputs, every = self._prepared(exchange, *arrays, strict=strict, cells=cells)
            run.reverse, run.repeats = reverse, masked_outputs == "last"
            self._layers.run(run)
            outputs, finals = exchange.lend(outputs), tuple(exchange.lend_state(each) for each in run.finals)
            if not cells:
                return outputs, finals
            return outputs, finals, tuple(exchange.lend_state(each) for each in every)

    def vjp(
        self,
        xs: Array,
        state: States | None = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        is_first: Any = None,
        reset_to: States | None = None,
        reverse: bool = False,
        masked_outputs: str = "zero",
        checkpoint_every: int | None = None,
    ) -> tuple[Array, States, LSTMPullback]:
        """Run whole sequences as a call does, and also return a function for their gradients.

        This is for training without a framework, on NumPy, in float32 or float64:

            outputs, state, pullback = lstm.vjp(xs, state, is_first=first)
            gradients = pullback(d_outputs, None)
            gradients.weights[0].weight_hh

        Outputs and states have the bits of a call. Gradients are exact, apart from rounding. They flow through every
        step that a row takes. A reset stops them: they flow to `reset_to` instead. A clip passes them up to and at its
        limit, but not beyond, as in TensorFlow. A row that takes no step passes the gradient of its final state to its
        initial state. `fusedlstm.backends.numpy.formula_vjp` is the formula.

        Don't change xs, the states and `reset_to` before the last call of the pullback, which reads them again.
        Lengths, masks and flags are copied.

        Args:
            xs: as in a call.
            state: as in a call.
            lengths: as in a call.
            mask: as in a call.
            is_first: as in a call.
            reset_to: as in a call.
            reverse: as in a call.
            masked_outputs: as in a call.
            checkpoint_every: the number of steps between checkpoints. Then only h of every step, and c at checkpoints,
                are kept, and the pullback takes the steps in between again. That takes more time. With many steps
                between checkpoints, about a sixth of the memory is kept. None keeps h, c and the gates of every step.

        Returns:
            The outputs and the final states, as in a call, and an LSTMPullback.

        Raises:
            NotImplementedError: the LSTM is on a GPU.
            TypeError: as in a call, or the weights have 16 bits, or `checkpoint_every` is not an int.
            ValueError: as in a call, or a layer has zoneout, or `checkpoint_every` is less than 1.
        """
        from fusedlstm.pullback import Forward, LSTMPullback

        training = self._training
        check_trainable(self._weights)
        self._check_options(masked_outputs, reverse)
        if checkpoint_every is not None:
            checkpoint_every = check_size("checkpoint_every", checkpoint_every, 1)
        with Exchange(self._backend, xs, _MAKER) as exchange:
            run, outputs, _ = self._prepared(exchange, xs, state, lengths, mask, is_first, reset_to)
            run.reverse, run.repeats = reverse, masked_outputs == "last"
            forward = Forward(self._backend, training, self._layers.engines, run, xs, checkpoint_every)
            finals = run.finals
            forward.start()
            finals = tuple(exchange.lend_state(each) for each in finals)
            return exchange.lend(outputs), finals, LSTMPullback(forward, self._checks, _MAKER)

    def _check_options(self, masked_outputs: str, reverse: bool, strict: bool = False) -> None:
        check_choice("masked_outputs", masked_outputs, MASKED_OUTPUTS)
        self._checks.check_reverse(reverse)
        check_bool("strict", strict)

    def _prepared(
        self,
        exchange: Exchange,
        xs: Array,
        state: Any,
        lengths: Any,
        mask: Any,
        is_first: Any,
        reset_to: Any,
        *,
        strict: bool = False,
        cells: bool = False,
    ) -> tuple[SequenceRun, Array, States]:
        """Return a call's checked arguments, its outputs, and the states after every step, in the backend's arrays."""
        xs = self._borrow_x(exchange, "xs", xs)
        state = self._borrow_states(exchange, "state", state)
        lengths, mask, is_first = (
            exchange.borrow_mask(name, flags)
            for name, flags in (("lengths", lengths), ("mask", mask), ("is_first", is_first))
        )
        reset_to = self._borrow_states(exchange, "reset_to", reset_to)
        checks = self._checks
        checks.check_xs(xs)
        by_time = self._swapped(xs)
        T, B, _ = by_time.shape
        states = self.zero_state(B) if state is None else checks.check_states("state", state, B)
        resets = checks.check_reset(reset_to, is_first, B)
        is_first = checks.check_is_first(is_first, T, B)
        lengths, mask = checks.check_steps(lengths, mask, T, B, strict=strict)
        outputs = exchange.empty((*xs.shape[:2], self._width), xs.dtype)
        layers = range(len(states))
        finals = tuple(self._empty_state(k, exchange.empty, B) for k in layers)
        every = tuple(self._empty_state(k, exchange.empty, *xs.shape[:2]) for k in layers if cells)
        run = SequenceRun(
            xs=by_time,
            states=states,
            outputs=self._swapped(outputs),
            finals=finals,
            lengths=lengths,
            mask=mask,
            is_first=is_first,
            reset_to=resets,
            cells=[LSTMState(h=self._swapped(each.h), c=self._swapped(each.c)) for each in every] or None,
        )
        return run, outputs, every

    def _swapped(self, array: Array) -> Array:
        """Return an array in time-major order, if the caller's has the batch first."""
        return array.swapaxes(0, 1) if self._batch_first else array

    def __reduce__(self) -> tuple[Any, ...]:
        # Remake it on the same backend and device, so that it can be pickled for another process.
        place = self.backend if self.backend == "numpy" else self.device
        return _restore, (self._weights, place, self._options)

    def __repr__(self) -> str:
        first = ", batch_first=True" if self._batch_first else ""
        invariant = ", batch_invariant=True" if self._options["batch_invariant"] else ""
        kernel = self._options["kernel"]
        forced = "" if kernel is None else f", kernel={kernel!r}"
        limit = "" if self._options["threads"] is None else f", threads={self._options['threads']}"
        return f"LSTM({self._weights!r}{first}, backend={self.backend!r}{invariant}{forced}{limit})"


def _restore(weights: StackedWeights, backend: str, options: dict[str, Any]) -> LSTM:
    return LSTM(weights, backend=backend, **options)
