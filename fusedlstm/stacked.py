"""The weights of several layers, and of both directions: checked once, then read-only.

A layer reads the sequence forward, backward or in both directions. With both, its output is both directions' outputs
side by side, the forward one first. Each direction of the layer above takes this output as its input. A residual layer
is TensorFlow's ResidualWrapper: each direction's output is its h plus its input, and its state remains h and c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fusedlstm import directions as ways
from fusedlstm.arrays import dtypes
from fusedlstm.validation.advice import use_weights_of
from fusedlstm.validation.arguments import check_dtype, check_size, describe_type, fail
from fusedlstm.weights import LSTMWeights, check_options, for_file

if TYPE_CHECKING:
    from typing import Unpack

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.validation.arguments import AnyPath
    from fusedlstm.weights import CellOptions

# LSTMWeights or StackedWeights, depending on the source. `Any`, because with a union a type checker rejects
# LSTMCell(from_torch(module)). Docstrings name both classes: help() shows only this name.
EitherWeights: TypeAlias = Any
_KIND = "StackedWeights"  # the kind of its files


@dataclass(frozen=True, eq=False, repr=False, init=False)
class StackedWeights:
    """The weights of an LSTM of several layers, which may differ in everything but their dtype.

    Args:
        layers: a sequence of LSTMWeights, layer by layer from the lowest. A layer with both directions has two,
            forward and then backward, as PyTorch orders them. A layer's input_size is the output width of the layer
            below.
        bidirectional: whether each layer has both directions. The two may differ in everything but input_size.
        directions: "forward", "backward" or "both" for each layer. With None, `bidirectional` gives all layers the
            same.
        residual: whether a layer's output is its h plus its input, which must then have the same width. This is a bool
            for all layers, or one for each layer.

    Raises:
        TypeError: an element is not an LSTMWeights, or its dtype differs from the first one's.
        ValueError: there are no layers, their number doesn't fit the directions, or sizes don't fit together. Or a
            direction is unknown, or both `bidirectional` and `directions` are given.
    """

    layers: tuple[LSTMWeights, ...]
    directions: tuple[str, ...]
    residual: tuple[bool, ...]

    def __init__(
        self,
        layers: Sequence[LSTMWeights],
        *,
        bidirectional: bool = False,
        directions: Sequence[str] | None = None,
        residual: bool | Sequence[bool] = False,
    ) -> None:
        set_ = object.__setattr__  # the class is frozen
        both = _bool("bidirectional", bidirectional)
        given = None if directions is None else ways.check(directions, bidirectional=both)
        set_(self, "layers", _layers(layers))
        set_(self, "directions", ways.alike(len(self.layers), both=both) if given is None else given)
        self._check_elements()
        set_(self, "residual", check_residual(residual, self.num_layers))
        self._check_sizes()

    def _check_elements(self) -> None:
        for index, weights in enumerate(self.layers):
            if not isinstance(weights, LSTMWeights):
                hint = use_weights_of(weights)
                if isinstance(weights, StackedWeights):
                    hint = "To stack two, pass [*lower.layers, *upper.layers]"
                fail(TypeError, self._name(index), "an LSTMWeights", describe_type(weights), hint)
        ways.check_count(self.directions, len(self.layers))
        for index, weights in enumerate(self.layers):
            hint = f'Use layers[{index}].astype("{self.dtype}")'
            check_dtype(self._name(index), weights.dtype, self.dtype, "that of layers[0]", hint)

    def _check_sizes(self) -> None:
        width, of = self.input_size, "that of layers[0]"
        for layer, (which, residual) in enumerate(zip(self.slices, self.residual, strict=True)):
            directions = self.layers[which]
            for index, weights in enumerate(directions, which.start):
                if weights.input_size != width:
                    fail(ValueError, self._name(index), f"input_size {width} ({of})", str(weights.input_size))
                if residual and weights.output_size != width:
                    wanted = f"output_size {width} (the input_size, as the layer is residual)"
                    fail(ValueError, self._name(index), wanted, str(weights.output_size))
            width, of = _width(directions), f"the width of layer {layer}'s output"

    def _name(self, index: int) -> str:
        """Return the name of the element at this index, for errors."""
        if self.is_causal or index >= len(self.backward):
            return f"layers[{index}]"
        layer = next(layer for layer, which in enumerate(self.slices) if index < which.stop)
        return f"layers[{index}] (layer {layer}, {'backward' if self.backward[index] else 'forward'})"

    @property
    def bidirectional(self) -> bool:
        """Whether every layer has both directions."""
        return set(self.directions) == {ways.BOTH}

    @property
    def is_causal(self) -> bool:
        """Whether every layer is forward, so that no output depends on a later step. Only these can be stepped."""
        return set(self.directions) == {ways.FORWARD}

    @property
    def num_directions(self) -> int:
        """D: 2 if every layer has both directions, or 1 if none has.

        Raises:
            ValueError: some layers have both directions, and others one.
        """
        if self.bidirectional or ways.BOTH not in self.directions:
            return 2 if self.bidirectional else 1
        fail(ValueError, "num_directions", "layers of one direction each, or of two each", ", ".join(self.directions))

    @property
    def num_layers(self) -> int:
        """The number of layers, each of one or two LSTMWeights."""
        return len(self.directions)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Each layer's slice of `layers`: one element, or forward and backward."""
        return ways.slices_of(self.directions)

    @property
    def backward(self) -> tuple[bool, ...]:
        """Whether each of `layers` reads from the last step to the first."""
        return ways.backward_of(self.directions)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every array, and of x and h."""
        return self.layers[0].dtype

    @property
    def input_size(self) -> int:
        """I, the width of the inputs."""
        return self.layers[0].input_size

    @property
    def output_size(self) -> int:
        """The width of the outputs: those of the top layer's directions side by side."""
        return _width(self.layers[self.slices[-1]])

    @classmethod
    def random(
        cls,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        seed: int,
        bidirectional: bool = False,
        directions: Sequence[str] | None = None,
        residual: bool | Sequence[bool] = False,
        proj_size: int | None = None,
        bias: bool = True,
        peephole: bool = False,
        forget_bias: float = 0.0,
        dtype: Any = "float32",
        **options: Unpack[CellOptions],
    ) -> StackedWeights:
        """Return untrained weights. `LSTMWeights.random` makes each layer and direction.

        Args:
            input_size: I, at least 0.
            hidden_size: N of every layer, at least 1.
            num_layers: at least 1.
            seed: the seed, from which each layer and direction gets its own.
            bidirectional: as in the class.
            directions: as in the class, one for each of `num_layers`.
            residual: as in the class.
            proj_size: as in `LSTMWeights.random`. This and all arguments below apply to every layer.
            bias: as in `LSTMWeights.random`.
            peephole: as in `LSTMWeights.random`.
            forget_bias: as in `LSTMWeights.random`.
            dtype: as in `LSTMWeights.random`.
            options: cell_clip, proj_clip, activation, output_activation, gate_activation, gate_clip, coupled_gate,
                zoneout_c and zoneout_h, as in `LSTMWeights`.
        """
        check_options("StackedWeights.random", options)
        both, L = _bool("bidirectional", bidirectional), check_size("num_layers", num_layers, 1)
        if directions is None:
            directions = ways.alike(2 * L if both else L, both=both)
        else:
            directions = ways.check(directions, bidirectional=both)
            if len(directions) != L:
                fail(ValueError, "directions", f"one for each of {L} layers (num_layers)", f"{len(directions)} of them")
        layers: list[LSTMWeights] = []
        width, slices = input_size, ways.slices_of(directions)
        seeds = np.random.SeedSequence(seed).generate_state(slices[-1].stop, np.uint64)
        for which in slices:
            layers += [
                LSTMWeights.random(
                    width,
                    hidden_size,
                    seed=int(layer_seed),
                    proj_size=proj_size,
                    bias=bias,
                    peephole=peephole,
                    forget_bias=forget_bias,
                    dtype=dtype,
                    **options,
                )
                for layer_seed in seeds[which]
            ]
            width = _width(layers[which])
        return cls(layers, directions=directions, residual=residual)

    def astype(self, dtype: Any) -> StackedWeights:
        """Return the weights in one of the four dtypes. If they have it already, return the same object."""
        dtype = dtypes.resolve(dtype)
        if dtype == self.dtype:
            return self
        return _restore(tuple(weights.astype(dtype) for weights in self.layers), self.directions, self.residual)

    def save(self, path: AnyPath) -> None:
        """Write all layers to one safetensors file. A file of that name is replaced whole or not at all.

        An interrupt leaves the old file or the new one. The next save removes the temporary file of a killed save.

        Raises:
            OSError: the file can't be written, or is read-only. The error names `path`, and an older file is unchanged.
            TypeError: `path` is not a path. File descriptors and open files are not accepted.
        """
        from fusedlstm import files

        arrays = {f"{index}.{name}": array for index, name, array in self._all_arrays()}
        least, directions = ways.for_file(self.directions)
        version, layers = for_file(self.layers, least)
        options = {"layers": layers, **directions, "residual": list(self.residual)}
        files.save(path, _KIND, arrays, options, version)

    def _all_arrays(self) -> Iterator[tuple[int, str, NumpyArray]]:
        for index, weights in enumerate(self.layers):
            for name, array in weights.arrays().items():
                yield index, name, array

    @classmethod
    def load(cls, path: AnyPath) -> StackedWeights:
        """Read weights that `save` wrote, bit for bit. Nothing in the file is ever executed.

        Raises:
            WeightsFileError: the file is damaged, truncated, of another kind, or from a newer version.
            OSError: the file can't be read. The error names `path`.
            TypeError: `path` is not a path. File descriptors and open files are not accepted.
        """
        from fusedlstm import files

        arrays, options = files.load(path, _KIND)
        return files.build(path, _from_file, {"arrays": arrays}, options)

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructor checks a copy again.
        return _restore, (self.layers, self.directions, self.residual)

    def __repr__(self) -> str:
        parts = [f"[{', '.join(map(repr, self.layers))}]"]
        if not self.is_causal:
            parts.append(ways.as_argument(self.directions))
        if any(self.residual):
            parts.append(f"residual={True if all(self.residual) else self.residual}")
        return f"StackedWeights({', '.join(parts)})"


def load_weights(path: AnyPath) -> EitherWeights:
    """Read weights that LSTMWeights or StackedWeights saved, bit for bit.

    Returns:
        LSTMWeights or StackedWeights, whichever the file holds.

    Raises:
        WeightsFileError: the file is damaged, truncated, of another kind, or from a newer version.
        OSError: the file can't be read. The error names `path`.
        TypeError: `path` is not a path. File descriptors and open files are not accepted.
    """
    from fusedlstm import files

    kind, arrays, options = files.load_any(path, ("LSTMWeights", _KIND))
    if kind == _KIND:
        return files.build(path, _from_file, {"arrays": arrays}, options)
    return files.build(path, LSTMWeights, arrays, options)


def _restore(layers: Sequence[LSTMWeights], directions: Sequence[str], residual: Sequence[bool]) -> StackedWeights:
    return StackedWeights(layers, directions=directions, residual=residual)


def _from_file(*, arrays: Mapping[str, NumpyArray], layers: Any, residual: Any, **directions: Any) -> StackedWeights:
    """Return the weights of a file with the arrays "0.weight_ih", "0.weight_hh" ... The options may be anything.

    Raises:
        TypeError, ValueError: the file's content is not that of a StackedWeights.
    """
    if not isinstance(layers, list) or not all(isinstance(options, dict) for options in layers):
        fail(TypeError, "layers", "the options of each layer", describe_type(layers))
    own: list[dict[str, NumpyArray]] = [{} for _ in layers]
    numbers = {str(index): index for index in range(len(layers))}
    for full, array in arrays.items():
        index, _, name = full.partition(".")
        if index not in numbers:
            fail(ValueError, full, f"an array of one of {len(layers)} layers", f"shape {array.shape}")
        own[numbers[index]][name] = array
    built = [_layer_from_file(index, own[index], options) for index, options in enumerate(layers)]
    return StackedWeights(built, residual=residual, **ways.from_file(directions))


def _layer_from_file(index: int, arrays: Mapping[str, Any], options: Mapping[str, Any]) -> LSTMWeights:
    try:
        return LSTMWeights(**arrays, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"layers[{index}]: {error}") from error


def _width(directions: Sequence[LSTMWeights]) -> int:
    """Return the output width of a layer with these directions."""
    return sum(weights.output_size for weights in directions)


def _layers(layers: Any) -> tuple[Any, ...]:
    """Return a sequence's elements. Raise if it is empty."""
    if isinstance(layers, LSTMWeights):
        fail(TypeError, "layers", "a sequence of LSTMWeights", "one LSTMWeights", "Use StackedWeights([weights])")
    if not isinstance(layers, Sequence) or isinstance(layers, (str, bytes)):
        fail(TypeError, "layers", "a sequence of LSTMWeights", describe_type(layers), use_weights_of(layers))
    if not layers:
        fail(ValueError, "layers", "at least one LSTMWeights", "none")
    return tuple(layers)


def check_residual(residual: Any, num_layers: int) -> tuple[bool, ...]:
    """Return one bool for each layer."""
    if isinstance(residual, (bool, np.bool_)):
        return (bool(residual),) * num_layers
    if not isinstance(residual, Sequence) or isinstance(residual, (str, bytes)):
        fail(TypeError, "residual", "a bool, or a sequence of bools, one for each layer", describe_type(residual))
    if len(residual) != num_layers:
        fail(ValueError, "residual", f"one bool for each of {num_layers} layers", f"{len(residual)} of them")
    return tuple(_bool(f"residual[{layer}]", value) for layer, value in enumerate(residual))


def _bool(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        fail(TypeError, name, "a bool", describe_type(value))
    return bool(value)
