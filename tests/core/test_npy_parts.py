"""Parts of .npy files and streams equal those of the whole array. Truncated ones raise."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm.npy_parts import open_parts

from support.streams import Pipe, saved


@settings(max_examples=50)
@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    dtype=st.sampled_from(["<f4", ">f8", "<f2", "|i1", "?"]),
    order=st.sampled_from("CF"),
    cuts=st.lists(st.integers(0, 9)),
    data=st.data(),
)
def test_parts_make_up_the_whole(shape, dtype, order, cuts, data, tmp_path_factory):
    """Parts of files and copied pipes may be read in any order. Other pipes are read in order."""
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype, order)
    content = saved(array)
    path = tmp_path_factory.getbasetemp() / "parts.npy"
    path.write_bytes(content + b"more")
    edges = sorted({0, shape[0], *(cut for cut in cuts if cut <= shape[0])})
    parts = list(itertools.pairwise(edges))
    shuffled = data.draw(st.permutations(parts))
    with path.open("rb", buffering=0) as file, open_parts(file) as found:
        for start, stop in shuffled:
            same(found.read(start, stop), array[start:stop])
    with open_parts(Pipe(content)) as found:
        for start, stop in parts:
            same(found.read(start, stop), array[start:stop])
    with open_parts(Pipe(content), anywhere=True) as found:
        for start, stop in shuffled:
            same(found.read(start, stop), array[start:stop])


def same(part, wanted):
    assert (part.dtype, part.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(part, wanted)


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("missing", [1, 8, 200])
def test_truncated_streams_raise(missing, order):
    content = saved(np.zeros((5, 3, 2), order=order))[:-missing]

    def read(anywhere):
        with open_parts(Pipe(content), anywhere=anywhere) as parts:
            parts.read(0, 5)

    for anywhere in (False, True):
        with pytest.raises(ValueError, match="claims 240 bytes, but ends earlier"):
            read(anywhere)


def test_pipes_are_read_in_order():
    with open_parts(Pipe(saved(np.zeros((5, 3))))) as parts:
        parts.read(0, 2)
        with pytest.raises(RuntimeError, match="byte 0 of a stream was asked for at byte 48"):
            parts.read(0, 2)
