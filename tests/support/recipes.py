"""Check that nothing of a recipe of CONTRIBUTING.md was forgotten, in words that name the file to edit."""

import ast
import functools
from collections.abc import Callable
from dataclasses import dataclass

from support.places import ROOT


@dataclass(frozen=True)
class Place:
    """A file that a recipe names.

    Attributes:
        file: its path, with {} for what `has` takes.
        needs: what a new thing needs there, likewise.
        has: takes a thing's name, and what else the recipe's tests have of it. Raising an exception means no.
    """

    file: str
    needs: str
    has: Callable[..., object]

    def asks_for(self, thing):
        return f"{self.file}: {self.needs}".format(*thing)


def problems(places, things):
    """Yield what is missing where. A thing is a tuple of the arguments of `Place.has`."""
    for thing in things:
        for place in places:
            try:
                found = place.has(*thing)
            except Exception:
                found = False
            if not found:
                yield place.asks_for(thing)


def assert_complete(places, things):
    assert things
    found = list(problems(places, things))
    assert not found, "\n".join(["Forgotten:", *found])


def assert_all_missing(places, thing):
    """Assert that each place is asked for a thing that no place has."""
    assert list(problems(places, [thing])) == [place.asks_for(thing) for place in places]


@functools.cache
def text_of(*patterns):
    """The text of all files that match."""
    return "".join(path.read_text(encoding="utf-8") for each in patterns for path in sorted(ROOT.glob(each)))


@functools.cache
def keys_of(file, table):
    """The keys of a dictionary in a module, which is not imported."""
    for node in ast.parse(text_of(file)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table:
            return [ast.literal_eval(key) for key in node.value.keys]
    raise LookupError(f"{file} has no {table}")
