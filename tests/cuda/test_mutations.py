"""mutations.py finds planted mistakes. These tests plant a few."""

import re
from dataclasses import replace

import mutations
import pytest

from emulation import EmulationError, Module
from support.emulated import needs_emulation
from support.step_cases import assert_stepped, launch_step, like_others, random_step, step_layouts

pytestmark = pytest.mark.nightly


def named(name):
    (mutation,) = (m for m in mutations.MUTATIONS if str(m) == name)
    return mutation


def test_every_mutation_applies_to_the_kernels():
    assert all(m.applied() != (mutations.KERNELS / m.file).read_text(encoding="utf-8") for m in mutations.MUTATIONS)
    assert {m.file for m in mutations.MUTATIONS} == {file.name for file in mutations.KERNELS.iterdir()}
    assert len({str(m) for m in mutations.MUTATIONS}) == len(mutations.MUTATIONS)


def test_a_text_that_is_not_unique_is_refused():
    with pytest.raises(ValueError, match=r"'nowhere' occurs 0 times in clip\.cu, not once"):
        mutations.Mutation("clip.cu", "a change of nothing", "nowhere", "").applied()


@pytest.fixture(scope="module")
def _own_libraries(tmp_path_factory):
    """Keep libraries of mutated kernels out of the cache, as they are never reused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMULATION_CACHE", str(tmp_path_factory.mktemp("libraries")))
        yield


@needs_emulation
@pytest.mark.usefixtures("_own_libraries")
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("clip.cu: guard one too far", r"test_clip\[1-.* out of bounds at clip\.cu:14: a \d-byte read"),
        (
            "clip.cu: half the limit",
            r"test_clip\[1-.* h: 1 of 1 numbers are wrong, the first at \[0\]: 0\.25, not 0\.5",
        ),
    ],
    ids=["by the checker", "by the numbers"],
)
def test_a_mistake_is_found(name, how):
    outcome = mutations.outcome(named(name))
    assert outcome.good
    assert re.search(how, outcome.how), outcome


EQUIVALENT = [mutation for mutation in mutations.MUTATIONS if mutation.shown_equivalent]


@pytest.mark.nightly
@needs_emulation
@pytest.mark.parametrize("mutation", EQUIVALENT, ids=str)
def test_equivalents_are_shown(mutation):
    with mutations.mutated(mutation) as kernels:
        assert mutation.shown_equivalent(kernels)


@pytest.mark.nightly
@needs_emulation
def test_wrong_equivalents_are_noticed():
    mistake = named("clip.cu: half the limit")
    with mutations.mutated(mistake) as kernels, pytest.raises(AssertionError):
        mutations.same_bits_of_clip(kernels)


IN_FLIGHT, UNORDERED = {"copy in flight"}, {"race", "uninitialised", "copy in flight"}
WAITS = [
    ("no wait", IN_FLIGHT),
    ("a wait of one too many in flight", IN_FLIGHT),
    ("no barrier", UNORDERED),
    ("a stage overwritten while others read", UNORDERED),
]
WRONG = {"wrong numbers"}
# Mistakes in the pipeline, fragments and edges of a whole step's tiles, and the ways in which each may be found.
PLANTED = [
    *(
        (tile, name, f"{file}: {what}", how)
        for tile, name, file in (
            ("large", "__half", "pipeline.cuh"),
            ("small8", "__half", "tensor_small.cuh"),
            ("simt16", "float", "pipeline.cuh"),
        )
        for what, how in WAITS
    ),
    ("large", "__half", "tensor.cuh: a: columns of another order", WRONG),
    ("large", "float", "tensor.cuh: b: wrong columns", WRONG),
    ("small8", "__half", "tensor_small.cuh: a: wrong columns", WRONG),
    ("small8", "float", "tensor_small.cuh: b: wrong columns", WRONG),
    ("simt16", "float", "simt.cuh: weights of another chunk", WRONG),
    ("large", "__half", "staging.cuh: chunks of weights not swapped", WRONG),
    *(
        (tile, name, mistake, {"out of bounds", "null pointer"})
        for tile, name in (("large", "__half"), ("small8", "__half"), ("simt16", "float"))
        for mistake in (
            "staging.cuh: tails of rows not guarded",
            "staging.cuh: single elements beyond a row",
            "tile_epilogue.cuh: no unit guard",
            "tile_epilogue.cuh: no row guard",
        )
    ),
    *(("medium3", "__half", f"pipeline.cuh: {what}", how) for what, how in WAITS),
    *(("small8_3", "__half", f"tensor_small.cuh: {what}", how) for what, how in WAITS),
]


def found_in_a_step(kernels, instance):
    """Return how the checker or the numbers find the mistake, or None."""
    function = Module(kernels / "step.cu", [str(instance)], mode="check").function(str(instance))
    for layout in step_layouts(instance):
        step = random_step(instance, layout)
        before = step.copy()
        try:
            launch_step(function, instance, step, layout.sizes, flips=layout.where == "pool")
        except EmulationError as error:
            return error.kind
        try:
            assert_stepped(instance, step, before, flips=layout.where == "pool")
        except pytest.fail.Exception:
            return "wrong numbers"
    return None


@needs_emulation
@pytest.mark.usefixtures("_own_libraries")
@pytest.mark.parametrize(("tile", "name", "mistake", "how"), PLANTED)
def test_mistakes_in_a_whole_step_are_found(tile, name, mistake, how):
    instance = like_others(tile, name)
    if "single elements" in mistake:
        instance = replace(instance, aligned=False, width=1)
    with mutations.mutated(named(mistake)) as kernels:
        assert found_in_a_step(kernels, instance) in how


@needs_emulation
@pytest.mark.usefixtures("_own_libraries")
def test_unchanged_kernels_pass():
    unchanged = mutations.Mutation("clip.cu", "nothing changed", "blockDim.x", "blockDim.x", mutations.CLIP)
    outcome = mutations.outcome(unchanged)
    assert outcome.how == "not found"
    assert not outcome.good


@needs_emulation
@pytest.mark.usefixtures("_own_libraries")
def test_a_compile_error_does_not_count_as_found():
    outcome = mutations.outcome(mutations.Mutation("clip.cu", "no C++", "blockDim.x", "nonsense", mutations.CLIP))
    assert "a mistake must compile" in outcome.how
    assert not outcome.good
