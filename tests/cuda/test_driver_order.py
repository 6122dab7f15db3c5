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
    "now": lambda in_order, late, between: [in_order],
    "late": lambda in_order, late, between: [late],
    "random": lambda in_order, late, between: sorted({in_order, late, between} - {None}),
}


@pytest.mark.parametrize("order", WANTED)
def test_work_in_an_order(order):
    """Code that waits gets the right number. Code that doesn't gets an old one if work is late, and both at random."""
    command = [sys.executable, "-m", "support.late_work", "20"]
    environment = ENVIRONMENT | {"DRIVER_ORDER": order, "DRIVER_SEED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pieces = json.loads(done.stdout)
    assert {name: found for name, (found, *_) in pieces.items()} == {
        name: WANTED[order](*numbers) for name, (_, *numbers) in pieces.items()
    }
    assert sum(in_order != late for _, in_order, late, _ in pieces.values()) == 12


def test_unknown_orders_are_refused():
    done = driver_child.run("", DRIVER_ORDER="later")
    assert done.returncode == -6
    assert "DRIVER_ORDER must be now, late, random or never, not later" in done.stderr
