"""Locate and read the tensors in files of torch.save."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from fusedlstm.arrays import dtypes

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.arrays.dtypes import NumpyArray

MOST_AXES = 64  # as many as NumPy has

# PyTorch's dtypes that NumPy has under the same name; bfloat16 comes from ml_dtypes.
_SAME = (
    *("float64", "float32", "float16", "bfloat16", "bool", "complex64", "complex128"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
_DTYPES = dict(zip(_SAME, _SAME, strict=True)) | {
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "cfloat": "complex64",
    "cdouble": "complex128",
}
# The dtypes that NumPy doesn't have, by their size in bytes.
_OTHERS = {
    1: "qint8 quint8 quint4x2 quint2x4 bits8 bits1x8 bits2x4 bits4x2 float8_e5m2 float8_e4m3fn float8_e5m2fnuz "
    "float8_e4m3fnuz float8_e8m0fnu float4_e2m1fn_x2",
    2: "bits16",
    4: "complex32 chalf qint32",
}
_OTHER_SIZES = {name: size for size, names in _OTHERS.items() for name in names.split()}
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Bool": "bool",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Untyped": "uint8",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "QInt8": "qint8",
    "QInt32": "qint32",
    "QUInt8": "quint8",
    "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
}


@dataclass(frozen=True, slots=True)
class Other:
    """An object that this package doesn't read; `kind` says what it is."""

    kind: str

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """The memory that tensors share.

    Attributes:
        key: its name in the file.
        dtype: PyTorch's name of its elements' dtype.
        nbytes: its size.
        read: a function that returns its bytes, exactly `nbytes`.
        big_endian: whether its elements are big-endian.
    """

    key: str
    dtype: str
    nbytes: int
    read: Callable[[], bytes]
    big_endian: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        storage: the memory with its values.
        dtype: PyTorch's name of its dtype.
        offset: the offset of its first value, in elements.
        shape, strides: its shape and strides, in elements.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def checked(cls, storage: Storage, dtype: str, offset: Any, shape: Any, strides: Any) -> StoredTensor:
        """Return the tensor that a file describes. Raise ValueError if it reaches beyond its storage."""
        if not _are_sizes(shape) or not _are_sizes(strides) or len(shape) != len(strides) or not is_size(offset):
            raise ValueError("its pickle is damaged: a tensor's shape, strides or offset are not sizes")
        tensor = cls(storage, dtype, offset, shape, strides)
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if 0 not in shape and (last + 1) * tensor.itemsize > storage.nbytes:
            raise ValueError(f"a tensor {shape} reaches beyond the {storage.nbytes} bytes of its storage")
        return tensor

    @property
    def itemsize(self) -> int:
        """Return the size of an element in bytes."""
        return size_of(self.dtype)

    @property
    def nbytes(self) -> int:
        """Return the size of its values in bytes, if each were stored once."""
        return math.prod(self.shape) * self.itemsize

    def array(self) -> NumpyArray:
        """Return its values, read from the file.

        Raises:
            ValueError: NumPy doesn't have its dtype, or the file is damaged.
        """
        if self.dtype not in _DTYPES:
            raise ValueError(f"wanted a tensor that NumPy can hold; got torch.{self.dtype}")
        name = _DTYPES[self.dtype]
        raw = np.dtype(np.uint16 if name == "bfloat16" else name)
        if 0 in self.shape:
            array = np.empty(self.shape, raw)
        else:
            order = raw.newbyteorder(">" if self.storage.big_endian else "<")
            strides = tuple(stride * raw.itemsize for stride in self.strides)
            array = np.ndarray(self.shape, order, self.storage.read(), self.offset * raw.itemsize, strides)
            array = array.astype(raw, copy=False)
        return array.view(dtypes.resolve("bfloat16")) if name == "bfloat16" else array


def storage_dtype(name: str) -> str | None:
    """Return the dtype of a storage class such as torch.FloatStorage, by PyTorch's name; None if unknown."""
    return _STORAGES.get(name.rpartition(".")[2].removesuffix("Storage").lstrip("_"))


def size_of(dtype: str) -> int:
    """Return the size of one of PyTorch's dtypes in bytes."""
    if dtype in _OTHER_SIZES:
        return _OTHER_SIZES[dtype]
    if dtype not in _DTYPES:
        raise ValueError(f"it has a tensor of an unknown dtype: torch.{dtype}")
    return 2 if dtype == "bfloat16" else np.dtype(_DTYPES[dtype]).itemsize


def is_size(value: Any) -> TypeGuard[int]:
    """Return whether a value is an integer that can be a size."""
    return type(value) is int and 0 <= value < 2**63


def _are_sizes(values: Any) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and len(values) <= MOST_AXES and all(map(is_size, values))
