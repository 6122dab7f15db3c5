"""lstm_pointwise: the fused kernel, to run after your own matmul."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.arrays import dtypes
from fusedlstm.arrays.exchange import Exchange
from fusedlstm.backends.select import backend_of
from fusedlstm.functions import Function, Functions
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import check_clip, check_shape, fail
from fusedlstm.validation.step import StepChecks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.arrays.dtypes import Array, Empty
    from fusedlstm.backends.base import Backend


def lstm_pointwise(
    gates: Array,
    c: Array,
    *,
    gates_h: Array | None = None,
    bias: Array | None = None,
    peephole: Array | None = None,
    cell_clip: float | None = None,
    activation: Function = "tanh",
    output_activation: Function | None = None,
    gate_activation: Function = "sigmoid",
    gate_clip: float | None = None,
    coupled_gate: str | None = None,
    zoneout_c: float = 0.0,
    is_first: Any = None,
    reset_c: Array | None = None,
    out: LSTMState | None = None,
) -> LSTMState:
    """Finish a step after your own matmul: compute everything in the formula except matmuls and the projection.

    This runs on the arrays' device: in NumPy on the CPU, or in one kernel on a GPU. As with a cell, the arrays may come
    from any library that shares its memory, even from several libraries at once. Nothing is copied.

    Args:
        gates: (B, 4N), blocks i, f, g, o: the pre-activations x @ weight_ih.T + h @ weight_hh.T, or only x's part
            if `gates_h` is given. It has any of the four dtypes, and any strides.
        c: (B, N) in the dtype of `gates`, or float32 if that has 16 bits, with any strides.
        gates_h: (B, 4N), h's part, h @ weight_hh.T. It is added to `gates`, except in rows that `is_first` marks.
        bias: (4N,), added to the gates.
        peephole: (3, N), rows i, f, o.
        cell_clip: c is clipped to +-cell_clip; None for no clip.
        activation: as in LSTMWeights.
        output_activation: as in LSTMWeights.
        gate_activation: as in LSTMWeights.
        gate_clip: as in LSTMWeights.
        coupled_gate: as in LSTMWeights.
        zoneout_c: as in LSTMWeights.
        is_first: (B,) booleans: True marks a row that begins a new sequence. Its c is reset before this step, and its
            `gates_h` is ignored.
        reset_c: the c to reset those rows to, (1, N) or (B, N); None for zeros.
        out: C-contiguous arrays to write to and to return, with h in the dtype of `gates`. `out.c` may be `c`.
            Otherwise `out` must not share memory with an argument.

    Returns:
        An LSTMState: h (B, N), the output before any projection, in the dtype of `gates`, and c (B, N). It is `out`, or
        has new arrays in the library of `gates`.

    Raises:
        TypeError: an argument has the wrong kind, dtype or library.
        ValueError: an argument has the wrong shape or device, or `out` can't be written.
        BackendUnavailableError: the arrays are on a GPU, but cuda can't run; the message says why.
    """
    backend = backend_of(gates, "gates")
    functions = Functions.of(
        activation=activation,
        output_activation=output_activation,
        gate_activation=gate_activation,
        gate_clip=gate_clip,
        coupled_gate=coupled_gate,
        zoneout_c=zoneout_c,
    )
    options = {"cell_clip": check_clip("cell_clip", cell_clip), "functions": functions}
    maker = f"{backend.xp.__name__}.asarray"
    with Exchange(backend, gates, maker) as exchange:
        gates = exchange.borrow("gates", gates)
        checks = _checks_for(gates, backend, maker)
        dtype, c_dtype, whose = checks.dtype, checks.c_dtype, checks.whose
        optional = {
            name: exchange.borrow(name, array, wanted, checks.why(wanted))
            for name, array, wanted in (
                ("gates_h", gates_h, dtype),
                ("bias", bias, dtype),
                ("peephole", peephole, dtype),
                ("reset_c", reset_c, c_dtype),
            )
        }
        result = _run(
            checks,
            gates,
            exchange.borrow("c", c, c_dtype, checks.why(c_dtype)),
            optional,
            exchange.borrow_mask("is_first", is_first),
            exchange.borrow_out("out", out, dtype, c_dtype, whose),
            exchange.empty,
            options,
        )
        return exchange.lend_state(result) if out is None else out


def _run(
    checks: StepChecks,
    gates: Array,
    c: Array,
    optional: Mapping[str, Array | None],
    is_first: Any,
    out: LSTMState | None,
    empty: Empty,
    options: Mapping[str, Any],
) -> LSTMState:
    """Check the backend's arrays and compute. Write the result to `out`, or to new arrays from `empty`."""
    _check_arrays(checks, c, optional)
    B, N = c.shape
    if is_first is not None:
        is_first = checks.check_mask(is_first, B)
    elif optional["reset_c"] is not None:
        fail(ValueError, "reset_c", "None without is_first, which marks the rows to reset", "an array")
    if out is None:
        out = LSTMState(h=empty((B, N), gates.dtype), c=empty((B, N), c.dtype))
    else:
        checks.check_out_arrays(out, c, {"gates": gates, "is_first": is_first, **optional})
    checks.backend.pointwise(gates, c, out.h, out.c, is_first=is_first, **options, **optional)
    return out


def _checks_for(gates: Array, backend: Backend, maker: str) -> StepChecks:
    """Return the checks of the other arguments, for the dtype and shape of `gates`. Raise if those are wrong."""
    if not dtypes.is_supported(gates.dtype):
        fail(TypeError, "gates", f"dtype {', '.join(dtypes.NAMES)}", f"dtype {gates.dtype}")
    if gates.ndim != 2 or gates.shape[1] % 4 or gates.shape[1] == 0:
        fail(ValueError, "gates", "shape (B, 4N)", f"shape {gates.shape}")
    B, N = gates.shape[0], gates.shape[1] // 4
    sizes = {"B": B, "N": N, "P": N}
    return StepChecks(backend, sizes, gates.dtype, dtypes.state_dtype(gates.dtype), "that of gates", maker)


def _check_arrays(checks: StepChecks, c: Array, optional: Mapping[str, Array | None]) -> None:
    checks.check_input("c", c, checks.c_dtype)
    check_shape("c", c.shape, "B N", checks.sizes)
    shapes = {"gates_h": "B 4N", "bias": "4N", "peephole": "3 N", "reset_c": "B N"}
    for name, array in optional.items():
        if array is None:
            continue
        checks.check_input(name, array, checks.c_dtype if name == "reset_c" else checks.dtype)
        one_row = name == "reset_c" and array.shape[:1] == (1,)
        check_shape(name, array.shape, "1 N" if one_row else shapes[name], checks.sizes)
