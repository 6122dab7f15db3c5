"""Every list of cases and every peer of the benchmarks is complete. A failure names the file to edit.

The steps are a recipe of CONTRIBUTING.md.
"""

import re

from benchmarks import cases, peers, sequence_grid
from benchmarks.cases import Case

from support.places import ROOT
from support.recipes import Place, assert_all_missing, assert_complete, text_of

PLACES_OF_CASES = [
    Place(
        "benchmarks/test_*.py",
        "let one of them time {} of cases.py or sequence_grid.py",
        lambda name: re.search(rf"parametrize\(metafunc, .*\b{name}\b", text_of("benchmarks/test_*.py")),
    ),
]
PLACES_OF_A_FILE = [
    Place(
        "benchmarks/peers/{}.py",
        "list its peers in PEERS",
        lambda name: "\nPEERS" in text_of(f"benchmarks/peers/{name}.py"),
    ),
    Place(
        "benchmarks/peers/__init__.py",
        "add {} to both lists of all_peers",
        lambda name: len(re.findall(rf"^ +{name},$", text_of("benchmarks/peers/__init__.py"), re.MULTILINE)) == 2,
    ),
]
PLACES_OF_A_CLASS = [
    Place(
        "benchmarks/peers/{1}.py",
        "add an instance of the class named '{0}' to PEERS",
        lambda name, file: name in [peer.name for peer in peers.all_peers()],
    ),
]
PLACES_OF_A_PEER = [
    Place(
        "docs/benchmarks.md",
        "add the library of {} to the table",
        lambda name, module: module.lower() in text_of("docs/benchmarks.md").lower(),
    ),
]
SHARED = ("__init__", "peer", "torch_common")  # by the files of peers


def files_of_peers():
    files = sorted((ROOT / "benchmarks/peers").glob("*.py"))
    return [file.stem for file in files if file.stem not in SHARED]


def named_classes():
    """Return the names that the classes of peers state, each with its file."""
    return [
        (name, file)
        for file in files_of_peers()
        for name in re.findall(r'^    name = "(.*)"$', text_of(f"benchmarks/peers/{file}.py"), re.MULTILINE)
    ]


def lists_of_cases():
    files = {**vars(cases), **vars(sequence_grid)}
    return [name for name, value in files.items() if isinstance(value, list) and isinstance(value[0], Case)]


def test_benchmarks_are_complete():
    assert_complete(PLACES_OF_CASES, [(name,) for name in lists_of_cases()])
    assert_complete(PLACES_OF_A_FILE, [(name,) for name in files_of_peers()])
    assert_complete(PLACES_OF_A_CLASS, named_classes())
    assert_complete(PLACES_OF_A_PEER, [(peer.name, peer.module) for peer in peers.all_peers()])


def test_forgotten_benchmarks_are_found():
    assert_all_missing(PLACES_OF_CASES, ("NOBODYS",))
    assert_all_missing(PLACES_OF_A_FILE, ("nobodys_peer",))
    assert_all_missing(PLACES_OF_A_CLASS, ("Nobody's LSTM", "nobodys_peer"))
    assert_all_missing(PLACES_OF_A_PEER, ("nobody", "nobodys_lstm"))
