"""The form of a module's cell: everything except the values of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusedlstm import directions as ways
from fusedlstm.validation.arguments import check_bool, check_real, check_size, fail
from fusedlstm.weights import ZONEOUTS, check_options, checked_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusedlstm.weights import LSTMWeights


@dataclass(frozen=True)
class CellForm:
    """The sizes, parameters and options of one cell. All have been checked.

    Attributes:
        input_size: I.
        hidden_size: N.
        proj_size: P, or None without a projection.
        bias: whether the cell has PyTorch's two biases.
        peephole: whether the cell has peepholes.
        options: the options of `LSTMWeights`, by name.
    """

    input_size: int
    hidden_size: int
    proj_size: int | None
    bias: bool
    peephole: bool
    options: Mapping[str, Any]

    @classmethod
    def make(
        cls,
        function: str,
        input_size: Any,
        hidden_size: Any,
        proj_size: Any,
        *,
        bias: Any,
        peephole: Any,
        options: Mapping[str, Any],
    ) -> CellForm:
        """Check the arguments of a module's constructor, whose name is `function`, and return its form.

        A proj_size of 0 or None means no projection.

        Raises:
            TypeError, ValueError: an argument is wrong. The error names it.
        """
        check_options(function, options)
        check_bool("bias", bias)
        check_bool("peephole", peephole)
        I, N = check_size("input_size", input_size, 0), check_size("hidden_size", hidden_size, 1)
        P = check_size("proj_size", 0 if proj_size is None else proj_size, 0) or None
        checked = checked_options(options, has_projection=P is not None)
        _refuse_zoneout(checked)
        return cls(I, N, P, bias, peephole, checked)

    @classmethod
    def of(cls, weights: LSTMWeights) -> CellForm:
        """Return the form of weights. Raise ValueError if they have zoneout."""
        _refuse_zoneout(weights.options())
        has = {name: getattr(weights, name) is not None for name in ("bias", "peephole")}
        return cls(weights.input_size, weights.hidden_size, weights.proj_size, **has, options=weights.options())

    @property
    def output_size(self) -> int:
        """P, or N without a projection."""
        return self.proj_size or self.hidden_size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the cell's parameters by name, in the order in which PyTorch draws their values."""
        I, N, P = self.input_size, self.hidden_size, self.output_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (4 * N, I), "weight_hh": (4 * N, P)}
        if self.bias:
            shapes |= {"bias_ih": (4 * N,), "bias_hh": (4 * N,)}
        if self.proj_size is not None:
            shapes["weight_hr"] = (P, N)
        if self.peephole:
            shapes["peephole"] = (3, N)
        return shapes


def _refuse_zoneout(options: Mapping[str, Any]) -> None:
    for name in ZONEOUTS:
        if options[name]:
            wanted = "0 in a module, as training with zoneout needs random masks"
            fail(ValueError, name, wanted, str(options[name]), "fusedlstm.LSTM and LSTMCell have it, for inference")


def check_forget_bias(forget_bias: Any, forms: Sequence[CellForm]) -> float:
    """Return a forget bias as a float. Raise if it isn't 0 and a cell has no bias."""
    value = check_real("forget_bias", forget_bias)
    if value and not all(form.bias for form in forms):
        fail(ValueError, "forget_bias", "0 without a bias", str(forget_bias))
    return value


def check_directions(directions: Any, num_layers: Any, bidirectional: Any) -> tuple[str, ...]:
    """Return the direction of each layer from the arguments of a module's constructor, or raise."""
    L = check_size("num_layers", num_layers, 1)
    check_bool("bidirectional", bidirectional)
    if directions is None:
        return (ways.BOTH if bidirectional else ways.FORWARD,) * L
    checked: tuple[str, ...] = tuple(ways.check(directions, bidirectional=bidirectional))
    if len(checked) != L:
        fail(ValueError, "directions", f"one for each of {L} layers (num_layers)", f"{len(checked)} of them")
    return checked


def forms_of_layers(
    directions: Sequence[str], sizes: tuple[Any, Any, Any], *, bias: Any, peephole: Any, options: Mapping[str, Any]
) -> list[CellForm]:
    """Return the form of each cell of an LSTM with these directions. `sizes` are input_size, hidden_size and proj_size.

    Raises:
        TypeError, ValueError: as `CellForm.make`.
    """
    width, hidden_size, proj_size = sizes
    forms: list[CellForm] = []
    for direction in directions:
        form = CellForm.make("LSTM", width, hidden_size, proj_size, bias=bias, peephole=peephole, options=options)
        forms += [form] * ways.width_of(direction)
        width = form.output_size * ways.width_of(direction)
    return forms


def check_residual_sizes(forms: Sequence[CellForm], *, is_residual: bool) -> None:
    """Raise ValueError if a residual layer's outputs don't have the width of its inputs."""
    for form in forms:
        if is_residual and form.output_size != form.input_size:
            wanted = f"False for a layer of {form.input_size} inputs and {form.output_size} outputs"
            fail(ValueError, "residual", wanted, "True")
