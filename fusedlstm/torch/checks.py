"""Checks of the tensors that modules take. Nothing here reads values, so torch.compile can trace it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from fusedlstm.arrays.host import host_mask, to_host
from fusedlstm.state import LSTMState, check_state_type
from fusedlstm.validation.arguments import check_array, check_shape, describe_type, fail
from fusedlstm.validation.step import one_row_or_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusedlstm.torch.forms import CellForm

# Lengths, mask and is_first.
Flags: TypeAlias = "tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]"

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_NOT_YET = "a tensor on the CPU, the only device of fusedlstm.torch so far"
_ELSEWHERE = "Use .cpu() for tensors and modules, or torch.nn.LSTM"


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of c: float32 for 16-bit modules, else the module's."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def check_module_dtype(name: str, dtype: Any) -> None:
    """Raise TypeError unless modules can have this dtype."""
    if dtype not in _DTYPES:
        fail(TypeError, name, f"a dtype of {', '.join(map(str, _DTYPES))}", str(dtype))


def check_tensor(name: str, value: Any, dtype: torch.dtype, whose: str = "the module's") -> None:
    """Raise unless `value` is a dense tensor on the CPU, and has this dtype."""
    check_array(name, value, torch.Tensor, "cpu", f"Use torch.as_tensor({name})")
    check_place(name, value)
    if value.dtype != dtype:
        fail(TypeError, name, f"dtype {dtype} ({whose})", f"dtype {value.dtype}", f"Use {name}.to({dtype})")


def check_parameter(name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise unless a module's parameter still has its shape, the dtype of the others, and is on the CPU."""
    check_tensor(name, value, dtype, "that of weight_ih")
    if tuple(value.shape) != shape:
        fail(ValueError, name, f"shape {shape}, which the module was made with", f"shape {tuple(value.shape)}")


def check_place(name: str, tensor: torch.Tensor) -> None:
    """Raise ValueError unless a tensor is on the CPU, with its elements in strided memory."""
    if tensor.device.type != "cpu":
        fail(ValueError, name, _NOT_YET, f"one on {tensor.device}", _ELSEWHERE)
    if tensor.is_nested:
        fail(ValueError, name, "a dense tensor", "a nested one", f"Use {name}.to_padded_tensor(0), and pass lengths")
    if tensor.layout != torch.strided:
        fail(ValueError, name, "a dense tensor", f"layout {tensor.layout}", f"Use {name}.to_dense()")


def check_input(name: str, xs: Any, dtype: torch.dtype, shape: str, I: int, hint: str) -> None:
    """Raise unless xs is a tensor of a shape such as "T B I", in the module's dtype and on the CPU."""
    check_tensor(name, xs, dtype)
    letters = shape.split()
    if xs.dim() != len(letters) or xs.shape[-1] != I:
        wanted = f"shape ({', '.join(letters)}) = ({', '.join([*letters[:-1], str(I)])})"
        fail(ValueError, name, wanted, f"shape {tuple(xs.shape)}", hint if xs.dim() != len(letters) else "")


def check_state(name: str, state: Any, form: CellForm, dtype: torch.dtype, B: int, *, may_be_one_row: bool) -> None:
    """Raise unless `state` is an LSTMState for a cell of this form, with B rows, or with one if it may have one."""
    check_state_type(state, name)
    check_tensor(f"{name}.h", state.h, dtype)
    c_dtype = state_dtype(dtype)
    check_tensor(f"{name}.c", state.c, c_dtype, "the module's" if c_dtype == dtype else "c's, with a 16-bit h")
    sizes = {"B": B, "N": form.hidden_size, "P": form.output_size}
    rows = one_row_or_all(state) if may_be_one_row else "B"
    for part, spec in (("h", f"{rows} P"), ("c", f"{rows} N")):
        _check_shape(f"{name}.{part}", getattr(state, part), spec, sizes)


def check_states(
    name: str, states: Any, forms: Sequence[CellForm], dtype: torch.dtype, B: int, *, may_be_one_row: bool = False
) -> None:
    """Raise unless `states` is a tuple of LSTMState, one for each cell."""
    wanted = f"a tuple of {len(forms)} LSTMState, one for each layer and direction"
    if isinstance(states, LSTMState):
        fail(TypeError, name, wanted, "one LSTMState", f"Use ({name},)" if len(forms) == 1 else "")
    if not isinstance(states, (tuple, list)):
        fail(TypeError, name, wanted, describe_type(states))
    if any(isinstance(state, torch.Tensor) for state in states):
        hint = "For PyTorch's (h, c), use tuple(LSTMState(h=h[k], c=c[k]) for k in range(len(h)))"
        fail(TypeError, name, wanted, f"a {type(states).__name__} of tensors", hint)
    if len(states) != len(forms):
        fail(ValueError, name, wanted, str(len(states)))
    for k, (state, form) in enumerate(zip(states, forms, strict=True)):
        check_state(f"{name}[{k}]", state, form, dtype, B, may_be_one_row=may_be_one_row)


def check_flags(name: str, flags: Any, shape: str, sizes: Mapping[str, int], wanted: str) -> torch.Tensor:
    """Return booleans of this shape, given as a tensor, an array or lists, as a tensor on the CPU, or raise."""
    tensor = _as_tensor(name, flags, wanted)
    if tensor.dtype != torch.bool:
        hint = f"Use {name} != 0. If a flag says that a step ended an episode, it belongs to the next step"
        fail(TypeError, name, wanted, f"dtype {tensor.dtype}", hint if name == "is_first" else f"Use {name} != 0")
    _check_shape(name, tensor, shape, sizes)
    return tensor


def check_lengths(lengths: Any, sizes: Mapping[str, int]) -> torch.Tensor:
    """Return (B,) integers as a tensor of int64 on the CPU, or raise. The operator checks their values."""
    wanted = "integers, the steps that each row takes"
    tensor = _as_tensor("lengths", lengths, wanted)
    if tensor.dtype == torch.bool or tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        fail(TypeError, "lengths", wanted, f"dtype {tensor.dtype}")
    _check_shape("lengths", tensor, "B", sizes)
    return tensor.to(torch.int64)


def check_all_flags(lengths: Any, mask: Any, is_first: Any, letters: str, sizes: Mapping[str, int]) -> Flags:
    """Return lengths, mask and is_first as tensors, or raise. The last two have the shape `letters`, "T B" or "B T"."""
    if lengths is not None:
        if mask is not None:
            fail(ValueError, "mask", "None if lengths are given, as they do the same", "a mask")
        lengths = check_lengths(lengths, sizes)
    if mask is not None:
        mask = check_flags("mask", mask, letters, sizes, "booleans, True for the steps that a row takes")
    if is_first is not None:
        wanted = "booleans, True for the rows to reset before this step"
        is_first = check_flags("is_first", is_first, letters, sizes, wanted)
    return lengths, mask, is_first


def _as_tensor(name: str, value: Any, wanted: str) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        check_place(name, value)
        return value
    if isinstance(value, (list, tuple)):
        if not value:
            return torch.zeros(0, dtype=torch.int64 if name == "lengths" else torch.bool)
        try:
            array = host_mask(value)
        except ValueError:  # lists of unequal lengths
            fail(TypeError, name, wanted, describe_type(value))
        if array.dtype.kind not in "biuf":
            fail(TypeError, name, wanted, f"dtype {array.dtype}")
        return torch.from_numpy(array)
    return torch.from_numpy(to_host(name, value).copy())  # the caller may reuse the buffer before the backward pass


def _check_shape(name: str, tensor: torch.Tensor, spec: str, sizes: Mapping[str, int]) -> None:
    """Check a shape as `check_shape` does. torch.compile can't trace that, so it runs only if the shape is wrong."""
    wanted = tuple(1 if term == "1" else sizes[term] for term in spec.split())
    if tuple(tensor.shape) != wanted:
        one_row = len(wanted) == 2 and tuple(tensor.shape) == (1, wanted[1])
        hint = f"States don't broadcast: repeat the row with {name}.expand({wanted[0]}, -1)" if one_row else ""
        check_shape(name, tuple(tensor.shape), spec, sizes, hint)
