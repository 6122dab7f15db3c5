"""Every system's record is complete: its layouts, public functions, signs, checks and documents.

A failure names the file to edit.
"""

import importlib
import inspect
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import fusedlstm
from fusedlstm import convert
from fusedlstm.convert.layout import Layout
from fusedlstm.convert.record import Signs
from fusedlstm.convert.systems import BY_NAME, SYSTEMS

from support.examples import EXAMPLES
from support.places import ROOT

CONVERT = Path(convert.__file__).parent
COLLECTED = "fusedlstm/convert/systems.py"
PUBLIC = "fusedlstm/convert/__init__.py"


def file_of(system):
    """Return the path of the file or folder of a system's code."""
    function = system.read or system.others[0]
    return Path(inspect.getfile(function)).relative_to(Path(fusedlstm.__file__).parent.parent).as_posix()


def functions_of(system):
    return [function for function in (system.read, *system.others) if function]


def problems_of_names(systems):
    """Yield what is wrong with the names of systems and layouts."""
    for system in systems:
        if system.read and system.read.__name__ != f"from_{system.name}":
            yield f"{file_of(system)}: {system.name} is read by {system.read.__name__}, not from_{system.name}"
    everything = {
        "system": [system.name for system in systems],
        "layout": [name for system in systems for name in system.layouts],
    }
    for what, names in everything.items():
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{COLLECTED}: {names.count(name)} of the {what} {name!r}"


def problems_of_collection(systems):
    """Yield records in files of the package that are not collected."""
    for path in sorted(CONVERT.rglob("*.py")):
        for name in re.findall(r"^(\w+) = System\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            module = ".".join(path.relative_to(CONVERT.parent.parent).with_suffix("").parts)
            if getattr(importlib.import_module(module), name) not in systems:
                yield f"{COLLECTED}: {name} of {module} is missing"


def problems_of_layouts(systems):
    """Yield tables of layouts in the package's modules that are in no record."""
    known = [id(system.layouts) for system in systems]
    for key, module in list(sys.modules.items()):
        if not key.startswith("fusedlstm.convert."):
            continue
        for name, value in vars(module).items():
            is_table = isinstance(value, dict) and value and all(isinstance(one, Layout) for one in value.values())
            if is_table and id(value) not in known:
                yield f"{key.replace('.', '/')}.py: no record has {name} as its layouts; is it in {COLLECTED}?"


def problems_of_functions(systems, public, page):
    """Yield functions that are not exported or documented, and exported functions that are in no record."""
    owners = [(function.__name__, system) for system in systems for function in functions_of(system)]
    for name, system in owners:
        if name not in public:
            yield f"{PUBLIC}: {name} of {file_of(system)} is not in __all__"
        if name.replace("state_to_", "state_from_") not in page:  # the page names state_to_ functions in general
            yield f"docs/converting.md: the tables don't have {name}"
    names = [name for name, _ in owners]
    for name in public:
        if names.count(name) != 1:
            yield f"{PUBLIC}: {names.count(name)} records have {name}, as read or in others; wanted one"


def problems_of_recognition(systems):
    """Yield systems that the command converts, but whose files it can't tell."""
    for system in systems:
        if system.source and not system.read:
            yield f"{file_of(system)}: {system.name} has a source, but no read"
        if system.source and system.signs == Signs():
            yield f"{file_of(system)}: {system.name} has no signs that a file of it is known by"


def problems_of_checks(systems, modules):
    """Yield frameworks without code that runs them, and such code without its framework."""
    for system in systems:
        if system.framework and system.name not in modules:
            yield f"fusedlstm/convert/running/{system.name}.py: it is missing, and should run {system.framework}"
        if system.name in modules and not system.framework:
            yield f"{file_of(system)}: {system.name} has no framework, which running/{system.name}.py runs"


def problems_of_states(systems):
    """Yield systems that don't have both a form of states and functions for them."""
    for system in systems:
        names = {function.__name__ for function in system.others}
        if system.pairs and not {f"state_from_{system.name}", f"state_to_{system.name}"} <= names:
            yield f"{file_of(system)}: {system.name} has a form of states, but not both functions in others"


def problems_of_examples(systems):
    """Yield systems of arrays without an example in the tests."""
    for system in systems:
        if system.source == "arrays" and system.name not in EXAMPLES:
            yield f"tests/support/examples.py: no example of {system.name}'s arrays"


CONVERTING = (ROOT / "docs" / "converting.md").read_text(encoding="utf-8")
RUNNING = {path.stem for path in (CONVERT / "running").glob("*.py")}
PROBLEMS = {
    "collection": problems_of_collection,
    "names": problems_of_names,
    "layouts": problems_of_layouts,
    "functions": lambda systems: problems_of_functions(systems, convert.__all__, CONVERTING),
    "recognition": problems_of_recognition,
    "checks": lambda systems: problems_of_checks(systems, RUNNING),
    "states": problems_of_states,
    "examples": problems_of_examples,
}


@pytest.mark.parametrize("part", PROBLEMS)
def test_records_are_complete(part):
    problems = list(PROBLEMS[part](SYSTEMS))
    assert not problems, "\n".join(problems)


def changed(which, /, **changes):
    """Return all systems, with one of them changed."""
    return [replace(system, **changes) if system.name == which else system for system in SYSTEMS]


def from_other():
    """Serve as a function that is not exported."""


@pytest.mark.parametrize(
    ("part", "systems", "says"),
    [
        ("collection", changed("haste"), f"{COLLECTED}: SYSTEM of fusedlstm.convert.haste is missing"),
        ("names", changed("haste", read=BY_NAME["mxnet"].read), ".*/mxnet.py: haste is read by from_mxnet"),
        ("names", changed("haste", name="mxnet"), f"{COLLECTED}: 2 of the system 'mxnet'"),
        ("names", changed("haste", layouts=BY_NAME["mxnet"].layouts), f"{COLLECTED}: 2 of the layout 'mxnet'"),
        ("layouts", changed("haste", layouts={}), "fusedlstm/convert/haste.py: no record has LAYOUTS"),
        ("functions", changed("haste", read=None, others=(from_other,)), f"{PUBLIC}: 0 records have from_haste"),
        ("functions", changed("haste", others=(from_other,)), f"{PUBLIC}: from_other of fusedlstm/convert/haste.py"),
        ("functions", changed("haste", others=(from_other,)), "docs/converting.md: the tables .* have from_other"),
        ("functions", changed("haste", others=(convert.from_mxnet,)), f"{PUBLIC}: 2 records have from_mxnet"),
        ("recognition", changed("haste", signs=Signs()), "fusedlstm/convert/haste.py: haste has no signs"),
        ("recognition", changed("silero", source="arrays", signs=Signs(array="x")), "convert/silero.py: .* no read"),
        ("checks", changed("haste", framework="haste_pytorch"), "fusedlstm/convert/running/haste.py: it is missing"),
        ("checks", changed("haiku", framework=""), "fusedlstm/convert/haiku.py: haiku has no framework"),
        ("states", changed("haste", pairs=BY_NAME["haiku"].pairs), "fusedlstm/convert/haste.py: haste has a form"),
        ("examples", changed("haste", name="hasty"), "tests/support/examples.py: no example of hasty"),
    ],
)
def test_an_incomplete_record_is_found(part, systems, says):
    assert any(re.match(f".*{says}", problem) for problem in PROBLEMS[part](systems)), list(PROBLEMS[part](systems))
