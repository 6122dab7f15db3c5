"""For tests of kernels: structs of NumPy arrays as a launch would pass them, and kernels without a struct."""

import numpy as np

from fusedlstm.backends.cuda.arguments import Matrix
from fusedlstm.backends.cuda.runtime.structs import Struct

from emulation import ByValue, Pointer
from support.kernel_cases import row_stride


def matrix(array, stride=None, *, one_row_for_all=False):
    """Return a Matrix of an array. Without an array, its stride is a number that no kernel may use."""
    return Matrix(array, int(row_stride(array, one_row_for_all=one_row_for_all) if stride is None else stride))


def by_value(arguments, **types):
    """Return a record as an argument for the emulator, after a check of its arrays' dtypes."""
    struct = Struct(type(arguments), **types)
    values = struct.values(arguments)
    pairs = [(member, value) for member, value in zip(struct.members, values, strict=True) if member.dtype is not None]
    for member, array in pairs:
        if array is not None and array.dtype != member.dtype:
            raise TypeError(f"{member.name} must be an array of {member.dtype}, not of {array.dtype}")
    numbers = [each.ctypes.data if isinstance(each, np.ndarray) else each or 0 for each in values]
    pointers = [
        Pointer(member.name.removesuffix(".at"), member.offset, array, member.is_const) for member, array in pairs
    ]
    return ByValue(struct.filled(values, numbers).tobytes(), pointers)


def plain_kernel(file, name, shared=0):
    """Return a kernel written for tests. Its `bound` takes parameters like CuPy, unchecked."""
    from fusedlstm.backends.cuda.runtime.kernel import Kernel  # imported here, because it needs CuPy

    return Kernel(str(file), name, struct=None, shared=shared)
