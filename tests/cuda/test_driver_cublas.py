"""The fake driver's cuBLAS: what it refuses, and when it rounds."""

import numpy as np
import pytest

from support import driver_child

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = driver_child.of_the_driver

R_32F, R_16F, COMPUTE_16F, COMPUTE_32F = 0, 2, 64, 68
TF32_MATH, DISALLOW_REDUCED_PRECISION_REDUCTION = 3, 16


@pytest.fixture
def handle():
    return cupy.cuda.device.get_cublas_handle()


def multiply(handle, a, b, d, types=(R_32F, R_32F, R_32F), compute=COMPUTE_32F, k=2, stride=2):
    """Multiply matrices (2, k) and (k, 2), given as CuPy arrays or addresses."""
    from cupy_backends.cuda.libs import cublas

    factors = np.array([1, 0], np.float32)
    one, zero = factors.ctypes.data, factors.ctypes.data + 4
    a, b, d = (each if isinstance(each, int) else each.data.ptr for each in (a, b, d))
    cublas.gemmEx(
        *(handle, 0, 0, 2, 2, k, one, a, types[0], stride, b, types[1], stride),
        *(zero, d, types[2], 2, compute, cublas.CUBLAS_GEMM_DEFAULT),
    )


def refuses(status):
    from cupy_backends.cuda.libs import cublas

    return pytest.raises(cublas.CUBLASError, match=status)


def test_unsupported_types_are_refused(handle):
    a, b, d = (cupy.zeros(4, np.float32) for _ in range(3))
    multiply(handle, a, b, d)
    for types, compute in (
        ((R_32F, R_16F, R_32F), COMPUTE_32F),
        ((R_32F, R_32F, R_16F), COMPUTE_32F),
        ((R_16F, R_16F, R_16F), COMPUTE_16F),
    ):
        with refuses("NOT_SUPPORTED"):
            multiply(handle, a, b, d, types, compute)


def test_a_leading_dimension_is_at_least_one(handle):
    a, b, d = (cupy.zeros(4, np.float32) for _ in range(3))
    multiply(handle, a, b, d, k=0)
    with refuses("INVALID_VALUE"):
        multiply(handle, a, b, d, k=0, stride=0)
    with refuses("INVALID_VALUE"):
        multiply(handle, a, b, d, k=-1)


def test_memory_of_the_host_is_refused(handle):
    a, d = cupy.zeros(4, np.float32), cupy.zeros(4, np.float32)
    with refuses("INVALID_VALUE"):
        multiply(handle, a, np.zeros(4, np.float32).ctypes.data, d)


def test_handles_belong_to_devices(handle):
    with cupy.cuda.Device(1):
        a, b, d = (cupy.zeros(4, np.float32) for _ in range(3))
        multiply(cupy.cuda.device.get_cublas_handle(), a, b, d)
        with refuses("INVALID_VALUE"):
            multiply(handle, a, b, d)


def test_flags_of_a_math_mode_keep_its_rounding(handle):
    from cupy_backends.cuda.libs import cublas

    a, b, d = cupy.full(4, 1 + 2.0**-20, np.float32), cupy.ones(4, np.float32), cupy.zeros(4, np.float32)
    multiply(handle, a, b, d)
    assert float(d[0]) > 2
    cublas.setMathMode(handle, TF32_MATH | DISALLOW_REDUCED_PRECISION_REDUCTION)
    try:
        multiply(handle, a, b, d)
    finally:
        cublas.setMathMode(handle, cublas.CUBLAS_DEFAULT_MATH)
    assert float(d[0]) == 2
