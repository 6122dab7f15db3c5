"""Arrays of other libraries: their values as NumPy arrays in host memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays.libraries import library_of
from fusedlstm.validation.arguments import check_no_grad, describe_type, fail
from fusedlstm.validation.subclasses import check_plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.arrays.dtypes import NumpyArray


def _not_set(name: str, value: Any) -> NumpyArray:
    raise RuntimeError(f"{name} is a {describe_type(value)}, which can be read only after importing fusedlstm")


# Reads an array that only a protocol can read. The str is the argument's name. `exchange` sets this function, because
# reading from a GPU takes a backend, and this module must not import the backends.
read_by_protocol: Callable[[str, Any], NumpyArray] = _not_set


def to_host(name: str, value: Any) -> NumpyArray:
    """Return `value` (an array of any library, or nested lists of numbers) as a NumPy array.

    It is copied only if it is on a device, or not an array yet. PyTorch's bfloat16 becomes ml_dtypes.bfloat16.

    Raises:
        TypeError: a tensor requires grad, or NumPy can't hold it; an array holds more than numbers, such as a
            masked array; `value` doesn't hold numbers.
    """
    check_plain(name, value)
    if isinstance(value, np.ndarray):
        return _numbers(name, value)
    check_no_grad(name, value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_torch(name, value, torch)
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(value, cupy.ndarray):
        return np.asarray(value.get())
    if not hasattr(value, "__array__") and library_of(value) is not None:
        return _numbers(name, read_by_protocol(name, value))
    try:
        array = np.asarray(value)
    except ValueError:  # nested lists of unequal lengths
        fail(TypeError, name, "an array, or equally long lists of numbers", type(value).__name__)
    return _numbers(name, array, "" if isinstance(value, (list, tuple)) else f" of a {describe_type(value)}")


def _numbers(name: str, array: NumpyArray, whose: str = "") -> NumpyArray:
    if array.dtype.kind not in "fciub" and array.dtype.name != "bfloat16":
        fail(TypeError, name, "an array of numbers", f"dtype {array.dtype}{whose}")
    return array


def to_host_reals(name: str, value: Any, dtype: np.dtype[Any]) -> NumpyArray:
    """Return `value` as a NumPy array of this dtype. It may hold any numbers except complex ones."""
    array = to_host(name, value)
    if array.dtype.kind == "c":
        fail(TypeError, name, "real numbers", f"dtype {array.dtype}")
    return np.asarray(array, dtype)


def host_mask(values: Any) -> NumpyArray:
    """Return a mask, which is a host array or a list, as a NumPy array of any dtype.

    Raises:
        TypeError: the array is on a device.
        ValueError: lists have unequal lengths.
    """
    mask = np.asarray(values)
    if isinstance(values, (list, tuple)) and not mask.size:
        return mask.astype(np.bool_)  # NumPy turns empty lists into floats
    return mask


def _from_torch(name: str, tensor: Any, torch: Any) -> NumpyArray:
    if tensor.device.type == "meta":
        fail(TypeError, name, "a tensor with data", "one on the device meta, without data", "Load its values first")
    try:
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
        if tensor.dtype != torch.bfloat16:
            return np.asarray(tensor.numpy())
    except (TypeError, RuntimeError) as error:  # sparse or quantised tensors, and dtypes that NumPy doesn't have
        fail(TypeError, name, "a tensor that NumPy can hold", f"{tensor.dtype}, {tensor.layout}", str(error))
    import ml_dtypes

    # PyTorch can't convert bfloat16 to NumPy, so pass the bits as int16.
    bits: NumpyArray = tensor.view(torch.int16).numpy()
    return bits.view(ml_dtypes.bfloat16)
