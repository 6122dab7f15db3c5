"""That mutations.py finds what it should: it makes three hundred mistakes in minutes, these tests two of them."""

import re

import pytest

import mutations
from emulated import needs_emulation


def named(name):
    (mutation,) = (m for m in mutations.MUTATIONS if str(m) == name)
    return mutation


def test_every_mutation_applies_to_the_kernels_as_they_are():
    assert all(m.applied() != (mutations.KERNELS / m.file).read_text(encoding="utf-8") for m in mutations.MUTATIONS)
    assert {m.file for m in mutations.MUTATIONS} == {file.name for file in mutations.KERNELS.iterdir()}
    assert len({str(m) for m in mutations.MUTATIONS}) == len(mutations.MUTATIONS)


def test_a_text_that_is_not_there_once_is_refused():
    with pytest.raises(ValueError, match=r"'nowhere' is 0 times in clip\.cu, not once"):
        mutations.Mutation("clip.cu", "a change of nothing", "nowhere", "").applied()


@pytest.fixture(scope="module")
def _own_libraries(tmp_path_factory):
    """Libraries of mistaken kernels are of no use again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMULATION_CACHE", str(tmp_path_factory.mktemp("libraries")))
        yield


@needs_emulation
@pytest.mark.usefixtures("_own_libraries")
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("clip.cu: guard one too far", r"test_clip\[1-.* out of bounds at clip\.cu:8: a \d-byte read"),
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


@needs_emulation
@pytest.mark.usefixtures("_own_libraries")
def test_none_is_found_where_there_is_none():
    unchanged = mutations.Mutation("clip.cu", "nothing changed", "blockDim.x", "blockDim.x", mutations.CLIP)
    outcome = mutations.outcome(unchanged)
    assert outcome.how == "not found"
    assert not outcome.good


@needs_emulation
@pytest.mark.usefixtures("_own_libraries")
def test_what_does_not_compile_is_not_taken_for_found():
    outcome = mutations.outcome(mutations.Mutation("clip.cu", "no C++", "blockDim.x", "nonsense", mutations.CLIP))
    assert "a mistake must compile" in outcome.how
    assert not outcome.good
