"""The functions of a cell as kernels' templates are told them."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from fusedlstm.functions import split

if TYPE_CHECKING:
    from fusedlstm.functions import Function, Functions

_COUPLED = {None: "NO_GATE", "input": "INPUT_GATE", "forget": "FORGET_GATE"}


def function_type(function: Function) -> str:
    """Return the `Function` of kernels/activations.cuh for a function."""
    name, parameters = split(function)
    return f"Function<{', '.join([name.upper(), *map(bits, parameters)])}>"


def functions_type(functions: Functions) -> str:
    """Return the `Functions` of kernels/cell.cuh, without the parameters at the end that it has by default."""
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
    """Return the bits of a double, which are a template's parameter in C++ 17, as a number is not."""
    return hex(struct.unpack("<Q", struct.pack("<d", number))[0])


def zoneout_argument(zoneout: float) -> str:
    """Return the argument of a template whose last one, of 0 by default, is the part of h that stays."""
    return f", {bits(zoneout)}" if zoneout else ""
