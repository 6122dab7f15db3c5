"""cuBLASLt: products like the package's, on any GPU, and what the fake cuBLASLt refuses."""

import numpy as np
import pytest

from support import driver_child
from support.backends import needs_cuda

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
lt = pytest.importorskip("nvmath.bindings.cublasLt", reason="nvmath-python is not installed", exc_type=ImportError)

from support.lt_products import (  # noqa: E402
    COMPUTE_32F,
    COMPUTE_32F_FAST_TF32,
    COMPUTE_64F,
    KINDS,
    Product,
    operands,
)

INVALID_VALUE, NOT_SUPPORTED = 7, 15


@needs_cuda
@pytest.mark.parametrize(
    ("dtype", "out", "compute", "tolerance"),
    [
        ("float32", "float32", COMPUTE_32F, 1e-5),
        ("float32", "float32", COMPUTE_32F_FAST_TF32, 5e-3),
        ("float64", "float64", COMPUTE_64F, 1e-12),
        ("float16", "float32", COMPUTE_32F, 1e-4),
        ("float16", "float16", COMPUTE_32F, 5e-3),
        ("bfloat16", "float32", COMPUTE_32F, 1e-4),
        ("bfloat16", "bfloat16", COMPUTE_32F, 4e-2),
    ],
)
def test_products(dtype, out, compute, tolerance):
    """C is NaN, and must not be read when beta is 0."""
    product = Product(*operands(dtype, out, (16, 32, 64)), compute)
    product.run()
    product.assert_right(tolerance)


@needs_cuda
def test_products_of_views():
    """Leading dimensions exceed the widths of operands and result. Addresses have a small alignment."""
    rng = np.random.default_rng(0)
    a, weight, d = (cupy.asarray(rng.normal(size=(n, 24)).astype("f4")) for n in (3, 5, 3))
    before = d.get()
    product = Product(a[:, 4:12], weight[:, 8:16], d[:, 2:7], alignment=4)
    product.run()
    product.assert_right()
    np.testing.assert_array_equal(d.get()[:, 7:], before[:, 7:])
    np.testing.assert_array_equal(d.get()[:, :2], before[:, :2])


@needs_cuda
def test_graphs_keep_the_factors_of_their_capture():
    product, stream = Product(*operands()), cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.runtime.deviceSynchronize()
    product.run(stream.ptr)  # CUDA may load it
    stream.synchronize()
    stream.begin_capture()
    product.run(stream.ptr)
    graph = stream.end_capture()
    product.factors[...] = 3
    graph.launch(stream)
    stream.synchronize()
    product.assert_right()


# What the fake cuBLASLt refuses. The real one may instead give wrong numbers, or crash.


@pytest.fixture
def product():
    return Product(*operands())


def refuses(product, status=INVALID_VALUE, **changes):
    before = product.d.get()
    with pytest.raises(lt.cuBLASLtError) as caught:
        product.run(**changes)
    assert caught.value.status == status
    np.testing.assert_array_equal(product.d.get(), before)


@driver_child.of_the_driver
@pytest.mark.parametrize("name", ["a", "b"])
def test_pointers_need_the_heuristics_alignment(product, name):
    wide = cupy.zeros(1024, np.float32)
    refuses(product, **{name: wide.data.ptr + 128})
    product.run(**{name: wide.data.ptr + 256})


@driver_child.of_the_driver
def test_workspaces_are_checked_and_overwritten(product):
    """A workspace is aligned memory of this GPU. A product may overwrite all of it."""
    size = product.found.workspace_size
    assert size == 1024
    refuses(product, workspace_size_in_bytes=size - 1)
    refuses(product, workspace_size_in_bytes=size + 1)  # beyond its end
    refuses(product, workspace=0)
    wide = cupy.zeros(size + 16, np.uint8)
    refuses(product, workspace=wide.data.ptr + 16)  # it needs an alignment of 256
    product.run()
    np.testing.assert_array_equal(product.workspace.get(), 255)
    without = Product(*operands(), workspace=0)
    assert without.found.workspace_size == 0
    without.run(workspace=0)
    without.assert_right()


SHARED_WORKSPACE = """
    from support.lt_products import Product, operands

    ours, theirs = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))

    def is_right(waits):
        first, second = Product(*operands()), Product(*operands())
        second.workspace = first.workspace
        runtime.deviceSynchronize()
        first.run(ours.ptr)
        if waits:
            theirs.wait_event(ours.record())
        second.run(theirs.ptr)
        runtime.deviceSynchronize()
        return not np.isnan([first.d.get(), second.d.get()]).any()

    for waits in (False, True):
        print({is_right(waits) for _ in range(20)})
"""


@driver_child.of_the_driver
def test_products_that_share_a_workspace():
    """In random order, some are NaN if they don't wait for each other."""
    said = driver_child.run(SHARED_WORKSPACE, DRIVER_ORDER="random", DRIVER_SEED="1")
    assert said.stdout == "{False, True}\n{True}\n", said.stderr


@driver_child.of_the_driver
def test_algorithms_belong_to_operations(product):
    other = lt.matmul_desc_create(COMPUTE_32F_FAST_TF32, 0)
    product.set(lt.matmul_desc_set_attribute, other, lt.MatmulDescAttribute.TRANSA, np.int32(1))
    refuses(product, compute_desc=other)
    refuses(product, algo=product.found.ptr + 8)
    refuses(product, algo=0)


@driver_child.of_the_driver
def test_leading_dimensions_are_checked(product):
    """Too small ones are refused at once. Too large ones are refused where memory ends."""
    with pytest.raises(lt.cuBLASLtError, match="INVALID_VALUE"):
        lt.matrix_layout_create(0, 8, 6, 7)
    refuses(product, bdesc=lt.matrix_layout_create(0, 8, 6, 9))


@driver_child.of_the_driver
def test_layouts_must_fit_each_other(product):
    for name in "abcd":
        refuses(product, **{f"{name}desc": lt.matrix_layout_create(0, 4, 3, 8)})
    half = lt.matrix_layout_create(KINDS["float16"], 8, 6, 8)
    refuses(product, NOT_SUPPORTED, bdesc=half)


@driver_child.of_the_driver
@pytest.mark.parametrize(
    ("dtype", "out", "compute"),
    [
        ("float32", "float16", COMPUTE_32F),
        ("float16", "float16", COMPUTE_32F_FAST_TF32),
        ("float32", "float32", COMPUTE_64F),
        ("float16", "float16", 64),  # float16 arithmetic
    ],
)
def test_unsupported_types_are_refused(dtype, out, compute):
    with pytest.raises(lt.cuBLASLtError) as caught:
        Product(*operands(dtype, out), compute)
    assert caught.value.status == NOT_SUPPORTED


@driver_child.of_the_driver
def test_empty_products_are_refused(product):
    """The real cuBLASLt may compute them."""
    nothing, out = lt.matrix_layout_create(0, 8, 0, 8), lt.matrix_layout_create(0, 0, 6, 4)
    refuses(product, NOT_SUPPORTED, adesc=nothing, cdesc=out, ddesc=out)


@driver_child.of_the_driver
def test_unknown_attributes_are_refused(product):
    names = lt.MatmulDescAttribute
    for name, value, size in ((names.EPILOGUE, np.int32(1), 4), (names.TRANSA, np.int64(1), 8)):
        with pytest.raises(lt.cuBLASLtError, match="INVALID_VALUE"):
            product.set(lt.matmul_desc_set_attribute, product.operation, name, value, size)
    with pytest.raises(lt.cuBLASLtError, match="INVALID_VALUE"):
        product.set(lt.matmul_preference_set_attribute, product.preference, 0, np.int32(1))


@driver_child.of_the_driver
def test_other_devices_are_refused(product):
    with cupy.cuda.Device(1):
        there, stream = cupy.zeros((6, 8), np.float32), cupy.cuda.Stream()
        refuses(product)
    refuses(product, b=there.data.ptr)
    refuses(product, b=np.zeros((6, 8), np.float32).ctypes.data)
    refuses(product, stream=stream.ptr)


@driver_child.of_the_driver
def test_out_of_place_products_are_refused(product):
    refuses(product, NOT_SUPPORTED, c=cupy.zeros((6, 4), np.float32).data.ptr)


@driver_child.of_the_driver
def test_tf32_is_rounded(product):
    """Factors are rounded to 10 bits, so the product differs from IEEE float32."""
    product.run()
    ieee = product.d.get()
    Product(product.a, product.weight, product.d, COMPUTE_32F_FAST_TF32).run()
    assert not np.array_equal(product.d.get(), ieee)
    one = 1 + np.arange(4, dtype=np.float32)[:, None] * 2.0**-11
    a, weight, d = cupy.asarray(one), cupy.ones((1, 1), np.float32), cupy.zeros((4, 1), np.float32)
    Product(a, weight, d, COMPUTE_32F_FAST_TF32).run()
    np.testing.assert_array_equal(d.get()[:, 0], [1, 1 + 2.0**-10, 1 + 2.0**-10, 1 + 2.0**-9])
