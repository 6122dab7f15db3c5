"""The stand-in for CuPy is like CuPy where it should be, and stricter where it says so."""

import inspect
import re

import ml_dtypes
import numpy as np
import pytest

import stand_in
from stand_in import arrays, cublas, gpu, nvrtc

needs_cupy = pytest.mark.skipif(not stand_in.real, reason="CuPy is not installed, or runs on a GPU here")


def public(thing):
    return {name for name in vars(thing) if not name.startswith("_")}


@needs_cupy
def test_names_are_cupys():
    cupy = stand_in.real["cupy"]
    assert public(arrays.ndarray) <= set(dir(cupy.ndarray))
    modules = stand_in.modules()
    assert {name for name in public(modules["cupy"]) if name != "cuda"} <= set(dir(cupy))
    assert public(modules["cupy.cuda"]) <= set(dir(cupy.cuda))
    assert public(gpu.runtime) <= set(dir(cupy.cuda.runtime))
    assert public(gpu.Module) <= set(dir(cupy.cuda.Module))
    assert public(arrays.Device) <= set(dir(cupy.cuda.Device))
    own = {"NVRTCError", "Path"} | {name for name in public(nvrtc) if inspect.ismodule(getattr(nvrtc, name))}
    assert public(nvrtc) - own <= set(dir(stand_in.real["nvrtc"]))


@needs_cupy
@pytest.mark.parametrize("name", ["empty", "zeros", "asarray", "ascontiguousarray", "broadcast_to", "stack"])
def test_parameters_are_cupys(name):
    ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (arrays, stand_in.real["cupy"]))
    assert list(ours) == list(theirs)[: len(ours)]
    for parameter in ours:
        assert ours[parameter].default == theirs[parameter].default or parameter == "dtype"


@pytest.mark.skipif("cublas" not in stand_in.real, reason="cuBLAS is not installed")
def test_gemm_is_cublas():
    """Parameters and constants, as CuPy's own module has them."""
    real = stand_in.real["cublas"]
    theirs = re.findall(r"\w+ (\w+)(?:,|\))", real.gemmEx.__doc__)
    assert list(inspect.signature(cublas.gemmEx).parameters) == theirs
    for name in public(cublas):
        if name.startswith("CUBLAS_"):
            assert getattr(cublas, name) == getattr(real, name), name


@needs_cupy
def test_data_types_are_cudas():
    real = stand_in.real["cupy"].cuda.runtime
    for name in public(gpu.runtime):
        if name.startswith("CUDA_R_"):
            assert getattr(gpu.runtime, name) == getattr(real, name), name


# Stricter.


def test_no_implicit_way_to_numpy():
    array = arrays.zeros((2, 2))
    with pytest.raises(TypeError, match="not allowed"):
        np.asarray(array)
    with pytest.raises(TypeError, match="Unsupported type"):
        array[...] = np.ones((2, 2))
    with pytest.raises(TypeError, match="Unsupported type"):
        array @ np.ones((2, 2))
    assert not isinstance(array, np.ndarray)


def test_new_memory_is_nan():
    for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
        assert np.isnan(arrays.empty((3, 2), dtype).get().astype(float)).all()


def gemm(a, b, c, **changes):
    """c <- b @ a.T for row-major arrays, as the backend calls it."""
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    M, K = a.shape
    values = {
        "handle": 1, "transa": 1, "transb": 0, "m": M, "n": len(b), "k": K, "alpha": one.ctypes.data,
        "A": a.data.ptr, "Atype": 0, "lda": K, "B": b.data.ptr, "Btype": 0, "ldb": K,
        "beta": zero.ctypes.data, "C": c.data.ptr, "Ctype": 0, "ldc": M,
        "computeType": cublas.CUBLAS_COMPUTE_32F, "algo": cublas.CUBLAS_GEMM_DEFAULT,
    }  # fmt: skip
    cublas.gemmEx(**{**values, **changes})


def matrices():
    rng = np.random.default_rng(0)
    a, b = (arrays.asarray(rng.normal(size=shape).astype(np.float32)) for shape in ((4, 3), (2, 3)))
    return a, b, arrays.empty((2, 4), np.float32)


def test_gemm():
    """Also that C, which is NaN, is not read when beta is 0."""
    a, b, c = matrices()
    gemm(a, b, c)
    np.testing.assert_allclose(c.get(), b.get() @ a.get().T, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"lda": 2}, "leading dimension is too small"),
        ({"ldb": 4}, "not all in one array"),
        ({"ldc": 5}, "not all in one array"),
        ({"m": 5, "ldc": 5}, "not all in one array"),
        ({"k": 0}, "INVALID_VALUE"),
        ({"Ctype": 2}, "NOT_SUPPORTED"),
        ({"computeType": cublas.CUBLAS_COMPUTE_64F}, "NOT_SUPPORTED"),
        ({"handle": 2}, "another device"),
        ({"algo": 99}, "INVALID_VALUE"),
    ],
)
def test_gemm_refuses(changes, error):
    with pytest.raises((cublas.CUBLASError, MemoryError), match=error):
        gemm(*matrices(), **changes)


def test_gemm_notices_freed_memory():
    a, b, c = matrices()
    pointer = a.data.ptr
    del a
    with pytest.raises(MemoryError):
        gemm(*matrices(), A=pointer + (1 << 40))
    del b, c


def test_tf32_rounds_to_ten_bits():
    values = np.array([1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -(1 + 2**-11 + 2**-20), np.inf, np.nan], np.float32)
    wanted = [1 + 2**-10, 1, 1 + 2 * 2**-10, -(1 + 2**-10), np.inf, np.nan]
    np.testing.assert_array_equal(cublas._to_tf32(values), np.array(wanted, np.float32))


@pytest.mark.parametrize("value", [3, 3.0, True, None])
def test_launches_take_no_python_numbers(value):
    with pytest.raises(TypeError, match="whose size CuPy would guess"):
        gpu._argument(value)


def test_launches_refuse_arrays_of_another_device():
    with arrays.Device(1):
        array = arrays.zeros(3)
    with pytest.raises(gpu.CUDARuntimeError, match="another device"):
        gpu._argument(array)
