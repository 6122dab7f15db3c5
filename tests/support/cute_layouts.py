"""CuTe's layouts, and those that CUTLASS publishes for tensor cores: facts about hardware that are not our own.

A layout maps coordinates to offsets, by shapes and strides that may be nested. The coordinate of a nested mode is an
index, which runs over its first part fastest. The numbers are from CUTLASS, which is under the BSD-3-Clause licence:
mma_traits_sm80.hpp and copy_traits_sm75.hpp in include/cute/atom/.
"""

from math import prod
from typing import NamedTuple


def _flat(nested):
    return [nested] if isinstance(nested, int) else [each for part in nested for each in _flat(part)]


class Layout(NamedTuple):
    """Shapes and strides, nested alike."""

    shape: tuple
    stride: tuple

    def __call__(self, *coordinates):
        """Return the offset of a coordinate: an index for each mode, or one for all of them."""
        modes = list(zip(self.shape, self.stride, strict=True))
        if len(coordinates) == 1:
            modes = [(self.shape, self.stride)]
        return sum(_offset(index, *mode) for index, mode in zip(coordinates, modes, strict=True))

    def inverse(self):
        """Return CuTe's right inverse: a layout from offsets to the indices that map to them."""
        shapes, strides = _flat(self.shape), _flat(self.stride)
        before = [prod(shapes[:k]) for k in range(len(shapes))]
        order = sorted(range(len(shapes)), key=strides.__getitem__)
        assert [strides[k] for k in order] == [prod(shapes[j] for j in order[:i]) for i in range(len(order))]
        return Layout(tuple(shapes[k] for k in order), tuple(before[k] for k in order))


def _offset(index, shape, stride):
    total = 0
    for size, step in zip(_flat(shape), _flat(stride), strict=True):
        index, total = index // size, total + index % size * step
    return total


class Product(NamedTuple):
    """d (M, N) += a (M, K) b (K, N) on a tensor core: layouts from (lane, value) to m + M k, n + N k and m + M n."""

    K: int
    a: Layout
    b: Layout
    d: Layout


_D = Layout(((4, 8), (2, 2)), ((32, 1), (16, 8)))
# SM80_16x8x16_F32F16F16F32_TN and SM80_16x8x16_F32BF16BF16F32_TN.
OF_16_BITS = Product(
    16, Layout(((4, 8), (2, 2, 2)), ((32, 1), (16, 8, 128))), Layout(((4, 8), (2, 2)), ((16, 1), (8, 64))), _D
)
# SM80_16x8x8_F32TF32TF32F32_TN.
OF_TF32 = Product(8, Layout(((4, 8), (2, 2)), ((16, 1), (8, 64))), Layout(((4, 8), 2), ((8, 1), 32)), _D)
# SM75_U32x4_LDSM_N (ldmatrix). Both map (lane, bit) to a bit of the matrices: in the row that a lane points to, and in
# the registers that it receives.
ROWS, RECEIVED = Layout((32, 128), (128, 1)), Layout((32, (32, 4)), (32, (1, 1024)))
