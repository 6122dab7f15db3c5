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
    """Return the `Function` of kernels/activations.cuh for a function in its one form."""
    name, parameters = split(function)
    return f"Function<{', '.join([name.upper(), *map(_bits, parameters)])}>"


def functions_type(functions: Functions) -> str:
    """Return the `Functions` of kernels/cell.cuh, without the parameters at the end that it has by default."""
    clip = math.inf if functions.gate_clip is None else functions.gate_clip
    given = [
        function_type(functions.input),
        function_type(functions.output),
        function_type(functions.gate),
        _COUPLED[functions.coupled],
        _bits(clip),
        _bits(functions.zoneout_c),
    ]
    default = [given[0], given[0], function_type("sigmoid"), _COUPLED[None], _bits(math.inf), _bits(0.0)]
    while len(given) > 1 and given[-1] == default[len(given) - 1]:
        given.pop()
    return f"Functions<{', '.join(given)}>"


def _bits(number: float) -> str:
    """Return the bits of a double, which are a template's parameter in C++ 17, as a number is not."""
    return hex(struct.unpack("<Q", struct.pack("<d", number))[0])
