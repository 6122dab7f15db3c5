"""cupy.cuda.driver: the one attribute of functions that is set, and its limits."""

import weakref

CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8

# Bytes of shared memory that every launch may use, and the most that an sm_90 allows on request.
FREE, MOST = 48 << 10, 227 << 10

_functions = weakref.WeakValueDictionary()  # ptr -> gpu.Function


class CUDADriverError(RuntimeError):
    """A status that is not CUDA_SUCCESS."""


def made(function):
    """Return the ptr of a new function."""
    _functions[id(function)] = function
    return id(function)


def funcSetAttribute(f, attribute, value):
    if f not in _functions:
        raise CUDADriverError("CUDA_ERROR_INVALID_HANDLE: no such function is loaded")
    if attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES or not 0 <= value <= MOST:
        raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {value} of attribute {attribute}")
    _functions[f].most_shared = value
