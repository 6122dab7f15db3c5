"""A new activation, option of the cell or importer has all its places. A failure names the file to edit.

The steps are the recipes of CONTRIBUTING.md.
"""

import contextlib
import dataclasses
import inspect
import re

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMState, LSTMWeights, files, functions, lstm_pointwise
from fusedlstm.backends.cuda import function_types
from fusedlstm.backends.numpy import formula
from fusedlstm.backends.numpy import functions as in_numpy
from fusedlstm.convert.onnx import functions as for_onnx
from fusedlstm.convert.record import System
from fusedlstm.convert.systems import SYSTEMS
from fusedlstm.functions import Functions, check_function
from fusedlstm.validation import advice
from fusedlstm.weights import _FUNCTIONS_SINCE, ARRAYS, CLIPS, DEFAULTS, CellOptions, for_file

from support.cells import FUNCTIONS, GENERAL
from support.recipes import Place, assert_all_missing, assert_complete, keys_of, text_of

# Activations: a name, and the number of its parameters.

# What each version of files brought. A reader of that version knows nothing newer, so a released version gets no more.
BROUGHT = {
    1: {"tanh", "relu", "sigmoid", "softsign", "elu", "linear", "activation"},
    2: {
        *("softplus", "affine", "leaky_relu", "thresholded_relu", "scaled_tanh", "hard_sigmoid"),
        *("output_activation", "gate_activation", "gate_clip", "coupled_gate"),
    },
    3: {"zoneout_c", "zoneout_h"},
    4: {"directions"},  # and the fingerprint of weights in a pool's file
}


def is_since(name, version):
    """Whether readers of this version of files know a name. Those of a version that isn't listed yet may know any."""
    return version not in BROUGHT or any(name in BROUGHT[each] for each in range(1, version + 1))


def unlisted(newest):
    """Yield what BROUGHT lacks if files have versions up to the newest."""
    for version in range(1, newest + 1):
        if version not in BROUGHT:
            yield f"tests/tools/test_recipes.py: add what version {version} of files brought to BROUGHT"


def test_versions_of_files_are_listed():
    assert not list(unlisted(files.VERSION))


def test_forgotten_version_of_files_is_found():
    newest = max(BROUGHT) + 1
    assert list(unlisted(newest)) == [
        f"tests/tools/test_recipes.py: add what version {newest} of files brought to BROUGHT"
    ]


@pytest.mark.parametrize("version", BROUGHT)
def test_listed_versions_get_no_more_names(version):
    assert not is_since("nobodys", version)
    assert is_since("nobodys", max(BROUGHT) + 1)


def kernel_names():
    return re.findall(r"\w+", re.search(r"enum Name \{(.*?)\}", text_of("kernels/activations.cuh"), re.DOTALL)[1])


def is_allowed(name, count):
    (last,) = re.findall(r"static_assert\(NAME >= TANH && NAME <= (\w+),", text_of("kernels/activations.cuh"))
    return kernel_names().index(name.upper()) <= kernel_names().index(last)


def is_activated(name, count):
    return name == "linear" or f"KIND == {name.upper()}" in text_of("kernels/activations.cuh")


def has_key(table, separator):
    """Return a check of whether a table of test_functions.py has a function, as written in FUNCTIONS or NAMES."""

    def has(name, count):
        keys = keys_of("tests/core/test_functions.py", table)
        parts = [key.split(separator) if isinstance(key, str) else key for key in keys]
        return any(key[0] == name and len(key) == count + 1 for key in parts)

    return has


def is_for_onnx(name, count):
    """Whether the exporter names a function, or refuses it by a ValueError."""
    with contextlib.suppress(ValueError):
        for_onnx.to_names([check_function("f", (name, *[0.5] * count))])
    return name in functions.NAMES


PLACES_OF_A_FUNCTION = [
    Place("fusedlstm/functions.py", "describe '{}' at the top", lambda f, n: f'"{f}"' in functions.__doc__),
    Place(
        "fusedlstm/weights.py",
        "add '{}' to _FUNCTIONS_SINCE, with the next version of files",
        lambda f, n: is_since(f, _FUNCTIONS_SINCE[f]),
    ),
    Place(
        "fusedlstm/files.py",
        "raise VERSION to that of '{}' in weights.py, and describe it at the top",
        lambda f, n: _FUNCTIONS_SINCE[f] <= files.VERSION,
    ),
    Place("fusedlstm/backends/numpy/formula.py", "add '{}' to _FUNCTIONS", lambda f, n: f in formula._FUNCTIONS),
    Place("fusedlstm/backends/numpy/functions.py", "add '{}' to _FUNCTIONS", lambda f, n: f in in_numpy._FUNCTIONS),
    Place("kernels/activations.cuh", "add '{}' to enum Name, in capitals", lambda f, n: f.upper() in kernel_names()),
    Place("kernels/activations.cuh", "compute '{}' in activate", is_activated),
    Place("kernels/activations.cuh", "let the static_assert of Function allow '{}'", is_allowed),
    Place(
        "tests/support/cells.py",
        "add '{}' to FUNCTIONS, once for each number of parameters",
        lambda f, n: any(each == f if n == 0 else each[0] == f and len(each) == n + 1 for each in FUNCTIONS),
    ),
    Place("tests/core/test_functions.py", "add '{}' to WRITTEN, as functions.py describes it", has_key("WRITTEN", ",")),
    Place("tests/core/test_functions.py", "add '{}' to INFINITE", has_key("INFINITE", " ")),
    Place(
        "tests/data/resources.json",
        "python tests/resources.py --write, as no kernel there has '{}'",
        lambda f, n: re.search(rf"\bFunction<{f.upper()}[,>]", text_of("tests/data/resources.json")),
    ),
    Place("fusedlstm/convert/onnx/functions.py", "add '{}' to _FUNCTIONS, or let to_names refuse it", is_for_onnx),
    Place("docs/formula.md", "add '{}' to the functions", lambda f, n: f'"{f}"' in text_of("docs/formula.md")),
]


def all_functions():
    return [(name, count) for name, counts in functions._PARAMETERS.items() for count in counts]


def test_activations_are_complete():
    assert_complete(PLACES_OF_A_FUNCTION, all_functions())


def test_forgotten_activations_are_found():
    assert_all_missing(PLACES_OF_A_FUNCTION, ("nobodys", 0))
    assert_all_missing(PLACES_OF_A_FUNCTION, ("nobodys", 1))


# Options of a cell that work on each unit: a name, and a value that isn't the default.

MEMBERS = {  # of `Functions` in cell.cuh, where they aren't the option's name in capitals
    "activation": "Input",
    "output_activation": "Output",
    "gate_activation": "Gate",
    "gate_clip": "CLIP",
    "coupled_gate": "COUPLED",
}
AFTER_THE_PROJECTION = {"zoneout_h"}  # which lstm_pointwise leaves to its caller


def cell_of(options):
    return LSTMWeights.random(3, 4, seed=0, dtype="float64", **options)


def inputs():
    return [4 * array for array in np.random.default_rng(0).normal(size=(3, 2, 4))]


def differs(compute):
    """Return a check of whether `compute` returns something else with an option."""

    def has(name, value):
        plain, changed = compute({}), compute({name: value})
        return not (np.array_equal(plain, changed) if isinstance(plain, np.ndarray) else plain == changed)

    return has


def by_formula(options):
    x, h, c = inputs()
    return np.concatenate(formula.step(cell_of(options), x[:, :3], h, c))


def by_numpy(options):
    x, h, c = inputs()
    state = LSTMCell(cell_of(options), backend="numpy")(x[:, :3].copy(), LSTMState(h=h, c=c))
    return np.concatenate([state.h, state.c])


def by_pointwise(options):
    rng = np.random.default_rng(0)
    state = lstm_pointwise(4 * rng.normal(size=(2, 16)), rng.normal(size=(2, 4)), **options)
    return np.concatenate([state.h, state.c])


def is_in_kernels(name, value):
    """Whether kernels read an option of `Functions`, which has a place for it."""
    template, struct = re.search(
        r"template <([^{]*)>\s*struct Functions \{(.*?)\n\};", text_of("kernels/cell.cuh"), re.DOTALL
    ).groups()
    given = function_types.functions_type(cell_of({name: value}).functions)
    count = len(re.sub(r"<[^<>]*>", "", given.removeprefix("Functions<")).split(","))
    member = MEMBERS.get(name, name.upper())
    is_kept = template.count("=") >= count and re.search(rf"\b{member}\b", struct)
    return is_kept and re.search(rf"\bFUNCTIONS::{member}\b", text_of("kernels/*"))


def version_of(name, value):
    return for_file([cell_of({name: value})])[0]


PLACES_OF_AN_OPTION = [
    Place(
        "fusedlstm/functions.py",
        "add '{}' to the fields of Functions, and to its methods `of` and `options`",
        lambda o, v: o in DEFAULTS and Functions.of(**{"activation": "tanh", o: v}) != Functions(),
        first=True,
    ),
    Place(
        "fusedlstm/weights.py",
        "add '{}' to CellOptions, and to the fields and the docstring of LSTMWeights",
        lambda o, v: o in CellOptions.__annotations__ and f" {o}: " in LSTMWeights.__doc__ and cell_of({o: v}),
        first=True,
    ),
    Place(
        "fusedlstm/weights.py",
        "pass '{}' on in LSTMWeights.functions",
        differs(lambda options: cell_of(options).functions),
        first=True,
    ),
    Place(
        "fusedlstm/weights.py",
        "add '{}' to _SINCE, with the next version of files",
        lambda o, v: is_since(o, version_of(o, v)) and o in for_file([cell_of({o: v})])[1][0],
    ),
    Place(
        "fusedlstm/files.py",
        "raise VERSION to that of '{}' in weights.py, and describe it at the top",
        lambda o, v: version_of(o, v) <= files.VERSION,
    ),
    Place("fusedlstm/backends/numpy/formula.py", "let step compute '{}'", differs(by_formula)),
    Place(
        "fusedlstm/backends/numpy/fast_pointwise.py",
        "let SigmoidPointwise compute '{}', in pointwise_of or in its own lines",
        differs(by_numpy),
    ),
    Place(
        "fusedlstm/backends/numpy/fast_pointwise.py",
        "let GeneralPointwise compute '{}'",
        differs(lambda options: by_numpy({"gate_clip": 1.0, "gate_activation": "relu"} | options)),
    ),
    Place(
        "fusedlstm/backends/cuda/function_types.py",
        "add '{}' to functions_type",
        differs(lambda options: function_types.functions_type(cell_of(options).functions)),
    ),
    Place("kernels/cell.cuh", "add '{}' to the template Functions, and use it", is_in_kernels),
    Place(
        "fusedlstm/pointwise.py",
        "add '{}' to lstm_pointwise, and pass it on to Functions.of",
        lambda o, v: o in AFTER_THE_PROJECTION or (f" {o}: " in lstm_pointwise.__doc__ and differs(by_pointwise)(o, v)),
    ),
    Place(
        "tests/support/cells.py",
        "give '{}' to some cells of GENERAL",
        lambda o, v: any(True for _ in given(o)),
    ),
    Place(
        "tests/core/test_formula.py",
        "draw '{}' in AFTER_THE_MATMUL or ALL_OPTIONS",
        lambda o, v: f'"{o}": ' in text_of("tests/core/test_formula.py"),
    ),
    Place("docs/formula.md", "add '{}' to the options", lambda o, v: f"`{o}`" in text_of("docs/formula.md")),
]


def given(name):
    """Return the values, other than the default, that the tests' cells have for an option."""
    return (row[name] for row in GENERAL.values() if row.get(name, DEFAULTS.get(name)) != DEFAULTS.get(name))


def all_options():
    """Return each option that any of these files names, with a value."""
    fields = {each.name for each in dataclasses.fields(LSTMWeights)} - set(ARRAYS)
    names = fields | set(CellOptions.__annotations__) | set(inspect.signature(Functions.of).parameters)
    return [(name, next(given(name), 0.5)) for name in sorted(names - set(CLIPS))]


def test_options_are_complete():
    assert_complete(PLACES_OF_AN_OPTION, all_options())


def test_forgotten_options_are_found():
    assert_all_missing(PLACES_OF_AN_OPTION, ("nobodys", 2.0))


# Importers: a name, and the record of its system. Tests of importers name the other places.

NO_CLASSES = {"cudnn", "onednn"}  # which take single arrays


def has_classes(name, system):
    """Whether errors about objects name an importer, if it has any objects."""
    return name in NO_CLASSES or any(call.startswith(f"from_{name}(") for call in advice._OBJECTS.values())


def is_fuzzed(name, system):
    """Whether damaged files are read, if an importer has a reader of its own. Others get arrays from `open_archive`."""
    return system.source != "path" or name in keys_of("tests/support/fuzz_readers.py", "READERS")


PLACES_OF_AN_IMPORTER = [
    Place(
        "fusedlstm/validation/advice.py",
        "add the classes that from_{0} is for to _OBJECTS, or '{0}' to NO_CLASSES in tests/tools/test_recipes.py",
        has_classes,
    ),
    Place("tests/support/fuzz_readers.py", "add a Reader of files to READERS, under '{}'", is_fuzzed),
]


def test_importers_are_complete():
    assert_complete(PLACES_OF_AN_IMPORTER, [(system.name, system) for system in SYSTEMS if system.read is not None])


def test_forgotten_importers_are_found():
    assert_all_missing(PLACES_OF_AN_IMPORTER, ("nobodys", System("nobodys", source="path")))
