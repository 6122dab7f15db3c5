"""The fake driver's orders of work: at once, as late as events and waits allow, and random."""

import json
import subprocess
import sys

import pytest

from support import driver_child
from support.places import ENVIRONMENT

pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = driver_child.of_the_driver


WANTED = {
    "now": lambda in_order, late: [in_order],
    "late": lambda in_order, late: [late],
    "random": lambda in_order, late: sorted({in_order, late}),
}


@pytest.mark.parametrize("order", WANTED)
def test_work_in_an_order(order):
    """Work that waits gets the right number in any order. Other work gets an old one if late, and either if random."""
    command = [sys.executable, "-m", "support.late_work", "20"]
    environment = ENVIRONMENT | {"DRIVER_ORDER": order, "DRIVER_SEED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pieces = json.loads(done.stdout)
    assert {name: found for name, (found, _, _) in pieces.items()} == {
        name: WANTED[order](in_order, late) for name, (_, in_order, late) in pieces.items()
    }
    assert sum(in_order != late for _, in_order, late in pieces.values()) == 9


def test_unknown_orders_are_refused():
    done = driver_child.run("", DRIVER_ORDER="later")
    assert done.returncode == -6
    assert "DRIVER_ORDER must be now, late or random, not later" in done.stderr
