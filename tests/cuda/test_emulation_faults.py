"""Kernels with one planted fault each, which check mode must name. Their correct twins must pass.

A checker that finds nothing would pass every kernel, so each kind of finding is tested here.
"""

import functools
import re

import numpy as np
import pytest

from emulation import FORWARD, REVERSE, EmulationError, Module, preempting, shuffled
from support.emulated import FAULTY, needs_emulation
from support.places import KERNELS
from support.planted_faults import PLANTED, SOUND

pytestmark = needs_emulation

SCHEDULES = [FORWARD, REVERSE, shuffled(seed=1), preempting(seed=2)]


@functools.cache
def module(file, mode="check", flags=()):
    """Compile all instances of a file that run with these flags, in one run of the compiler."""
    names = [p.kernel for p in PLANTED if (p.file, p.flags) == (file, flags)]
    if not flags:
        names += [s.kernel for s in SOUND if s.file == file]
    return Module(FAULTY / f"{file}.cu", sorted(set(names)), mode, (f"-I{KERNELS}", *flags))


def marked_lines(file, words):
    """Return the lines of a file that are marked "found at:" with one of the words."""
    lines = (FAULTY / f"{file}.cu").read_text().splitlines()
    marks = {f"{file}.cu:{k}": re.search(r"// found at: (\w+)$", line) for k, line in enumerate(lines, 1)}
    places = {place for place, mark in marks.items() if mark and mark[1] in words.split(", ")}
    assert places, words
    return places


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_planted_fault_is_named(planted, schedule):
    launch = planted.launch()
    function = module(planted.file, flags=planted.flags).function(planted.kernel)
    with pytest.raises(EmulationError) as raised:
        launch.run(function, schedule)
    error = raised.value
    assert error.kind in planted.kinds.split(", "), error
    assert marked_lines(planted.file, planted.lines) & set(error.place.split(" <- ")), error
    if planted.memory is not None:
        assert error.argument == planted.memory, error
        assert f"'{planted.memory}'" in str(error), error


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("mode", ["fast", "check"])
@pytest.mark.parametrize("sound", SOUND, ids=str)
def test_sound_twin_passes(sound, mode, schedule):
    launch = sound.launch()
    report = launch.run(module(sound.file, mode).function(sound.kernel), schedule)
    assert (report.checked_accesses > 0) == (mode == "check")
    assert launch.results
    for which, result in launch.results.items():
        np.testing.assert_allclose(launch.argument(which), result, rtol=1e-5, atol=1e-5)
