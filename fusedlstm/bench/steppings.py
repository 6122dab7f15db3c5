"""What a process of a benchmark steps: our cell or LSTM, torch.nn.LSTM(Cell), or onnxruntime's LSTM.

A step takes x in host memory, and its output is in host memory when it ends.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.arrays.host import to_host
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.weights import as_layers

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.cell import LSTMCell
    from fusedlstm.lstm import LSTM
    from fusedlstm.weights import LSTMWeights

OURS = "fusedlstm"


def version() -> str:
    """Return this package's version. Importing the package here would be a cycle."""
    return str(sys.modules["fusedlstm"].__version__)


class CannotStepError(Exception):
    """A library isn't installed, or can't step these weights."""


@dataclass(frozen=True)
class Task:
    """What to step.

    Attributes:
        library: a key of LIBRARIES.
        owner: our cell or LSTM; None for another library.
        weights: its weights.
        batch: B.
        how: "call", "out" or "stepper".
        threads: the number of threads; None on a GPU.
        device: "cpu", "cuda:0", ...
    """

    library: str
    owner: LSTMCell | LSTM | None
    weights: LSTMWeights | StackedWeights
    batch: int
    how: str
    threads: int | None
    device: str

    @property
    def layers(self) -> StackedWeights:
        """The weights as layers."""
        return as_layers(self.weights)


class Stepping(Protocol):
    """A library that takes steps. It keeps its states, which begin as zeros.

    Attributes:
        library: the library's name and version.
        counts_memory: whether `tracemalloc` sees the arrays that it allocates.
    """

    library: str
    counts_memory: bool

    def native(self, x: NumpyArray) -> Any:
        """Return x (B, I) as `step` takes it."""

    def step(self, x: Any) -> object:
        """Take a step. Its output is in host memory."""

    def states(self) -> list[tuple[NumpyArray, NumpyArray]]:
        """Return copies of h (B, P) and c (B, N) of each layer."""


class Ours:
    """An LSTMCell, an LSTM or a Stepper of this package."""

    counts_memory = True

    def __init__(self, task: Task) -> None:
        owner: Any = task.owner
        self.library = f"{OURS} {version()}"
        self._owner, self._on_gpu = owner, owner.backend != "numpy"
        self._is_cell = owner._is_cell
        self._stepper = owner.stepper(task.batch, host=True) if task.how == "stepper" else None
        self._state, self._other = owner.zero_state(task.batch), owner.zero_state(task.batch)
        self.step: Callable[[Any], object] = self._step_of(task.how)

    def _step_of(self, how: str) -> Callable[[Any], object]:
        if self._stepper is not None:
            step: Callable[[Any], object] = self._stepper.step
            return step
        plain = {"call": self._call if self._is_cell else self._call_layers, "out": self._call_with_out}[how]
        return self._host_to_host(plain) if self._on_gpu else plain

    def _host_to_host(self, plain: Callable[[Any], Any]) -> Callable[[Any], object]:
        return lambda x: to_host("h", plain(self._owner.asarray(x)))

    def _call(self, x: Any) -> Any:
        self._state = self._owner(x, self._state)
        return self._state.h

    def _call_with_out(self, x: Any) -> Any:
        self._state, self._other = self._owner(x, self._state, out=self._other), self._state
        return self._state.h

    def _call_layers(self, x: Any) -> Any:
        output, self._state = self._owner.step(x, self._state)
        return output

    def native(self, x: NumpyArray) -> NumpyArray:
        """Return x itself."""
        return x

    def states(self) -> list[tuple[NumpyArray, NumpyArray]]:
        """Return copies."""
        state = self._state if self._stepper is None else self._stepper.read()
        hosts = [each.to_numpy() for each in ((state,) if self._is_cell else state)]
        return [(np.array(host.h), np.array(host.c)) for host in hosts]


class Torch:
    """torch.nn.LSTMCell, or torch.nn.LSTM for layers and projections, without gradients."""

    counts_memory = False

    def __init__(self, task: Task) -> None:
        try:
            import torch
        except ImportError as error:
            raise CannotStepError("it is not installed") from error
        from fusedlstm.convert import to_torch

        if task.threads is not None:
            torch.set_num_threads(task.threads)
        first = task.layers.layers[0]
        self._is_cell = not isinstance(task.weights, StackedWeights) and first.proj_size is None
        try:
            parameters = to_torch(task.weights if self._is_cell else task.layers)
        except ValueError as error:
            raise CannotStepError(str(error)) from error
        dtype = getattr(torch, task.weights.dtype.name)
        sizes: dict[str, Any] = {"bias": first.bias is not None, "device": task.device, "dtype": dtype}
        L, B, N, P = len(task.layers.layers), task.batch, first.hidden_size, first.output_size
        if not self._is_cell:
            sizes |= {"num_layers": L, "proj_size": first.proj_size or 0}
        make: Any = torch.nn.LSTMCell if self._is_cell else torch.nn.LSTM
        self._module = make(first.input_size, N, **sizes)
        self._module.load_state_dict(parameters)
        ahead = () if self._is_cell else (L,)
        self._h, self._c = (torch.zeros((*ahead, B, size), device=task.device, dtype=dtype) for size in (P, N))
        self.library = f"torch.nn.{make.__name__} {torch.__version__}"
        self._device, self._on_gpu = task.device, task.device != "cpu"
        self.step: Callable[[Any], object] = torch.inference_mode()(self._step)

    def native(self, x: NumpyArray) -> Any:
        """Return a tensor: (B, I) for a cell, (1, B, I) for layers."""
        from fusedlstm.convert.torch.writing import to_tensor

        return to_tensor(np.array(x if self._is_cell else x[None]))

    def _step(self, x: Any) -> object:
        if self._on_gpu:
            x = x.to(self._device)
        if self._is_cell:
            self._h, self._c = self._module(x, (self._h, self._c))
            output = self._h
        else:
            output, (self._h, self._c) = self._module(x, (self._h, self._c))
        return output.cpu() if self._on_gpu else output

    def states(self) -> list[tuple[NumpyArray, NumpyArray]]:
        """Return copies in float64."""
        h, c = (part.double().cpu().numpy().copy() for part in (self._h, self._c))
        return [(h, c)] if self._is_cell else list(zip(h, c, strict=True))


class OnnxRuntime:
    """onnxruntime's LSTM operator, on the CPU, with NumPy arrays."""

    counts_memory = False

    def __init__(self, task: Task) -> None:
        try:
            import onnx  # noqa: F401
            import onnxruntime
        except ImportError as error:
            raise CannotStepError(f"{error.name} is not installed") from error
        from fusedlstm.convert import to_onnx

        if task.device != "cpu":
            raise CannotStepError("it is timed on CPUs only")
        try:
            model = to_onnx(task.weights)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = task.threads or 1, 1
            options.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common class; the first is for float64
            raise CannotStepError(" ".join(str(error).split())) from error
        dtype = task.weights.dtype
        self._inputs: dict[str, NumpyArray] = {}
        for k, layer in enumerate(task.layers.layers):
            self._inputs[f"initial_h_{k}"] = np.zeros((1, task.batch, layer.output_size), dtype)
            self._inputs[f"initial_c_{k}"] = np.zeros((1, task.batch, layer.hidden_size), dtype)
        self._names = list(self._inputs)
        self._outputs = ["Y", *(name.replace("initial", "Y") for name in self._names)]
        self.library = f"onnxruntime {onnxruntime.__version__}"

    def native(self, x: NumpyArray) -> NumpyArray:
        """Return x as (1, B, I)."""
        return np.array(x[None])

    def step(self, x: Any) -> object:
        """Take a step."""
        self._inputs["X"] = x
        output, *states = self._session.run(self._outputs, self._inputs)
        self._inputs.update(zip(self._names, states, strict=True))
        return output

    def states(self) -> list[tuple[NumpyArray, NumpyArray]]:
        """Return copies."""
        states = [np.array(self._inputs[name][0]) for name in self._names]
        return list(zip(states[0::2], states[1::2], strict=True))


LIBRARIES: dict[str, Callable[[Task], Stepping]] = {OURS: Ours, "torch": Torch, "onnxruntime": OnnxRuntime}


def inputs_of(weights: LSTMWeights | StackedWeights, batch: int, count: int) -> NumpyArray:
    """Return inputs (count, B, I) from -1 to 1 in the weights' dtype."""
    drawn = np.random.default_rng(0).uniform(-1, 1, (count, batch, weights.input_size))
    return drawn.astype(dtypes.resolve(weights.dtype.name))
