"""The weights and options of one LSTM cell: checked once, then read-only.

The formula, in the names and the order that the whole package uses:

    z  = x @ weight_ih.T + h @ weight_hh.T + bias      (B, 4N), blocks i, f, g, o of N columns each
    i  = sigmoid(z_i + p_i * c)                        peepholes i and f see the old c
    f  = sigmoid(z_f + p_f * c)
    g  = activation(z_g)
    c' = clip(f * c + i * g, -cell_clip, cell_clip)    the clipped c is the state
    o  = sigmoid(z_o + p_o * c')                       peephole o sees the new, clipped c
    m  = o * activation(c')
    h' = clip(m @ weight_hr.T, -proj_clip, proj_clip)  h' = m without a projection

B is the batch, I the input size, N the units (hidden size), and P the output size (N without a projection). This is
the formula of TensorFlow 1's LSTMCell (Sak, Senior and Beaufays, 2014), in PyTorch's names, gate order and layout. A
clip keeps NaN, and clips infinities.

Options of other systems change four of these lines. ONNX has all of them except coupled_gate "input":

    i  = gate_activation(clip(z_i + p_i * c, -gate_clip, gate_clip))   f and o likewise
    g  = activation(clip(z_g, -gate_clip, gate_clip))
    i  = 1 - f  or  f = 1 - i                                          coupled_gate "input" or "forget"
    m  = o * output_activation(c')

Zoneout at inference keeps a part of the old states. It comes last: h' has been computed from the new c alone.

    c' = zoneout_c * c + (1 - zoneout_c) * c'
    h' = zoneout_h * h + (1 - zoneout_h) * h'
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.arrays.host import to_host
from fusedlstm.functions import Function, Functions, split
from fusedlstm.validation.arguments import check_bool, check_clip, check_dtype, check_shape, check_size, fail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from fusedlstm.arrays.dtypes import Array, NumpyArray
    from fusedlstm.validation.arguments import AnyPath

ARRAYS = ("weight_ih", "weight_hh", "bias", "peephole", "weight_hr")
CLIPS = ("cell_clip", "proj_clip")
ZONEOUTS = ("zoneout_c", "zoneout_h")
DEFAULTS = Functions().options() | {"zoneout_h": 0.0}


class CellOptions(TypedDict, total=False):
    """The options of `LSTMWeights`, without its arrays, for functions that pass them on."""

    cell_clip: float | None
    proj_clip: float | None
    activation: Function
    output_activation: Function | None
    gate_activation: Function
    gate_clip: float | None
    coupled_gate: str | None
    zoneout_c: float
    zoneout_h: float


def check_options(function: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError, as Python does, unless all of a function's `options` are options of `LSTMWeights`."""
    unknown = sorted(set(options) - set(CellOptions.__annotations__))
    if unknown:
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown[0]!r}")


@dataclass(frozen=True, eq=False, repr=False)
class LSTMWeights:
    """The arrays and options of one LSTM cell.

    Each array is copied into a read-only, C-ordered NumPy array. All have the same dtype: float64, float32, float16 or
    bfloat16 (ml_dtypes).

    Args:
        weight_ih: (4N, I), rows in the gate order i, f, g, o. I may be 0.
        weight_hh: (4N, P).
        bias: (4N,), one vector that includes any forget bias, and is the sum of PyTorch's two; None for no bias.
        peephole: (3, N), rows i, f, o; None for no peepholes.
        weight_hr: (P, N), the projection of the output; None for no projection (then P = N).
        cell_clip: c is clipped to +-cell_clip; None for no clip (0.0 clips to zero).
        proj_clip: the projected h is clipped to +-proj_clip; None for no clip.
        activation: the function of g, and of c' for the output unless output_activation is given. It is one of
            `fusedlstm.functions`, such as "tanh" or ("leaky_relu", 0.01).
        output_activation: the function of c' for the output; None for that of g. If it equals that of g, it is stored
            as None.
        gate_activation: the function of i, f and o.
        gate_clip: the pre-activations, including peepholes, are clipped to +-gate_clip; None for no clip.
        coupled_gate: "input" is i = 1 - f (TensorFlow's CoupledInputForgetGateLSTMCell, TFLite's CIFG). "forget" is
            f = 1 - i (ONNX's input_forget). Arrays keep their four blocks. The coupled gate's block and peephole have
            no effect.
        zoneout_c: z_c, from 0 to 1, the part of c that a step keeps: c' = z_c c + (1 - z_c) c_new. This is the
            expectation of zoneout in training. The output is computed from c_new.
        zoneout_h: z_h, from 0 to 1, the part of h that a step keeps: h' = z_h h + (1 - z_h) h_new. h_new is the output
            after the projection and its clip. A residual layer adds its input afterwards.

    Raises:
        TypeError: an array's dtype differs from weight_ih's or is not one of the four, or a tensor requires grad.
        ValueError: a shape is wrong, a clip is negative, a zoneout is not from 0 to 1, a function is unknown or has
            the wrong parameters, or proj_clip is set without weight_hr.
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array | None = None
    peephole: Array | None = None
    weight_hr: Array | None = None
    _: KW_ONLY
    cell_clip: float | None = None
    proj_clip: float | None = None
    activation: Function = "tanh"
    output_activation: Function | None = None
    gate_activation: Function = "sigmoid"
    gate_clip: float | None = None
    coupled_gate: str | None = None
    zoneout_c: float = 0.0
    zoneout_h: float = 0.0

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # the class is frozen
        for name in ARRAYS:
            set_(self, name, _own(name, getattr(self, name)))
        for name in CLIPS:
            set_(self, name, check_clip(name, getattr(self, name)))
        functions = self.functions
        set_(self, "zoneout_h", functions.zoneout_h)
        for name, value in functions.options().items():  # in the form that `Functions` gives them
            set_(self, name, value)
        check_arrays(self)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every array, and of x and h."""
        dtype: np.dtype[Any] = self.weight_ih.dtype
        return dtype

    @property
    def input_size(self) -> int:
        """I, the width of x."""
        return int(self.weight_ih.shape[1])

    @property
    def hidden_size(self) -> int:
        """N, the number of units: the width of c."""
        return int(self.weight_ih.shape[0]) // 4

    @property
    def proj_size(self) -> int | None:
        """P with a projection, None without one."""
        return None if self.weight_hr is None else int(self.weight_hr.shape[0])

    @property
    def output_size(self) -> int:
        """P, the width of h: the projection's size, or N without one."""
        return self.proj_size or self.hidden_size

    def arrays(self) -> dict[str, NumpyArray]:
        """Return the arrays that are not None, by name."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        return {name: array for name, array in arrays.items() if array is not None}

    @property
    def functions(self) -> Functions:
        """The functions and the other elementwise options, as one value."""
        return Functions.of(
            activation=self.activation,
            output_activation=self.output_activation,
            gate_activation=self.gate_activation,
            gate_clip=self.gate_clip,
            coupled_gate=self.coupled_gate,
            zoneout_c=self.zoneout_c,
            zoneout_h=self.zoneout_h,
        )

    def options(self) -> dict[str, Any]:
        """Return the options (everything but the arrays), by name."""
        clips = {name: getattr(self, name) for name in CLIPS}
        return clips | self.functions.options() | {"zoneout_h": self.zoneout_h}

    @classmethod
    def random(
        cls,
        input_size: int,
        hidden_size: int,
        *,
        seed: int,
        proj_size: int | None = None,
        bias: bool = True,
        peephole: bool = False,
        forget_bias: float = 0.0,
        dtype: Any = "float32",
        **options: Unpack[CellOptions],
    ) -> LSTMWeights:
        """Return untrained weights: every array is uniform in +-1/sqrt(N), as PyTorch initializes its cells.

        Args:
            input_size: I, at least 0.
            hidden_size: N, at least 1.
            seed: the seed of numpy.random.default_rng. It gives the same numbers in every dtype, up to rounding.
            proj_size: P, or None for no projection.
            bias: whether there is a bias.
            peephole: whether there are peepholes.
            forget_bias: added to the forget gate's bias; needs `bias`.
            dtype: "float64", "float32", "float16" or "bfloat16".
            options: cell_clip, proj_clip, activation, output_activation, gate_activation, gate_clip, coupled_gate,
                zoneout_c and zoneout_h, as in the class.
        """
        check_options("LSTMWeights.random", options)
        I = check_size("input_size", input_size, 0)
        N = check_size("hidden_size", hidden_size, 1)
        P = N if proj_size is None else check_size("proj_size", proj_size, 1)
        check_bool("bias", bias)
        check_bool("peephole", peephole)
        dtype = dtypes.resolve(dtype)
        if forget_bias and not bias:
            fail(ValueError, "forget_bias", "0 without a bias", str(forget_bias))
        rng = np.random.default_rng(seed)

        def draw(*shape: int) -> NumpyArray:
            return rng.uniform(-1.0, 1.0, shape) / math.sqrt(N)

        weight_ih, weight_hh = draw(4 * N, I), draw(4 * N, P)
        bias_, peephole_, weight_hr = draw(4 * N), draw(3, N), draw(P, N)
        bias_[N : 2 * N] += forget_bias
        return cls(
            weight_ih.astype(dtype),
            weight_hh.astype(dtype),
            bias_.astype(dtype) if bias else None,
            peephole_.astype(dtype) if peephole else None,
            weight_hr.astype(dtype) if proj_size is not None else None,
            **options,
        )

    def astype(self, dtype: Any) -> LSTMWeights:
        """Return the weights in one of the four dtypes. If they have it already, return the same object."""
        dtype = dtypes.resolve(dtype)
        if dtype == self.dtype:
            return self
        return _restore({name: array.astype(dtype) for name, array in self.arrays().items()}, self.options())

    def save(self, path: AnyPath) -> None:
        """Write arrays and options to a safetensors file. A file of that name is replaced whole or not at all.

        An interrupt leaves the old file or the new one. The next save removes the temporary file of a killed save.

        Raises:
            OSError: the file can't be written, or is read-only. The error names `path`, and an older file is unchanged.
            TypeError: `path` is not a path. File descriptors and open files are not accepted.
        """
        from fusedlstm import files

        version, (options,) = for_file([self])
        files.save(path, "LSTMWeights", self.arrays(), options, version)

    @classmethod
    def load(cls, path: AnyPath) -> LSTMWeights:
        """Read weights that `save` wrote, bit for bit. Nothing in the file is ever executed.

        Raises:
            WeightsFileError: the file is damaged, truncated, of another kind, or from a newer version.
            OSError: the file can't be read. The error names `path`.
            TypeError: `path` is not a path. File descriptors and open files are not accepted.
        """
        from fusedlstm import files

        arrays, options = files.load(path, "LSTMWeights")
        return files.build(path, cls, arrays, options)

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickled arrays are writeable. The constructor checks them and makes them read-only again.
        return _restore, (self.arrays(), self.options())

    def __repr__(self) -> str:
        parts = [f"I={self.input_size}", f"N={self.hidden_size}"]
        if self.proj_size is not None:
            parts.append(f"P={self.proj_size}")
        parts.append(str(self.dtype))
        parts += [name for name in ("bias", "peephole") if getattr(self, name) is not None]
        parts += [f"{name}={value}" for name, value in self.options().items() if value != DEFAULTS.get(name)]
        return f"LSTMWeights({', '.join(parts)})"


# The first file version that can hold each option; 2 for all others.
_SINCE = dict.fromkeys((*CLIPS, "activation"), 1) | {"zoneout_c": 3, "zoneout_h": 3}
# The same for functions, by name. A function with parameters needs at least version 2.
_FUNCTIONS_SINCE = dict.fromkeys(("tanh", "relu", "sigmoid", "softsign", "elu", "linear"), 1)
_FUNCTIONS_SINCE |= dict.fromkeys(("softplus", "affine", "leaky_relu"), 2)
_FUNCTIONS_SINCE |= dict.fromkeys(("thresholded_relu", "scaled_tanh", "hard_sigmoid"), 2)


def for_file(layers: Sequence[LSTMWeights], least: int = 1) -> tuple[int, list[dict[str, Any]]]:
    """Return the earliest file version from `least` on that can hold these weights, and their options in it."""
    options = [weights.options() for weights in layers]
    version = max(least, *map(_earliest, options))
    return version, [
        {name: value for name, value in each.items() if _SINCE.get(name, 2) <= version} for each in options
    ]


def _earliest(options: Mapping[str, Any]) -> int:
    needed = [_SINCE.get(name, 2) for name, value in options.items() if value != DEFAULTS.get(name, value)]
    functions = (options["activation"], options["output_activation"], options["gate_activation"])
    return max(*needed, *(_function_since(function) for function in functions if function is not None), 1)


def _function_since(function: Function) -> int:
    since = _FUNCTIONS_SINCE[split(function)[0]]
    return since if isinstance(function, str) else max(since, 2)


def _restore(arrays: dict[str, Any], options: dict[str, Any]) -> LSTMWeights:
    return LSTMWeights(**arrays, **options)


def _own(name: str, value: Any) -> NumpyArray | None:
    """Return a read-only, C-ordered copy, which no caller can change."""
    if value is None:
        if name in ("weight_ih", "weight_hh"):
            fail(TypeError, name, "an array", "None")
        return None
    array = np.array(to_host(name, value), order="C", copy=True, subok=False)
    array.flags.writeable = False
    return array.view()  # a caller can't make a view of read-only memory writeable again


def checked_options(options: Mapping[str, Any], *, has_projection: bool = True) -> dict[str, Any]:
    """Return all options of `LSTMWeights` in their canonical form. Raise if one is wrong.

    Args:
        options: some of them. Functions may be lists, as from JSON.
        has_projection: whether the cell has a projection, without which it can't have proj_clip.
    """
    # The smallest weights with these options check them.
    weight_hr = np.zeros((1, 1)) if has_projection else None
    return LSTMWeights(np.zeros((4, 0)), np.zeros((4, 1)), weight_hr=weight_hr, **options).options()


def check_arrays(weights: LSTMWeights) -> None:
    """Raise TypeError or ValueError unless arrays of any library have dtypes and shapes that fit together."""
    if not dtypes.is_supported(weights.weight_ih.dtype):
        wanted = f"dtype {', '.join(dtypes.NAMES[:-1])} or {dtypes.NAMES[-1]}"
        fail(TypeError, "weight_ih", wanted, f"dtype {weights.weight_ih.dtype}")
    for name, array in weights.arrays().items():
        check_dtype(name, array.dtype, weights.dtype, "that of weight_ih")
    if weights.weight_ih.ndim != 2 or weights.weight_ih.shape[0] % 4 or weights.weight_ih.shape[0] == 0:
        wanted = "shape (4N, I): the rows of four gates"
        fail(ValueError, "weight_ih", wanted, f"shape {weights.weight_ih.shape}")
    sizes = {"N": weights.hidden_size, "I": weights.input_size}
    if weights.weight_hr is None:
        sizes["P"] = weights.hidden_size
        if weights.proj_clip is not None:
            fail(ValueError, "proj_clip", "None without weight_hr", str(weights.proj_clip))
    else:
        if weights.weight_hr.ndim != 2 or weights.weight_hr.shape[0] == 0:
            fail(ValueError, "weight_hr", "shape (P, N)", f"shape {weights.weight_hr.shape}")
        sizes["P"] = weights.weight_hr.shape[0]
        check_shape("weight_hr", weights.weight_hr.shape, "P N", sizes)
    check_shape("weight_hh", weights.weight_hh.shape, "4N P", sizes)
    if weights.bias is not None:
        check_shape("bias", weights.bias.shape, "4N", sizes)
    if weights.peephole is not None:
        check_shape("peephole", weights.peephole.shape, "3 N", sizes)


def weights_over(arrays: Mapping[str, NumpyArray], options: Mapping[str, Any]) -> LSTMWeights:
    """Return weights over these arrays in place, without checks or copies. Training overwrites them between calls.

    Args:
        arrays: the arrays by name, which fit together. Missing ones are None. Don't write to them during a call.
        options: what `LSTMWeights.options` returned.
    """
    weights = object.__new__(LSTMWeights)
    for name in ARRAYS:
        object.__setattr__(weights, name, arrays.get(name))
    for name, value in options.items():
        object.__setattr__(weights, name, value)
    return weights
