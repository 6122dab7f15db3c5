"""Run a whole ONNX model in onnxruntime on random input, and tap the inputs and outputs of its LSTM."""

from __future__ import annotations

import contextlib
import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.convert.onnx.finding import Found
from fusedlstm.convert.onnx.frames import traced
from fusedlstm.convert.onnx.lengths import unmoved
from fusedlstm.convert.onnx.source import open_model, package
from fusedlstm.convert.onnx.tensors import FLOATS, inlined
from fusedlstm.convert.running.model import ModelNotRunError, Tapped

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.onnx.graph import Node
    from fusedlstm.convert.onnx.node import LSTM
    from fusedlstm.convert.onnx.source import Model, Proto

_STEPS, _ROWS = 5, 3
# Sizes for unknown dims, by name, in the order in which they appear; then larger ones, for models that need them.
_OPEN_DIMS = ((3, 5, 7, 11), (3, 48, 40, 32))
_MOST_NUMBERS = 1 << 24  # in all inputs together
_MOST_MEMORY = 4 << 30  # bytes that onnxruntime may allocate
_SECONDS = 60  # the longest run
_INT32, _INT64 = 6, 7  # TensorProto.DataType
_TAPPED = {"X": 0, "sequence_lens": 4, "initial_h": 5, "initial_c": 6}  # indices of a node's inputs
_OUTPUTS = ("Y", "Y_h", "Y_c")


def run_model(source: str | os.PathLike[str], name: str | Sequence[str] | None, seed: int) -> Tapped:
    """Run a whole model and return its LSTM's inputs and outputs; see `running.model.Tapped`.

    Only onnxruntime's own operators run; no others are loaded. External data is read only from the model's own folder.
    All inputs together have at most 16,777,216 numbers. The run takes at most 4 GB and 60 seconds.

    Raises:
        ModelNotRunError: the model can't be run in this way. The message says why.
        ImportError: onnxruntime is not installed.
        ValueError: see `from_onnx`.
    """
    found = Found(open_model(source))
    units = found.choose(name)
    lstms, turned = [unit.named for unit in units], found.turns(units)[-1]
    for lstm in lstms:
        if lstm.node.scope.owner is not None:
            owner = lstm.node.scope.owner
            raise ModelNotRunError(
                f"the LSTM {lstm.label!r} is within {owner.op} {owner.name!r}, where it can't be tapped"
            )
    model = _with_taps(found, lstms)
    rng = np.random.default_rng(seed)
    for attempt, open_dims in enumerate(_OPEN_DIMS):
        filling = _Filling(found, lstms, open_dims, rng)
        feeds = filling.feeds()
        try:
            return _tapped(lstms, _results(model, feeds), turned=turned)
        except ModelNotRunError:
            if not filling.has_guessed or attempt == len(_OPEN_DIMS) - 1:
                raise
    raise AssertionError


def _with_taps(found: Found, lstms: Sequence[LSTM]) -> Proto:
    """Return a copy of the model with its external data, and with the LSTM's inputs and outputs as more outputs."""
    model = type(found.model.proto)()
    model.CopyFrom(found.model.proto)
    _inline(found.model, model)
    graph, helper = model.graph, package().helper
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    prefix = "fusedlstm"
    while any(name.startswith(prefix) for name in taken):
        prefix += "_"
    for k, lstm in enumerate(lstms):
        node = graph.node[_index_of(found.model.proto.graph, lstm.node)]
        while len(node.output) < len(_OUTPUTS):
            node.output.append("")
        for index, name in enumerate(_OUTPUTS):
            node.output[index] = node.output[index] or f"{prefix}_{name}_{k}"
        given = {name: lstm.node.input(index) for name, index in _TAPPED.items()}
        given |= dict(zip(_OUTPUTS, node.output, strict=True))
        for name, value in given.items():
            if value:
                graph.node.append(helper.make_node("Identity", [value], [_tap(name, k)]))
                graph.output.append(package().ValueInfoProto(name=_tap(name, k)))
    return model


def _tap(name: str, k: int) -> str:
    return f"tapped {name} of layer {k}"


def _index_of(graph: Proto, node: Node) -> int:
    return next(index for index, proto in enumerate(graph.node) if proto is node.proto)


def _inline(model: Model, copy: Proto) -> None:
    """Put external data into a copy of a model, with the same checks as in `from_onnx`."""
    waiting = [copy.graph, *copy.functions]
    while waiting:
        graph = waiting.pop()
        tensors = [*getattr(graph, "initializer", ())]
        for node in graph.node:
            for attribute in node.attribute:
                tensors += [attribute.t] if attribute.HasField("t") else []
                tensors += attribute.tensors
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs
        for tensor in tensors:
            inlined(model, tensor, f"the tensor {tensor.name!r}")


@dataclass
class _Filling:
    """Chooses random inputs for a model."""

    found: Found
    lstms: Sequence[LSTM]
    open_dims: Sequence[int]
    rng: np.random.Generator
    has_guessed: bool = False
    _params: dict[str, int] = field(default_factory=dict)

    def feeds(self) -> dict[str, NumpyArray]:
        """Return an array for each input without a default."""
        graph = self.found.model.proto.graph
        defaults = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in defaults]
        known = self._known_dims()
        lengths = self._lengths()
        shapes: dict[str, list[int]] = {}
        for value in sorted(inputs, key=lambda value: value.name not in known):
            shapes[value.name] = self._shape(value, known.get(value.name))
        total = sum(math.prod(shape) for shape in shapes.values())
        if total > _MOST_NUMBERS:
            raise ModelNotRunError(f"its inputs have {total} numbers, more than {_MOST_NUMBERS}")
        return {value.name: self._filled(value, shapes[value.name], value.name in lengths) for value in inputs}

    def _known_dims(self) -> dict[str, list[int]]:
        """Return the dims of the inputs that lead to the LSTM's X and states, by input name."""
        first = self.found.chains.frame(self.lstms[0])
        self.T = first.T[0] if not first.T[1] else _STEPS
        self.B = first.B[0] if not first.B[1] else _ROWS
        known: dict[str, list[int]] = {}
        for k, lstm in enumerate(self.lstms):
            arrays = lstm.arrays(self.found.constants)
            sizes = {"T": self.T, "B": self.B, "D": lstm.num_directions, "1": 1}
            sizes |= {"I": int(arrays["W"].shape[-1]), "N": int(arrays["R"].shape[-1])}
            for name, index in _TAPPED.items():
                value = lstm.node.value(index)
                if value is None or (name == "X" and k):
                    continue
                axes = {"X": ["T", "B", "I"], "sequence_lens": ["B"]}.get(name, ["D", "B", "N"])
                if lstm.batch_first and name != "sequence_lens":
                    axes[:2] = axes[1::-1]
                source, moved = traced(value, axes, self.found.constants)
                if source is not None:
                    known[source.name] = [sizes[axis] for axis in moved]
        return known

    def _lengths(self) -> set[str]:
        """Return the inputs that are sequence_lens."""
        values = [lstm.node.value(_TAPPED["sequence_lens"]) for lstm in self.lstms]
        return {source.name for value in values if value is not None and (source := unmoved(value)).is_input}

    def _shape(self, value: Proto, known: Sequence[int] | None) -> list[int]:
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            raise ModelNotRunError(f"its input {value.name!r} is not a tensor")
        if not tensor.HasField("shape"):
            if known is None:
                raise ModelNotRunError(f"its input {value.name!r} declares no shape")
            return list(known)
        dims = list(tensor.shape.dim)
        wanted: Sequence[int | None] = known if known is not None and len(known) == len(dims) else [None] * len(dims)
        return [self._size(dim, size) for dim, size in zip(dims, wanted, strict=True)]

    def _size(self, dim: Proto, wanted: int | None) -> int:
        if dim.HasField("dim_value"):
            return int(dim.dim_value)
        if dim.dim_param and dim.dim_param in self._params:
            return self._params[dim.dim_param]
        if wanted is None:
            self.has_guessed = True
            wanted = self.open_dims[min(len(self._params), len(self.open_dims) - 1)]
        self._params[dim.dim_param or f" {len(self._params)}"] = wanted
        return wanted

    def _filled(self, value: Proto, shape: Sequence[int], is_lengths: bool) -> NumpyArray:
        kind = value.type.tensor_type.elem_type
        if any(size < 0 for size in shape):
            raise ModelNotRunError(f"its input {value.name!r} has the shape {tuple(shape)}")
        if is_lengths and kind in (_INT32, _INT64):
            return self.rng.integers(1, self.T + 1, shape).astype(np.int32 if kind == _INT32 else np.int64)
        name = FLOATS.get(kind)
        if name is None or name == "bfloat16":
            raise ModelNotRunError(f"its input {value.name!r} is not a tensor of floats")
        return self.rng.normal(size=shape).astype(name)


def _results(model: Proto, feeds: Mapping[str, NumpyArray]) -> dict[str, NumpyArray]:
    """Return all outputs of a model."""
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("running ONNX models needs the package onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Run the model's operators unchanged, and compute nothing before the time limit applies.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_env_allocators", "1")
    running = onnxruntime.RunOptions()
    running.log_severity_level = 4
    try:
        onnxruntime.create_and_register_allocator(
            onnxruntime.OrtMemoryInfo(
                "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
            ),
            onnxruntime.OrtArenaCfg({"max_mem": _MOST_MEMORY}),
        )
        content = model.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        with _stopped(running):
            return dict(zip(names, session.run(names, dict(feeds), running), strict=True))
    except Exception as error:  # onnxruntime's own errors share no narrower class
        text = " ".join(str(error).split())
        raise ModelNotRunError(f"onnxruntime: {text[-300:] or type(error).__name__}") from error


@contextlib.contextmanager
def _stopped(running: Any) -> Iterator[None]:
    """End a run that takes too long."""
    timer = threading.Timer(_SECONDS, lambda: setattr(running, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tapped(lstms: Sequence[LSTM], results: Mapping[str, NumpyArray], *, turned: bool) -> Tapped:
    """Return the tapped arrays in the form of LSTM.__call__. `turned` says that the last node reads reversed steps."""

    def of(name: str, k: int) -> NumpyArray | None:
        array = results.get(_tap(name, k))
        if array is None or name == "sequence_lens" or not lstms[k].batch_first:
            return array
        return array.transpose(1, 2, 0, 3) if name == "Y" else array.swapaxes(0, 1)

    X, lengths, Y = of("X", 0), of("sequence_lens", 0), of("Y", len(lstms) - 1)
    assert X is not None
    assert Y is not None
    T, D, B, N = Y.shape
    if lengths is not None:
        lengths = lengths.astype(np.int64)
    states: list[tuple[NumpyArray, NumpyArray]] = []
    finals: list[tuple[NumpyArray, NumpyArray]] = []
    for k in range(len(lstms)):
        starts, ends = [], []
        for name, end_name in (("initial_h", "Y_h"), ("initial_c", "Y_c")):
            end, start = of(end_name, k), of(name, k)
            assert end is not None
            starts.append(np.zeros_like(end) if start is None else start)
            ends.append(_with_rows(end, starts[-1], lengths))
        states += zip(*starts, strict=True)
        finals += zip(*ends, strict=True)
    outputs = Y.transpose(0, 2, 1, 3).reshape(T, B, D * N)
    outputs = outputs[::-1] if turned else outputs
    for array in (X, outputs):
        if not np.isfinite(array.astype(np.float64)).all():
            raise ModelNotRunError("random input leads to numbers that are not finite")
    return Tapped(X, states, lengths, outputs, finals)


def _with_rows(end: NumpyArray, start: NumpyArray, lengths: NumpyArray | None) -> NumpyArray:
    """Return final states. Rows of length 0 get their initial states, as onnxruntime returns zeros for them."""
    return end if lengths is None else np.where((lengths == 0)[None, :, None], start, end)
