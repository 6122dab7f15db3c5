"""Train LSTMs in JAX, with resets inside sequences and every option of `fusedlstm.LSTMWeights`.

    lstm        a layer in one direction, through whole sequences

It computes in NumPy, on the CPU. Importing this module makes `fusedlstm.LSTMState` a pytree.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

try:
    import jax
    from jax.custom_derivatives import SymbolicZero
    from jax.experimental.buffer_callback import buffer_callback
except ModuleNotFoundError as error:
    if error.name != "jax":
        raise
    raise ModuleNotFoundError("fusedlstm.jax needs JAX: install fusedlstm[jax]", name="jax") from None

from fusedlstm.backends.select import choose
from fusedlstm.backends.sequence_run import MASKED_OUTPUTS
from fusedlstm.help_text import break_signatures
from fusedlstm.layer_call import Layer, LayerArrays, LayerCall
from fusedlstm.stacked import StackedWeights
from fusedlstm.state import LSTMState, check_state_type
from fusedlstm.validation.arguments import check_bool, check_choice, check_size, check_threads, describe_type, fail
from fusedlstm.validation.sequence import SequenceChecks
from fusedlstm.validation.training import check_trainable
from fusedlstm.weights import ARRAYS, check_arrays, check_options, checked_options, weights_over

__all__ = ["lstm"]

_Shape: Any = jax.ShapeDtypeStruct

_H, _C = jax.tree_util.GetAttrKey("h"), jax.tree_util.GetAttrKey("c")
jax.tree_util.register_pytree_with_keys(
    LSTMState, lambda state: (((_H, state.h), (_C, state.c)), None), lambda _, parts: _state(*parts)
)


def _state(h: Any, c: Any) -> LSTMState:
    return LSTMState(h=h, c=c)


def lstm(
    weights: Mapping[str, Any],
    xs: Any,
    state: LSTMState | None = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    is_first: Any = None,
    reset_to: LSTMState | None = None,
    reverse: bool = False,
    masked_outputs: str = "zero",
    checkpoint_every: int | None = None,
    threads: int | None = None,
    **options: Any,
) -> tuple[jax.Array, LSTMState]:
    """Run sequences through one layer in one direction. Return its outputs (T, B, P) and the final state.

    It works under jit, grad and vmap. vmap runs its elements one after another. Gradients at the corners of clips
    and functions are those of `LSTM.vjp`. Forward mode and second derivatives raise.

    Args:
        weights: the arrays of an LSTMWeights by name, as its method `arrays` returns them, in float32 or float64.
        xs: (T, B, I) in the weights' dtype. T and B may be 0.
        state: an LSTMState, h (B, P) and c (B, N); None for zeros.
        lengths: (B,) integers from 0 to T: row b takes only its first lengths[b] steps.
        mask: (T, B) booleans, instead of lengths: row b takes step t if mask[t, b] is True.
        is_first: (T, B) booleans: True means that step t begins a new sequence in row b, as in `fusedlstm.LSTM`.
        reset_to: the state to reset rows to, with one row or B; None for zeros. Gradients flow to it.
        reverse: whether to run from the last step to the first.
        masked_outputs: the outputs of steps that a row does not take: "zero", or "last" to repeat the row's last one.
        checkpoint_every: the number of steps between checkpoints, as in `LSTM.vjp`.
        threads: the most threads of a call, as in `fusedlstm.LSTM`.
        options: cell_clip, proj_clip, activation, output_activation, gate_activation, gate_clip and coupled_gate, as in
            `fusedlstm.LSTMWeights`.

    Raises:
        TypeError: an argument has the wrong kind or dtype.
        ValueError: an argument has the wrong shape or value, or a zoneout is not 0. A wrong length that is traced makes
            JAX raise an error of its own at run time.
    """
    check_bool("reverse", reverse)
    check_choice("masked_outputs", masked_outputs, MASKED_OUTPUTS)
    every = None if checkpoint_every is None else check_size("checkpoint_every", checkpoint_every, 1)
    direction, arrays = "backward" if reverse else "forward", _arrays(weights)
    check_options("lstm", options)
    options = checked_options(options, has_projection="weight_hr" in arrays)
    form = weights_over(arrays, options)
    check_arrays(form)
    check_trainable(StackedWeights([form]))
    xs, state, reset_to = _array("xs", xs), _checked("state", state), _checked("reset_to", reset_to)
    checks = SequenceChecks(choose("numpy"), StackedWeights([form]), "jax.numpy.asarray", batch_first=False)
    checks.check_xs(_stand_in(xs))
    T, B, _ = xs.shape
    if state is None:
        h, c = (jax.numpy.zeros((B, size), xs.dtype) for size in (form.output_size, form.hidden_size))
        state = _state(h, c)
    own = checks.layer_checks[0]
    own.check_state("state", jax.tree.map(_stand_in, state), {**own.sizes, "B": B})
    if reset_to is not None:
        own.check_reset(jax.tree.map(_stand_in, reset_to), is_first, B)
    checks.check_steps(_known(lengths), _known(mask), T, B)
    checks.check_is_first(_known(is_first), T, B)
    flags = [None if each is None else jax.numpy.asarray(each) for each in (lengths, mask, is_first)]
    layer = Layer(direction, (tuple(arrays),), (options,), repeats=masked_outputs == "last", every=every)
    resets = [] if reset_to is None else [reset_to.h, reset_to.c]
    call = _Call(layer.to_json(), check_threads(threads))
    outputs, h, c = _layer(call, LayerArrays(xs, [state.h, state.c], list(arrays.values()), resets), flags)
    return outputs, _state(h, c)


def _arrays(weights: Any) -> dict[str, Any]:
    """Return the arrays of weights by name, without those that are None, or raise."""
    if not isinstance(weights, Mapping) or not {"weight_ih", "weight_hh"} <= set(weights) <= set(ARRAYS):
        got = f"the names {', '.join(map(str, weights))}" if isinstance(weights, Mapping) else describe_type(weights)
        fail(TypeError, "weights", "a dictionary of the arrays of an LSTMWeights, by name", got, "Use weights.arrays()")
    return {name: _array(name, weights[name]) for name in ARRAYS if weights.get(name) is not None}


def _checked(name: str, state: Any) -> LSTMState | None:
    """Return a state of JAX's arrays, or None if it is None. Raise unless it is an LSTMState."""
    if state is None:
        return None
    check_state_type(state, name)
    return _state(_array(f"{name}.h", state.h), _array(f"{name}.c", state.c))


def _array(name: str, value: Any) -> jax.Array:
    try:
        return jax.numpy.asarray(value)
    except (TypeError, ValueError):
        fail(TypeError, name, "an array", describe_type(value))


def _stand_in(array: jax.Array) -> np.ndarray[Any, Any]:
    """Return an array of NumPy with a shape and dtype, for the checks of NumPy's arrays. It takes no memory."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def _known(flags: Any) -> Any:
    """Return flags for the checks, or zeros in their place if they are traced, so that their values aren't known."""
    return _stand_in(flags) if isinstance(flags, jax.core.Tracer) else flags


class _Call(NamedTuple):
    """What a call depends on, besides its arrays: a Layer as JSON, and the most threads."""

    layer: str
    threads: int | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer(call: _Call, arrays: LayerArrays, flags: list[Any]) -> Any:
    """Return a layer's outputs, and its final h and c."""
    return _forward(call, arrays, flags, saves=False)[0]


def _forward(call: _Call, arrays: LayerArrays, flags: list[Any], *, saves: bool) -> Any:
    """Return the results of `_layer`, and what its backward pass needs if `saves` is set."""
    xs, (h, c), *_ = arrays
    shapes = [((*xs.shape[:2], h.shape[1]), xs.dtype), (h.shape, h.dtype), (c.shape, c.dtype)]
    saved = Layer.from_json(call.layer).saved_shapes(len(xs), [(*h.shape, c.shape[1])], xs.dtype) if saves else []
    results = [[_Shape(*each) for each in part] for part in (shapes, saved)]
    return _on_host("forward", call, results, arrays, flags)


def _keep(call: _Call, *primals: Any) -> Any:
    arrays, flags = jax.tree.map(lambda each: each.value, primals)
    wanted = [() if each.perturbed else None for each in jax.tree.leaves(primals[0])]  # not traced, as bools would be
    results, saved = _forward(call, arrays, flags, saves=True)
    return results, (arrays, flags, wanted, saved)


def _take_back(call: _Call, kept: Any, d_results: list[Any]) -> Any:
    arrays, _, wanted, _ = kept
    leaves, structure = jax.tree.flatten(arrays)
    shapes = [_Shape(each.shape, each.dtype) for each, wants in zip(leaves, wanted, strict=True) if wants is not None]
    d_results = [None if isinstance(each, SymbolicZero) else each for each in d_results]
    found = iter(_on_host("backward", call, shapes, *kept, d_results))
    return jax.tree.unflatten(structure, [None if wants is None else next(found) for wants in wanted]), None


_layer.defvjp(_keep, _take_back, symbolic_zeros=True)


def _on_host(direction: str, call: _Call, results: Any, *arguments: Any) -> Any:
    """Run a pass of a layer on the host. `results` are the shapes and dtypes of what it returns."""
    # A pure_callback waits for copies by XLA's threads, forever if callbacks occupy them all. This one makes no copies.
    work = jax.custom_jvp(buffer_callback(_pass(direction, call), results, vmap_method="sequential"))
    work.defjvp(_refuse)
    return work(*arguments)


def _refuse(*_: Any) -> NoReturn:
    raise NotImplementedError("fusedlstm.jax has no second derivatives: take gradients once, or write the LSTM in JAX")


@functools.cache  # so that JAX recognises the function, and doesn't compile it again
def _pass(direction: str, call: _Call) -> Any:
    """Return a pass of a layer, as a function that writes to buffers."""

    def run(_: Any, out: Any, *arguments: Any) -> None:
        arrays, flags, *rest = jax.tree.map(np.asarray, arguments)
        layer = LayerCall(Layer.from_json(call.layer), arrays, *flags, threads=call.threads)
        if direction == "forward":
            found: Any = layer.forward(saves=bool(out[1]))
        else:
            wanted, saved, (d_outputs, *d_finals) = rest
            gradients = layer.backward(saved, d_outputs, d_finals, [wants is not None for wants in wanted])
            found = [each for each, wants in zip(gradients, wanted, strict=True) if wants is not None]
        for buffer, array in zip(jax.tree.leaves(out), jax.tree.leaves(found), strict=True):
            np.asarray(buffer)[...] = array

    return run


break_signatures([lstm])
