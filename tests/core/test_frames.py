"""The service's binary messages."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusedlstm.frames import FrameError, Status, decode_reply, decode_request, encode_reply, encode_request

SIZES = st.tuples(st.integers(0, 9), st.integers(1, 5))
IDS = st.integers(0, 2**64 - 1)


def integers(rng, dtype, B):
    return rng.integers(0, np.iinfo(dtype).max, B, dtype, endpoint=True)


@given(SIZES, IDS, st.integers(0, 2**32 - 1), st.integers(0, 2**32))
def test_request_round_trip(sizes, message_id, deadline, seed):
    rng = np.random.default_rng(seed)
    handles, sequence = integers(rng, np.uint64, sizes[0]), integers(rng, np.uint32, sizes[0])
    x = rng.normal(size=sizes).astype(np.float32)
    found = decode_request(encode_request(message_id, handles, sequence, x, deadline_ms=deadline), sizes[1])
    assert (found.message_id, found.deadline_ms) == (message_id, deadline)
    for got, wanted in ((found.handles, handles), (found.sequence, sequence), (found.x, x)):
        np.testing.assert_array_equal(got, wanted, strict=True)


@given(SIZES, IDS, st.integers(0, 2**32))
def test_reply_round_trip(sizes, message_id, seed):
    rng = np.random.default_rng(seed)
    status, after = integers(rng, np.uint8, sizes[0]), integers(rng, np.uint32, sizes[0])
    h = rng.normal(size=sizes).astype(np.float32)
    found = decode_reply(encode_reply(message_id, status, after, h), sizes[1])
    assert found.message_id == message_id
    for got, wanted in ((found.status, status), (found.next, after), (found.h, h)):
        np.testing.assert_array_equal(got, wanted, strict=True)


def test_bytes_of_frames():
    """A client in another language relies on these bytes."""
    x = np.array([[1.5, -2], [3, 4]], np.float32)
    wanted = struct.pack("<IIQQQII4f", 2, 250, 7, 2**40 + 1, 5, 1, 9, *x.ravel())
    assert encode_request(7, [2**40 + 1, 5], [1, 9], x, deadline_ms=250) == wanted
    wanted = struct.pack("<IIQBBxxII4f", 2, 0, 7, Status.OK, Status.LATE, 2, 9, *x.ravel())
    assert encode_reply(7, [Status.OK, Status.LATE], [2, 9], x) == wanted
    assert [status.value for status in Status] == list(range(8))


@given(SIZES, st.data())
def test_cut_and_longer_frames_are_refused(sizes, data):
    B, I = sizes
    x = np.zeros((B, I), np.float32)
    for frame, decode in (
        (encode_request(1, range(B), range(B), x), decode_request),
        (encode_reply(1, [0] * B, [1] * B, x), decode_reply),
    ):
        cut = frame[: data.draw(st.integers(0, len(frame) - 1))]
        for wrong in (cut, frame + b"\0", frame + bytes(4 * I)):
            with pytest.raises(FrameError, match=f"wanted re.*size {I}.*; got {len(wrong)}"):
                decode(wrong, I)


@given(st.binary(max_size=200), st.integers(1, 4))
def test_random_bytes_give_frames_or_errors(data, size):
    for decode in (decode_request, decode_reply):
        try:
            found = decode(data, size)
        except FrameError:
            continue
        assert len(found[-1]) == int.from_bytes(data[:4], "little")


def test_huge_counts_allocate_nothing():
    with pytest.raises(FrameError, match="bytes for 4294967295 rows; got 16"):
        decode_request(struct.pack("<IIQ", 2**32 - 1, 0, 0), 1000)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": np.zeros(3)}, r"x: wanted shape \(B, I\); got shape \(3,\)"),
        ({"handles": [1]}, r"handles: wanted shape \(B,\) = \(2,\); got shape \(1,\)"),
        ({"handles": [-1, 0]}, "handles: wanted integers from 0 to 18446744073709551615; got -1 to 0"),
        ({"sequence": [0, 2**32]}, "sequence: wanted integers from 0 to 4294967295; got 0 to 4294967296"),
        ({"sequence": [0.5, 1]}, "sequence: wanted integers; got dtype float64"),
        ({"message_id": 2**64}, "message_id: wanted at most 18446744073709551615"),
        ({"deadline_ms": -1}, "deadline_ms: wanted at least 0; got -1"),
    ],
)
def test_bad_arguments_raise(change, says):
    given = {"message_id": 1, "handles": [1, 2], "sequence": [1, 1], "x": np.zeros((2, 3)), "deadline_ms": 0} | change
    with pytest.raises(ValueError, match=says):
        encode_request(**given)
