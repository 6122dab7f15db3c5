"""Encode and decode the service's binary messages, which step many sessions at once.

Numbers are little-endian, and arrays follow each other without gaps:

    request    uint32 B, uint32 deadline_ms, uint64 message_id, uint64 handles[B], uint32 sequence[B], float32 x[B, I]
    reply      uint32 B, uint32 0, uint64 message_id, uint8 status[B], up to 3 zeros, uint32 next[B], float32 h[B, P]

The zeros make the bytes of `status` a multiple of 4. A client needs this module and a library of WebSockets, not Ray.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fusedlstm.validation.arguments import check_shape, check_size, fail

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray

_HEADER = struct.Struct("<IIQ")


class FrameError(ValueError):
    """A message is not a frame of the wanted sizes: it is too short or too long."""


class Status(enum.IntEnum):
    """What happened to a row. In each case `next` is the sequence number of the step that the session waits for."""

    OK = 0  # it was stepped
    REPEATED = 1  # it was stepped before: this is the same output again
    OUT_OF_ORDER = 2  # it was not stepped, as its sequence number is neither `next` nor the one before
    BUSY = 3  # it was not stepped, as too many rows wait, or its shard is slow or restarting: send it again later
    LATE = 4  # it was not stepped before its deadline
    WENT_BACK = 5  # it was not stepped, and the session lost earlier steps: send them again, from `next` on
    NOT_OPEN = 6  # there is no such session, or it is lost: open it, and begin with its first input
    FAILED = 7  # its output is missing. If `next` is above its number, it was stepped: send it again for its output


class Request(NamedTuple):
    """Steps of B sessions.

    Args:
        message_id: a number of the client's, which the reply repeats.
        deadline_ms: the milliseconds after which rows that still wait are not stepped; 0 for no deadline.
        handles: the sessions' handles, (B,) uint64.
        sequence: the sequence number of each step, (B,) uint32. A session's first step has number 1.
        x: the inputs, (B, I) float32.
    """

    message_id: int
    deadline_ms: int
    handles: NumpyArray
    sequence: NumpyArray
    x: NumpyArray


class Reply(NamedTuple):
    """What became of the rows of a request.

    Args:
        message_id: that of the request.
        status: a `Status` of each row, (B,) uint8.
        next: the sequence number of each session's next step, (B,) uint32; 0 if it is not open.
        h: the outputs, (B, P) float32. Rows whose status is neither OK nor REPEATED are zeros.
    """

    message_id: int
    status: NumpyArray
    next: NumpyArray
    h: NumpyArray


def encode_request(message_id: int, handles: Any, sequence: Any, x: Any, *, deadline_ms: int = 0) -> bytes:
    """Return the message that asks for these steps. See `Request` for the arguments.

    Arrays of other dtypes are converted.

    Raises:
        TypeError: `message_id` or `deadline_ms` is not an int.
        ValueError: shapes differ, or a number is out of range.
    """
    rows = np.asarray(x, "<f4")
    if rows.ndim != 2:
        fail(ValueError, "x", "shape (B, I)", f"shape {rows.shape}")
    B = len(rows)
    named = _vector("handles", handles, "<u8", B) + _vector("sequence", sequence, "<u4", B)
    return _header(message_id, deadline_ms, B) + named + rows.tobytes()


def decode_request(data: bytes, input_size: int) -> Request:
    """Return what a message asks for. The arrays are read-only views of `data`.

    Raises:
        FrameError: the message is not a request for inputs of this size.
    """
    B, deadline_ms, message_id = _rows(data, 12 + 4 * input_size, False, f"requests of input size {input_size}")
    handles = np.frombuffer(data, "<u8", B, _HEADER.size)
    sequence = np.frombuffer(data, "<u4", B, _HEADER.size + 8 * B)
    x = np.frombuffer(data, "<f4", B * input_size, _HEADER.size + 12 * B)
    return Request(message_id, deadline_ms, handles, sequence, x.reshape(B, input_size))


def encode_reply(message_id: int, status: Any, next: Any, h: Any) -> bytes:  # noqa: A002 (the field's name)
    """Return the message that answers a request. See `Reply` for the arguments.

    Raises:
        TypeError: `message_id` is not an int.
        ValueError: shapes differ, or a number is out of range.
    """
    rows = np.asarray(h, "<f4")
    if rows.ndim != 2:
        fail(ValueError, "h", "shape (B, P)", f"shape {rows.shape}")
    B = len(rows)
    told = _vector("status", status, "u1", B) + bytes(_padding(B)) + _vector("next", next, "<u4", B)
    return _header(message_id, 0, B) + told + rows.tobytes()


def reply_bytes(B: int, output_size: int) -> int:
    """Return the length of a reply."""
    return _HEADER.size + B * (5 + 4 * output_size) + _padding(B)


def decode_reply(data: bytes, output_size: int) -> Reply:
    """Return what a reply says. The arrays are read-only views of `data`.

    Raises:
        FrameError: the message is not a reply with outputs of this size.
    """
    B, _, message_id = _rows(data, 5 + 4 * output_size, True, f"replies of output size {output_size}")
    at = _HEADER.size + B + _padding(B)
    status = np.frombuffer(data, "u1", B, _HEADER.size)
    h = np.frombuffer(data, "<f4", B * output_size, at + 4 * B)
    return Reply(message_id, status, np.frombuffer(data, "<u4", B, at), h.reshape(B, output_size))


def _padding(B: int) -> int:
    return -B % 4


def _header(message_id: int, deadline_ms: int, B: int) -> bytes:
    for name, value, most in (("message_id", message_id, 2**64 - 1), ("deadline_ms", deadline_ms, 2**32 - 1)):
        if check_size(name, value, 0) > most:
            fail(ValueError, name, f"at most {most}", str(value))
    return _HEADER.pack(B, deadline_ms, message_id)


def _vector(name: str, values: Any, dtype: str, B: int) -> bytes:
    array = np.asarray(values)
    check_shape(name, array.shape, "B", {"B": B})
    if array.size and array.dtype.kind not in "iu":
        fail(ValueError, name, "integers", f"dtype {array.dtype}")
    limit = np.iinfo(dtype)
    if array.size and (int(array.min()) < limit.min or int(array.max()) > limit.max):
        fail(ValueError, name, f"integers from 0 to {limit.max}", f"{array.min()} to {array.max()}")
    return array.astype(dtype).tobytes()


def _rows(data: bytes, row_bytes: int, is_padded: bool, wanted: str) -> tuple[int, int, int]:
    """Return a message's header. Raise FrameError unless its length is that of its rows."""
    if len(data) < _HEADER.size:
        raise FrameError(f"wanted {wanted}, which have at least {_HEADER.size} bytes; got {len(data)}")
    B, second, message_id = _HEADER.unpack_from(data)
    length = _HEADER.size + B * row_bytes + (_padding(B) if is_padded else 0)
    if len(data) != length:
        raise FrameError(f"wanted {wanted}: {length} bytes for {B} rows; got {len(data)}")
    return B, second, message_id
