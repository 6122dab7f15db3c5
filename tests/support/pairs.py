"""Combinations of options that include every pair of values of two options."""

import itertools


def cover(**options):
    """Return a few combinations, as dicts, that together include every pair of values of two options.

    The first two options should be those with the most values. The result is always the same.
    """
    names, missing = list(options), set()
    for pair in itertools.combinations(options, 2):
        missing |= {tuple(zip(pair, values, strict=True)) for values in itertools.product(*(options[n] for n in pair))}
    chosen = []
    while missing:
        case = dict(min(missing, key=str))
        for name in names:
            if name not in case:
                case[name] = max(options[name], key=lambda value: len(missing & _pairs({**case, name: value}, names)))
        chosen.append({name: case[name] for name in names})
        missing -= _pairs(case, names)
    return chosen


def _pairs(case, names):
    return set(itertools.combinations([(name, case[name]) for name in names if name in case], 2))
