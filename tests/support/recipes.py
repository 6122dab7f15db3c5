"""Check that no step of a recipe in CONTRIBUTING.md was forgotten. Messages name the file to edit."""

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
        has: takes a thing's name, and what else the recipe's tests know of it. An exception counts as false.
        first: whether other places can't work before this one has the thing.
    """

    file: str
    needs: str
    has: Callable[..., object]
    first: bool = False

    def problem(self, thing):
        """Return what is missing, and the exception if there was one."""
        try:
            if self.has(*thing):
                return None, ""
            reason = ""
        except Exception as error:
            reason = f" ({type(error).__name__}: {error})"
        return f"{self.file}: {self.needs}".format(*thing) + reason, reason


def problems(places, things):
    """Yield what is missing where. A thing is a tuple of the arguments of `Place.has`.

    An exception is reported once, as others like it have the same cause.
    """
    reasons = set()
    for thing in things:
        for place in places:
            problem, reason = place.problem(thing)
            if problem and reason not in reasons:
                yield problem
            if reason:
                reasons.add(reason)
            if problem and place.first:
                break


def assert_complete(places, things):
    assert things
    found = list(problems(places, things))
    assert not found, "\n".join(["Forgotten:", *found])


def assert_all_missing(places, thing):
    """Assert that each place is asked for a thing that no place has."""
    for place in places:
        assert place.problem(thing)[0], f"{place.file} does not need {thing[0]}"


@functools.cache
def text_of(*patterns):
    """Return the text of all files that match."""
    return "".join(path.read_text(encoding="utf-8") for each in patterns for path in sorted(ROOT.glob(each)))


@functools.cache
def keys_of(file, table):
    """Return the keys of a dictionary in a module, without importing it."""
    for node in ast.parse(text_of(file)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table:
            return [ast.literal_eval(key) for key in node.value.keys]
    raise LookupError(f"{file} has no {table}")
