"""Flax's record."""

from __future__ import annotations

from typing import Any

from fusedlstm.convert.flax.importing import from_flax, list_flax
from fusedlstm.convert.flax.layouts import LAYOUTS
from fusedlstm.convert.flax.states import PAIRS, state_from_flax, state_to_flax
from fusedlstm.convert.flax.writing import to_flax
from fusedlstm.convert.record import Signs, System


def _prefixes(source: Any) -> list[str]:
    return [prefix for prefix, _, _ in list_flax(source)]


SYSTEM = System(
    name="flax",
    layouts=LAYOUTS,
    read=from_flax,
    others=(list_flax, to_flax, state_from_flax, state_to_flax),
    source="arrays",
    takes_layers=True,
    taken=_prefixes,
    signs=Signs(array=r"(.*[/.])?(ii|dense_i)[/.]kernel([/.]value)?"),
    framework="flax",
    pairs=PAIRS,
)
