"""Which lane has which element of a tensor core's product, compared with the layouts that CUTLASS publishes.

Our own knowledge of them is in the emulator's twins of mma.sync and ldmatrix, and in kernels/tensor*.cuh. On a GPU,
tests of the primitives compare the hardware itself.
"""

import functools
from pathlib import Path

import mutations
import numpy as np
import pytest

from emulation import Module
from support.backends import needs_cuda
from support.cute_layouts import OF_16_BITS, OF_TF32, RECEIVED, ROWS, Layout
from support.emulated import needs_emulation
from support.kernel_cases import DTYPES
from support.places import KERNELS
from support.step_cases import TILES
from support.structs import plain_kernel

PRIMITIVES, FRAGMENTS = (Path(__file__).parent / name for name in ("primitives.cu", "fragments.cu"))
TENSOR_DTYPES = ("__half", "__nv_bfloat16", "float")
LANES = range(32)
TENSOR_CASES = [(tile, name) for tile, (shape, names) in TILES.items() if shape.pairs for name in names]


def product_of(name):
    return OF_TF32 if name == "float" else OF_16_BITS


def mapped(layout, values):
    """Return the offsets (lanes, values) of each lane's values."""
    return np.array([[layout(lane, value) for value in range(values)] for lane in LANES])


def test_layouts():
    """Every element of a, b and d is in one place."""
    for product in (OF_16_BITS, OF_TF32):
        for layout, size in ((product.a, 16 * product.K), (product.b, 8 * product.K), (product.d, 128)):
            assert sorted(mapped(layout, size // 32).ravel()) == list(range(size))
            inverse = layout.inverse()
            assert all(layout(inverse(offset)) == offset for offset in range(size))
    assert Layout((4, (2, 3)), (6, (1, 2)))(3, 5) == 18 + 1 + 4


def run(name, arrays, grid=1):
    import cupy

    on_device = [cupy.asarray(array) for array in arrays]
    plain_kernel(PRIMITIVES, name).bound((grid,), (32,), *on_device)()
    return on_device[-1].get()


def wrong_products(name, product):
    """Count the wrong elements of d += a b, with fragments in a product's layouts. No matrix has a number twice."""
    random, K, dtype = np.random.default_rng(0), product.K, DTYPES[name]
    a, b, d = (random.permutation(size).astype(np.float32) for size in (16 * K, 8 * K, 128))
    registers = [
        np.ascontiguousarray(matrix[mapped(layout, len(matrix) // 32)].astype(dtype)).view(np.uint32)
        for matrix, layout in ((a, product.a), (b, product.b))
    ]
    d_map = mapped(product.d, 4)
    got = run(f"fragments_multiplied<{name}>", [*registers, d[d_map]])
    wanted = a.reshape(K, 16).T @ b.reshape(K, 8) + d.reshape(8, 16).T
    return int((got != wanted.T.ravel()[d_map]).sum())


@needs_cuda
@pytest.mark.parametrize("name", TENSOR_DTYPES)
def test_products_have_published_layouts(name):
    assert wrong_products(name, product_of(name)) == 0


@needs_cuda
def test_loads_have_the_published_layout():
    """Lane l points to the row (5 l + 3) % 32 of 8 numbers."""
    numbers = np.random.default_rng(0).permutation(1 << 16)[:256].astype(np.uint16).reshape(32, 8)
    got = run("matrices<unsigned short>", [numbers, np.zeros((32, 4), np.uint32)])
    pointed = numbers[(np.arange(32) * 5 + 3) % 32]
    source = ROWS.inverse()
    from_index = np.array([[source(RECEIVED(lane, 16 * half)) for half in range(8)] for lane in LANES])
    lane, bit = from_index % 32, from_index // 32
    np.testing.assert_array_equal(got.view(np.uint16).reshape(32, 8), pointed[lane, bit // 16])


# Lanes, registers or halves of registers that are swapped.
WRONG = [
    ("a", Layout(((4, 8), (2, 2, 2)), ((32, 1), (16, 128, 8)))),
    ("a", Layout(((4, 8), (2, 2, 2)), ((16, 1), (128, 8, 64)))),
    ("b", Layout(((4, 8), (2, 2)), ((8, 1), (32, 64)))),
    ("d", Layout(((4, 8), (2, 2)), ((32, 1), (8, 16)))),
    ("d", Layout(((8, 4), (2, 2)), ((1, 32), (16, 8)))),
]


@needs_cuda
@pytest.mark.parametrize(("matrix", "layout"), WRONG)
def test_another_layout_multiplies_wrong(matrix, layout):
    assert wrong_products("__half", OF_16_BITS._replace(**{matrix: layout})) >= 64


# The recorded products of a tile: see fragments.cu.
MOST = 64


def compiled(kernels, tiles, name):
    """Return some tiles' functions, by their names."""
    names = {tile: f"record<{TILES[tile][0].c_name(DTYPES[name])}>" for tile in tiles}
    module = Module(FRAGMENTS, list(names.values()), mode="check", flags=[f"-I{kernels}"])
    return {tile: module.function(each) for tile, each in names.items()}


@functools.cache
def of_dtype(name):
    return compiled(KERNELS, [tile for tile, each in TENSOR_CASES if each == name], name)


def recorded(function, tile, name):
    """Return a tile's operands and sums. Elements of x are numbered from 0, and of the weights from 4096, by rows."""
    shape, dtype = TILES[tile][0], DTYPES[name]
    K = 64 // dtype.itemsize
    as_numbers = np.float32 if name == "float" else np.uint16  # x is rounded to TF32, which has 11 significant bits
    x = np.arange(shape.rows * K).astype(as_numbers).view(dtype)
    weight = (4096 + np.arange(4 * shape.units * K)).astype(as_numbers).view(dtype)
    products, operands = np.zeros(shape.threads, np.int32), np.zeros((shape.threads, MOST, 10), np.uint32)
    of_thread = max(shape.rows * shape.units // shape.threads, 2) * 4
    sums = np.full((shape.threads, of_thread, 4), -1, np.int32)
    function((1,), (shape.threads,), (x, weight, products, operands, sums), shared_mem=shape.shared_bytes)
    return K, products, operands, sums.reshape(-1, 4), as_numbers


def placed(registers, layout, rows, as_numbers, K):
    """Return the operand (x: 0, the weights: 1), row and column of each element of a fragment, given by lane."""
    numbers = np.ascontiguousarray(registers).view(as_numbers).astype(int)
    matrix = np.full(rows * numbers.size // rows, -1)
    matrix[mapped(layout, numbers.shape[1])] = numbers
    matrix = matrix.reshape(-1, rows).T
    of = np.minimum(matrix // 4096, 1)
    return of, (matrix - 4096 * of) // K, matrix % K


def offsets(places):
    """Return the operand, and the first row and column of its part. The part must be whole, and in order."""
    of, rows, columns = places
    m, k = np.indices(rows.shape)
    np.testing.assert_array_equal(of, of[0, 0])
    np.testing.assert_array_equal(rows, rows[0, 0] + m)
    np.testing.assert_array_equal(columns, columns[0, 0] + k)
    return int(of[0, 0]), int(rows[0, 0]), int(columns[0, 0])


def check_tile(function, tile, name):
    """Check that each product multiplies parts of x and of the weights, and that its sums are a unit's gates."""
    product, shape = product_of(name), TILES[tile][0]
    K, products, operands, sums, as_numbers = recorded(function, tile, name)
    sums_of = {}  # by number: row of x, row of the weights
    columns_of = {}  # by number: the columns that were multiplied
    for warp in range(shape.threads // 32):
        lanes = slice(32 * warp, 32 * warp + 32)
        assert len(set(products[lanes].tolist())) == 1
        for each in range(products[lanes][0]):
            of_a = offsets(placed(operands[lanes, each, :4], product.a, 16, as_numbers, K))
            of_b = offsets(placed(operands[lanes, each, 4:6], product.b, 8, as_numbers, K))
            assert {of_a[0], of_b[0]} == {0, 1}
            assert of_a[2] == of_b[2]
            for lane, value in np.ndindex(32, 4):
                m, n = product.d(lane, value) % 16, product.d(lane, value) // 16
                rows = {of_a[0]: of_a[1] + m, of_b[0]: of_b[1] + n}
                number = int(operands[32 * warp + lane, each, 6 + value])
                assert sums_of.setdefault(number, rows) == rows
                columns_of.setdefault(number, []).append(of_a[2])
    assert all(sorted(columns) == list(range(0, K, product.K)) for columns in columns_of.values())
    used = sums[sums[:, 3] >= 0]
    for row, unit, gate, number in used.tolist():
        assert sums_of[number] == {0: row, 1: unit // 8 * 32 + gate * 8 + unit % 8}
    assert len(used) == len(set(map(tuple, used[:, :3].tolist()))) == shape.rows * shape.units * 4


@pytest.mark.sampled
@needs_emulation
@pytest.mark.parametrize(("tile", "name"), TENSOR_CASES)
def test_tiles_have_published_layouts(tile, name):
    check_tile(of_dtype(name)[tile], tile, name)


PLANTED = [
    ("medium", "tensor.cuh", "lanes of a swapped", "lane % 16, step * 2 + lane / 16", "lane / 2, step * 2 + lane % 2"),
    ("medium", "tensor.cuh", "rows of b in another order", "lane / 16 * 8 + lane % 8", "lane % 16"),
    ("medium", "tensor.cuh", "a sum's row", "+ r * 8 + lane / 4", "+ r * 8 + lane % 8"),
    ("medium", "tensor.cuh", "a sum's unit", "+ 2 * (lane % 4); }", "+ 2 * (lane / 8); }"),
    ("medium", "tensor.cuh", "the other half of K", "step * 2 + lane / 16", "step * 2 + 1 - lane / 16"),
    ("small8", "tensor_small.cuh", "gates of a swapped", "place(half * 16", "place((1 - half) * 16"),
    (
        "small8",
        "tensor_small.cuh",
        "a step's b",
        "b[batch][2 * step], b[batch][2 * step + 1]",
        "b[batch][step], b[batch][step + 2]",
    ),
    ("small8", "tensor_small.cuh", "a shared sum's unit", "place_of(lane / 4)", "place_of(lane / 4 ^ 1)"),
    ("small32", "tensor_small.cuh", "rows of another batch", "rows + place(batch * 8", "rows + place((batch ^ 1) * 8"),
    (
        "medium",
        "staging.cuh",
        "a row's chunks swapped",
        "to + place(first, row, chunk), from, CHUNK",
        "to + place(first, row, chunk ^ 1), from, CHUNK",
    ),
]


@pytest.fixture(scope="module")
def _own_libraries(tmp_path_factory):
    """Keep libraries of changed kernels out of the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMULATION_CACHE", str(tmp_path_factory.mktemp("libraries")))
        yield


@needs_emulation
@pytest.mark.nightly
@pytest.mark.usefixtures("_own_libraries")
@pytest.mark.parametrize(("tile", "file", "what", "old", "new"), PLANTED, ids=[what for _, _, what, *_ in PLANTED])
def test_a_planted_fragment_is_found(tile, file, what, old, new):
    with mutations.mutated(mutations.Mutation(file, what, old, new)) as kernels:
        function = compiled(kernels, [tile], "__half")[tile]
        with pytest.raises(AssertionError):
            check_tile(function, tile, "__half")
