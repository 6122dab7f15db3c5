"""Structs passed by value in the stand-in for CuPy: it tracks their pointers, and is stricter than CuPy."""

import numpy as np
import pytest

from fusedlstm.backends.cuda.arguments import ClipArguments
from fusedlstm.backends.cuda.runtime.structs import Struct

from stand_in import arrays, gpu


def packed_clip(h):
    """Return the struct of lstm_clip, as a launch passes it."""
    struct, values = Struct(ClipArguments, T=np.dtype(np.float32)), [h, 3, 0.5]
    return struct.filled(values, [h.data.ptr, 3, 0.5])


def test_structs_are_passed_by_value():
    """The bytes are unchanged, and each pointer comes with its array."""
    h = arrays.zeros(3, np.float32)
    packed = packed_clip(h)
    value = gpu._argument(packed)
    assert value.data == packed.tobytes()
    ((name, offset, array, is_const),) = value.pointers
    assert (name, offset, is_const) == ("h", 0, False)
    assert array is h._host


def test_other_numpy_arrays_are_not_structs():
    with pytest.raises(TypeError, match="passed by value has one element"):
        gpu._argument(np.zeros(2))
    with pytest.raises(TypeError, match="which knows its pointers, not a ndarray"):
        gpu._argument(np.zeros(1))
    with arrays.Device(1):
        h = arrays.zeros(3, np.float32)
    with pytest.raises(gpu.CUDARuntimeError, match="another device"):
        gpu._argument(packed_clip(h))
