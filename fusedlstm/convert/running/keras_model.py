"""Run a whole Keras model from a file, and record its LSTM's inputs and outputs."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.convert.keras.files import parts_of
from fusedlstm.convert.running.keras_safety import check_sizes, plain
from fusedlstm.convert.running.model import ModelNotRunError, Tapped
from fusedlstm.errors import WeightsFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.keras.files import Parts
    from fusedlstm.convert.keras.nodes import Found

STEPS, ROWS = 6, 3
_MOST_STEPS = 200
_MOST_INPUT = 1 << 20  # numbers in the input
_RUN = ("LSTM", "RNN", "Bidirectional")


def tapped(source: str | os.PathLike[str], several: Sequence[Found], keras: Any, dtype: str, seed: int) -> Tapped:
    """Run a model on random input, and return the inputs and outputs of a stack's layers.

    Args:
        source: the path of the file.
        several: the layers, lowest first.
        keras: the package to run the model with.
        dtype: the weights' dtype.
        seed: the seed of the input.

    Raises:
        ModelNotRunError: the model can't be run, or it is not safe to load.
    """
    _check_layers(several)
    try:
        parts = parts_of(source)
    except WeightsFileError as error:
        raise ModelNotRunError(str(error)) from error
    if parts.config is None:
        raise ModelNotRunError("a file with only weights has no model")
    config = plain(parts.config)
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            check_sizes(_without_memory(keras, config, parts), parts.stored, STEPS)
            model = _loaded(keras, config, parts, folder)
            calls = _run(model, [_layer(model, found) for found in several], _input(model, seed))
    except ModelNotRunError:
        raise
    except Exception as error:  # the framework may raise any class
        first = str(error).strip().partition("\n")[0]
        raise ModelNotRunError(f"{keras.__name__} raised {type(error).__name__}: {first[:200]}") from error
    return _tapped(calls, dtype)


def _check_layers(several: Sequence[Found]) -> None:
    for found in several:
        if found.node.kind not in _RUN:
            raise ModelNotRunError(f"{found.name!r} is a {found.node.kind}, which is not run within its model")
        if any(model.base == "TimeDistributed" for model in found.around):
            raise ModelNotRunError(f"{found.name!r} is in TimeDistributed, whose steps can't be recorded")


def _without_memory(keras: Any, config: Any, parts: Parts) -> Any:
    """Return a model with this config whose variables take no memory."""
    config = json.loads(json.dumps(config))  # a copy, as Keras changes its argument
    if str(keras.__version__).startswith("2."):
        with importlib.import_module("tensorflow").Graph().as_default():
            return keras.models.model_from_json(json.dumps(config))
    with keras.StatelessScope(initialize_variables=False):
        if parts.weights is not None:
            return keras.saving.deserialize_keras_object(config, safe_mode=True)
        return importlib.import_module("keras.src.legacy.saving.saving_utils").model_from_config(config)


def _loaded(keras: Any, config: Any, parts: Parts, folder: str) -> Any:
    """Let Keras load a copy of the file that holds only what was checked."""
    if parts.weights is None:
        path = os.path.join(folder, "model.h5")
        with open(path, "wb") as file:
            file.write(parts.content)
        return keras.models.load_model(path, compile=False)
    path = os.path.join(folder, "model.keras")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", parts.metadata)
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", parts.weights)
    return keras.models.load_model(path, compile=False, safe_mode=True)


def _layer(model: Any, found: Found) -> Any:
    for node in (*found.around[1:], found.node):
        model = model.get_layer(node.name)
    return model


def _input(model: Any, seed: int) -> NumpyArray:
    """Return random input. A Masking layer masks some steps at the end of a row."""
    inputs = model.inputs or []
    if len(inputs) != 1:
        raise ModelNotRunError(f"it has {len(inputs)} inputs, and only models with one are run")
    dtype = getattr(inputs[0].dtype, "name", str(inputs[0].dtype))
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise ModelNotRunError(f"its input has the dtype {dtype}, and the meaning of its numbers is unknown")
    rows, *sizes = inputs[0].shape
    shape = (rows or ROWS, *(STEPS if size is None else size for size in sizes))
    if np.prod(shape, dtype=object) > _MOST_INPUT or max(shape[1:2], default=0) > _MOST_STEPS:
        raise ModelNotRunError(f"its input has the shape {shape}, and at most {_MOST_STEPS} steps are run")
    xs = np.random.default_rng(seed).normal(size=shape).astype("float32")
    masked = [layer.mask_value for layer in model.layers if type(layer).__name__ == "Masking"]
    if masked and len(shape) == 3:
        for row in range(1, shape[0]):
            xs[row, max(1, shape[1] - row) :] = masked[0]
    return xs


@dataclass(frozen=True)
class _Call:
    """A call of a layer: its batch-major arrays, and the layer itself."""

    layer: Any
    xs: NumpyArray
    states: list[NumpyArray]
    mask: NumpyArray | None
    returned: list[NumpyArray]


def _run(model: Any, layers: Sequence[Any], xs: NumpyArray) -> list[_Call]:
    """Return one call of each layer."""
    calls: list[list[_Call]] = [[] for _ in layers]
    with contextlib.ExitStack() as stack:
        for layer, seen in zip(layers, calls, strict=True):
            stack.enter_context(_seen(layer, seen))
        model(xs, training=False)
    counts = [len(seen) for seen in calls]
    if 0 in counts:
        raise ModelNotRunError("its output does not need the LSTM")
    if len(calls) > 1 and set(counts) != {1}:
        raise ModelNotRunError("it calls the layers of the stack several times")
    return [seen[0] for seen in calls]


@contextlib.contextmanager
def _seen(layer: Any, calls: list[_Call]) -> Iterator[None]:
    """Record a layer's arguments and results."""
    if getattr(layer, "time_major", False):
        raise ModelNotRunError("it has an LSTM with time_major=True")
    original = layer.call

    def call(inputs: Any, initial_state: Any = None, mask: Any = None, **others: Any) -> Any:
        own = {} if initial_state is None else {"initial_state": initial_state}
        before = _flat(getattr(layer, "states", None)) if getattr(layer, "stateful", False) else []
        start = [np.array(each) for each in before]
        returned = original(inputs, mask=mask, **own, **others)
        xs, *states = [np.asarray(each) for each in (*_flat(inputs), *_flat(initial_state))]
        masks = [np.asarray(each) for each in _flat(mask)]
        arrays = [np.asarray(each) for each in _flat(returned)]
        calls.append(_Call(layer, xs, states or start or _zeros(layer, xs), masks[0] if masks else None, arrays))
        return returned

    layer.call = call
    try:
        yield
    finally:
        del layer.call


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [each for part in value for each in _flat(part)]
    return [] if value is None else [value]


def _zeros(layer: Any, xs: NumpyArray) -> list[NumpyArray]:
    """Return a layer's default initial states."""
    directions = [layer.forward_layer, layer.backward_layer] if hasattr(layer, "forward_layer") else [layer]
    sizes = [size for direction in directions for size in _flat(direction.cell.state_size)]
    return [np.zeros((len(xs), size), xs.dtype) for size in sizes]


def _tapped(calls: Sequence[_Call], dtype: str) -> Tapped:
    first, last = calls[0], calls[-1]
    if first.xs.dtype.name != dtype:
        raise ModelNotRunError(f"it computes in {first.xs.dtype}, but its weights are {dtype}")
    xs, mask = first.xs, first.mask
    lengths = None if mask is None else mask.sum(axis=1)
    sequence = last.returned[0] if last.layer.return_sequences else None
    if sequence is not None and sum(map(_turns, calls)) % 2:
        sequence = sequence[:, ::-1]
    return Tapped(
        np.swapaxes(_counted(xs, mask), 0, 1),
        [pair for call in calls for pair in _pairs(call.states)],
        lengths,
        None if sequence is None else np.swapaxes(_counted(sequence, mask), 0, 1),
        [pair for call in calls for pair in _finals(call)],
    )


def _turns(call: _Call) -> bool:
    """Return whether a layer returns its outputs in an order that is reversed from that of its inputs."""
    return not hasattr(call.layer, "forward_layer") and bool(getattr(call.layer, "go_backwards", False))


def _counted(arrays: NumpyArray, mask: NumpyArray | None) -> NumpyArray:
    """Return each row's unmasked steps, followed by zeros. A masked step changes nothing."""
    if mask is None:
        return arrays
    order = np.argsort(~mask, axis=1, kind="stable")[..., None]
    counted = np.arange(arrays.shape[1]) < mask.sum(axis=1)[:, None]
    return np.where(counted[..., None], np.take_along_axis(arrays, order, 1), 0).astype(arrays.dtype)


def _pairs(arrays: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def _finals(call: _Call) -> list[tuple[NumpyArray | None, NumpyArray | None]]:
    """Return the final states that the layer returns. Its last output is the highest layer's h."""
    layer, count = call.layer, len(call.states) // 2
    if layer.return_state:
        return _pairs(call.returned[1:])
    finals: list[tuple[NumpyArray | None, NumpyArray | None]] = [(None, None)] * count
    zeroed = call.mask is not None and getattr(layer, "zero_output_for_mask", False)
    if layer.return_sequences or zeroed:
        return finals
    if hasattr(layer, "forward_layer"):
        size = call.states[0].shape[1]
        return [(call.returned[0][:, :size], None), (call.returned[0][:, size:], None)]
    return [*finals[:-1], (call.returned[0], None)]
