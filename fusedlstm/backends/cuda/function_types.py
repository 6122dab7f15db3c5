"""A cell's functions as arguments of the kernels' templates."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from fusedlstm.functions import split

if TYPE_CHECKING:
    from fusedlstm.functions import Function, Functions

_COUPLED = {None: "NO_GATE", "input": "INPUT_GATE", "forget": "FORGET_GATE"}


def function_type(function: Function) -> str:
    """Return the C++ type of a function: a `Function` of kernels/activations.cuh."""
    name, parameters = split(function)
    return f"Function<{', '.join([name.upper(), *map(bits, parameters)])}>"


def functions_type(functions: Functions) -> str:
    """Return the C++ type of a cell's functions: `Functions` of kernels/cell.cuh, without trailing defaults."""
    clip = math.inf if functions.gate_clip is None else functions.gate_clip
    given = [
        function_type(functions.input),
        function_type(functions.output),
        function_type(functions.gate),
        _COUPLED[functions.coupled],
        bits(clip),
        bits(functions.zoneout_c),
        bits(functions.zoneout_h),
    ]
    default = [given[0], given[0], function_type("sigmoid"), _COUPLED[None], bits(math.inf), bits(0.0), bits(0.0)]
    while len(given) > 1 and given[-1] == default[len(given) - 1]:
        given.pop()
    return f"Functions<{', '.join(given)}>"


def bits(number: float) -> str:
    """Return the bits of a double: C++17 doesn't allow doubles as template arguments."""
    return hex(struct.unpack("<Q", struct.pack("<d", number))[0])


def zoneout_argument(zoneout: float, *, then: bool = False) -> str:
    """Return a kernel's last template arguments: the part of h to keep, and `then`, without trailing defaults."""
    return f", {bits(zoneout)}{', true' if then else ''}" if zoneout or then else ""
