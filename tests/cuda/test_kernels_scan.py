"""kernels/scan.cu on the CPU, with every access checked.

Its sums are in the order of step.cu's, so that it must give the bits of single steps.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from fusedlstm.backends.cuda.scan_kernels import LAST, NO_FLAGS, ZEROS, ScanTile
from fusedlstm.functions import Functions

from emulation import FORWARD, REVERSE, Module, preempting
from support.cells import FUNCTIONS, functions_of
from support.emulated import needs_emulation
from support.kernel_cases import DTYPES, assert_same_bits, copies
from support.places import KERNELS
from support.scan_cases import Instance, Layout, by_steps, launch_scan, random_scan, sliced

pytestmark = needs_emulation

SMALL, MORE = ScanTile(32, 8), ScanTile(32, 16)
SCHEDULES = [FORWARD, REVERSE, preempting(seed=3)]
ZONEOUT = Functions(zoneout_c=0.1, zoneout_h=0.2)


def general(k):
    return Functions.of(**functions_of(k), zoneout_h=0.25 if k % 3 == 0 else 0.0)


# All dtypes, options and kinds of flags, each pair of two of them at least once.
INSTANCES = [
    Instance("__nv_bfloat16", SMALL),
    Instance("__nv_bfloat16", SMALL, Functions(), True, True, LAST, 2),
    Instance("__nv_bfloat16", MORE, ZONEOUT, False, True, ZEROS, 1),
    Instance("__half", MORE, Functions(), True, False, ZEROS, 2),
    Instance("__half", SMALL, general(11), False, False, LAST, 1),
    Instance("__half", SMALL, ZONEOUT, True, True, NO_FLAGS, 1),
    Instance("float", SMALL, Functions(), False, True, LAST, 1),
    Instance("float", MORE, general(3), True, True, ZEROS, 2),
    Instance("float", MORE, Functions(), True, False, NO_FLAGS, 2),
    Instance("float", SMALL, ZONEOUT, True, False, LAST, 2),
    Instance("__half", MORE, general(7), False, True, LAST, 2),
    Instance("__nv_bfloat16", MORE, general(2), True, False, NO_FLAGS, 2),
]
BY_NAME = {str(each): each for each in INSTANCES}


@pytest.fixture(scope="module")
def functions(request):
    """Return functions by instance, of lstm_scan and of lstm_step, compiled when first asked for."""
    found = {}

    def of(instance):
        if instance not in found:
            modules = (Module(KERNELS / file, [name], mode="check") for file, name in names(instance))
            found[instance] = [module.function(module.names[0]) for module in modules]
        return found[instance]

    return of


def names(instance):
    return ("scan.cu", str(instance)), ("step.cu", instance.step)


def layouts(instance):
    """Return sizes around the edges of steps, rows and units."""
    R, U, W = instance.tile.rows, instance.tile.units, instance.width

    def units(N):
        return N + N % W

    return [
        Layout(5, R + 1, units(U - 1), residual=True),
        Layout(1, R, U, ("zeros", "one row"), "every", reverse=True, in_place=False),
        Layout(4, R - 1, units(1), ("one row", "zeros"), "ends", bias=False, states=False),
        Layout(0, 3, units(5)),
        Layout(3, 0, U),
        Layout(6, 1, units(U // 2 + 1), ("rows", "zeros"), "every", reverse=True, residual=True),
        Layout(2, 2 * R + 3, units(17), ("zeros", "rows"), "idle", states=False, residual=True),
        Layout(7, 9, units(16), ("one row", "one row"), reverse=True),
    ]


def assert_same(instance, layout, a, before, expected):
    h, c, outputs, last = expected
    assert_same_bits("outputs", a["out"], outputs)
    assert_same_bits("h", a["h_out"], h)
    assert_same_bits("c", a["c_out"], c)
    if instance.flags == LAST:
        assert_same_bits("last", a["last"], last)


@pytest.mark.parametrize("instance", INSTANCES, ids=str)
def test_scan_has_the_bits_of_steps(functions, instance):
    scan, step = functions(instance)
    for k, layout in enumerate(layouts(instance)):
        a = random_scan(instance, layout, seed=k)
        before = copies(a)
        if layout.B:
            launch_scan(scan, instance, (layout, a))
        if layout.B:
            assert_same(instance, layout, a, before, by_steps(step, instance, layout, before))
