"""The direction of each layer of a stack: its names, and which of its LSTMWeights read backward.

    "forward"   from the first step to the last
    "backward"  from the last step to the first
    "both"      both at once, in two LSTMWeights, the forward one first

Each output stays at the index of its x. So a layer reads what the layer below made of the same step, whatever the two
directions are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusedlstm.validation.arguments import check_choice, describe_type, fail

FORWARD, BACKWARD, BOTH = "forward", "backward", "both"
NAMES = (FORWARD, BACKWARD, BOTH)
_BACKWARD = {FORWARD: (False,), BACKWARD: (True,), BOTH: (False, True)}


def check(directions: Any, *, bidirectional: bool) -> tuple[str, ...]:
    """Return the directions that a caller gave, one for each layer. Raise if they are wrong."""
    if bidirectional:
        fail(ValueError, "bidirectional", "False with directions, which say the same for each layer", "True")
    if not isinstance(directions, Sequence) or isinstance(directions, (str, bytes)):
        wanted = f"a sequence with one of {', '.join(map(repr, NAMES))} for each layer"
        fail(TypeError, "directions", wanted, describe_type(directions))
    for layer, direction in enumerate(directions):
        check_choice(f"directions[{layer}]", direction, NAMES)
    return tuple(directions)


def alike(count: int, *, both: bool) -> tuple[str, ...]:
    """Return the directions of layers with `count` LSTMWeights: all "both", or all "forward"."""
    if not both:
        return (FORWARD,) * count
    if count % 2:
        wanted = "an even number with bidirectional=True: forward and backward for each layer"
        fail(ValueError, "layers", wanted, str(count))
    return (BOTH,) * (count // 2)


def check_count(directions: Sequence[str], count: int) -> None:
    """Raise unless layers with these directions have `count` LSTMWeights."""
    number = len(backward_of(directions))
    if number != count:
        wanted = f"{number} for these directions: two for each {BOTH!r}, else one"
        fail(ValueError, "layers", wanted, str(count))


def as_argument(directions: Sequence[str]) -> str:
    """Return the argument of StackedWeights that asks for these directions; "" for its default."""
    if set(directions) == {FORWARD}:
        return ""
    return "bidirectional=True" if set(directions) == {BOTH} else f"directions={list(directions)}"


def for_file(directions: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Return the earliest version of files that can hold these directions, and the option of that version."""
    if len(set(directions)) > 1 or BACKWARD in directions:
        return 4, {"directions": list(directions)}
    return 1, {"bidirectional": directions[0] == BOTH}


def from_file(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of StackedWeights for what `for_file` returned. Raise TypeError for anything else."""
    if list(options) not in (["bidirectional"], ["directions"]) or None in options.values():
        fail(TypeError, "options", "bidirectional or directions", ", ".join(options) or "neither")
    return options


def backward_of(directions: Sequence[str]) -> tuple[bool, ...]:
    """Return whether each LSTMWeights of layers with these directions reads backward."""
    return tuple(backward for direction in directions for backward in _BACKWARD[direction])


def width_of(direction: str) -> int:
    """Return how many LSTMWeights a layer of this direction has."""
    return len(_BACKWARD[direction])


def slices_of(directions: Sequence[str]) -> tuple[slice, ...]:
    """Return each layer's slice of all LSTMWeights."""
    slices, start = [], 0
    for direction in directions:
        slices.append(slice(start, start + width_of(direction)))
        start += width_of(direction)
    return tuple(slices)
