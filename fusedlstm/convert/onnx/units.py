"""Group nodes that are one LSTM: nodes with equal weights in exclusive branches of an If. Only one runs.

Exporters write a cell in this way if its state may be absent (Silero's VAD). A `Unit` holds the nodes of one LSTM, most
often a single node. A stack is a chain of units.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.errors import WeightsFileError
from fusedlstm.files import blaming

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.onnx.chain import Chains
    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.graph import Node
    from fusedlstm.convert.onnx.node import LSTM

_BRANCHES = {"then_branch", "else_branch"}
_MOST_ALIKE = 1000  # nodes with equal weights in branches; each is compared with those before it


@dataclass(eq=False)
class Unit:
    """The nodes of one LSTM.

    Attributes:
        members: the nodes, in the model's order.
        named: the node that the caller named, or the first one.
    """

    members: list[LSTM]
    named: LSTM

    @property
    def others(self) -> list[LSTM]:
        """Return the other nodes of this LSTM."""
        return [member for member in self.members if member is not self.named]


def as_units(lstms: Sequence[LSTM], constants: Constants) -> list[Unit]:
    """Group nodes by LSTM, in order."""
    units: list[Unit] = []
    alike: dict[Any, list[Unit]] = {}
    digests: dict[int, bytes] = {}
    for lstm in lstms:
        unit = None
        is_branch = any(owner.op == "If" for owner, _ in lstm.node.ancestry())
        key = _key(lstm, constants, digests) if is_branch else None
        if key is not None:
            found = alike.setdefault(key, [])
            unit = _place_in(found, lstm) if len(found) < _MOST_ALIKE else None
            if unit is None:
                unit = Unit([], lstm)
                found.append(unit)
                units.append(unit)
            unit.members.append(lstm)
        else:
            units.append(Unit([lstm], lstm))
    return units


def why_not_on(upper: Unit, lower: Unit, chains: Chains) -> str:
    """Return why an LSTM is not the layer above another one; "" if it is."""
    if all(_are_exclusive(one.node, other.node) for one in upper.members for other in lower.members):
        return (
            f"{upper.named.label!r} and {lower.named.label!r} are in two branches of an If and have different weights"
        )
    reached: dict[int, list[LSTM]] = {}
    turned: set[bool] = set()
    own = {id(member) for member in lower.members}
    for member in upper.members:
        below = chains.below(member)
        turned.add(below.turned)
        why = below.why or ("the steps in an order that depends on an If" if len(turned) > 1 else "")
        if why:
            return f"{member.label!r} reads {why}"
        for each in below.lowers:
            if id(each) not in own:
                return f"{member.label!r} reads the output of the LSTM {each.label!r}"
            reached.setdefault(id(each), []).append(member)
    for each in lower.members:
        if id(each) not in reached:
            return f"{upper.named.label!r} does not read the output of {each.label!r}, the same LSTM in another branch"
        if not _is_covered([_inside(member.node, each.node) for member in reached[id(each)]]):
            return f"{upper.named.label!r} is in only one branch of an If, and {each.label!r} is outside of the If"
    return ""


def _key(lstm: LSTM, constants: Constants, digests: dict[int, bytes]) -> Any:
    """Return a key that is equal for nodes with equal weights and attributes; None if they can't be read."""
    try:
        with blaming(lstm.label):
            arrays = lstm.arrays(constants)
            options = repr(lstm.options(arrays["W"].dtype))
            parts = [(name, array.dtype.name, array.shape, _digest(array, digests)) for name, array in arrays.items()]
            return lstm.direction, lstm.batch_first, options, tuple(parts)
    except WeightsFileError:
        return None


def _digest(array: NumpyArray, digests: dict[int, bytes]) -> bytes:
    """Return a digest of an array's bytes, computed once for each array."""
    if id(array) not in digests:
        digests[id(array)] = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()
    return digests[id(array)]


def _place_in(units: Sequence[Unit], lstm: LSTM) -> Unit | None:
    """Return the first unit whose nodes are all in branches that exclude this node's; None if there is none."""
    for unit in units:
        if all(_are_exclusive(member.node, lstm.node) for member in unit.members):
            return unit
    return None


def _are_exclusive(one: Node, other: Node) -> bool:
    """Return whether two nodes are in different branches of one If."""
    for (owner, branch), (other_owner, other_branch) in zip(one.ancestry(), other.ancestry(), strict=False):
        if owner is not other_owner:
            return False
        if branch != other_branch:
            return owner.op == "If" and {branch, other_branch} == _BRANCHES
    return False


def _inside(upper: Node, lower: Node) -> list[tuple[Node, str]]:
    """Return the branches that contain the upper node and not the lower one, outermost first."""
    outside = {(id(owner), branch) for owner, branch in lower.ancestry()}
    inside = [(owner, branch) for owner, branch in upper.ancestry() if (id(owner), branch) not in outside]
    return [(owner, branch) for owner, branch in inside if owner.op == "If" and branch]


def _is_covered(ways: Sequence[Sequence[tuple[Node, str]]]) -> bool:
    """Return whether some way is taken, whatever the conditions are. A way is the branches around a node."""
    if any(not way for way in ways):
        return True
    owners = {id(way[0][0]) for way in ways}
    return len(owners) == 1 and all(
        _is_covered([way[1:] for way in ways if way[0][1] == branch]) for branch in _BRANCHES
    )
