"""Convert the arguments of TensorFlow's operations tf.raw_ops.LSTMBlockCell, BlockLSTM and BlockLSTMV2 to LSTMWeights.

`w` is (I + N, 4N), with rows [x; h], and `b` is (4N,). The first two have the gate order i, g, f, o, contrary to
TensorFlow's documentation, and add a forget bias. BlockLSTMV2 has i, f, g, o and adds none. Tested against TensorFlow
1.15.5 and 2.21.
"""

from __future__ import annotations

from typing import Any

from fusedlstm.convert.cells import check_array_like
from fusedlstm.convert.reading import read
from fusedlstm.convert.tf1.layouts import LAYOUTS
from fusedlstm.validation.arguments import check_bool, check_real, fail
from fusedlstm.weights import LSTMWeights


def from_block_lstm(
    w: Any,
    b: Any,
    wci: Any = None,
    wcf: Any = None,
    wco: Any = None,
    *,
    forget_bias: float = 1.0,
    cell_clip: float = 3.0,
    use_peephole: bool | None = None,
) -> LSTMWeights:
    """Convert the arguments of raw_ops.LSTMBlockCell or BlockLSTM to weights. Defaults are the operations' own.

    Args:
        w: (I + N, 4N), of any library; columns i, g, f, o.
        b: (4N,).
        wci: (N,), the peephole of the input gate. The operations require peepholes even if they don't use them.
        wcf: (N,), the peephole of the forget gate.
        wco: (N,), the peephole of the output gate.
        forget_bias: what the operation adds to the forget gate.
        cell_clip: c is clipped to +-cell_clip; 0 or less for no clip. The operations' default is 3.0.
        use_peephole: whether the operation uses wci, wcf and wco. Its default is False, but it is required here if any
            of them is given.

    Raises:
        TypeError: `w` or `b` is not an array; the arrays' dtypes are mixed or unsupported; an option is not a number.
        ValueError: a shape is wrong; a peephole is missing; peepholes are given without `use_peephole`.
    """
    arrays = _arrays(w, b) | _peepholes(use_peephole, wci, wcf, wco)
    ours: dict[str, Any] = read(LAYOUTS["tf1_block"], "w", arrays, forget_bias=check_real("forget_bias", forget_bias))
    return LSTMWeights(**ours, cell_clip=_clip(cell_clip))


def from_block_lstm_v2(
    w: Any,
    b: Any,
    wci: Any = None,
    wcf: Any = None,
    wco: Any = None,
    *,
    cell_clip: float = 0.0,
    use_peephole: bool | None = None,
) -> LSTMWeights:
    """Convert the arguments of raw_ops.BlockLSTMV2 to weights. Defaults are the operation's own.

    Args:
        w: (I + N, 4N), of any library; columns i, f, g, o.
        b: (4N,).
        wci: as in `from_block_lstm`.
        wcf: likewise.
        wco: likewise.
        cell_clip: c is clipped to +-cell_clip; 0 or less for no clip.
        use_peephole: as in `from_block_lstm`.

    Raises:
        TypeError, ValueError: as in `from_block_lstm`.
    """
    arrays = _arrays(w, b) | _peepholes(use_peephole, wci, wcf, wco)
    ours: dict[str, Any] = read(LAYOUTS["tf1_block_v2"], "w", arrays)
    return LSTMWeights(**ours, cell_clip=_clip(cell_clip))


def _arrays(w: Any, b: Any) -> dict[str, Any]:
    """Return w and b by name. Raise TypeError unless they are arrays."""
    check_array_like("w", w, "(I + N, 4N)")
    check_array_like("b", b, "(4N,)")
    return {"w": w, "b": b}


def _peepholes(use: bool | None, wci: Any, wcf: Any, wco: Any) -> dict[str, Any]:
    """Return the peepholes that the operation uses."""
    peepholes = {"wci": wci, "wcf": wcf, "wco": wco}
    given = {name: value for name, value in peepholes.items() if value is not None}
    if use is None:
        if given:
            hint = "The operation always takes them, and uses them only with use_peephole=True"
            fail(ValueError, "use_peephole", f"True or False with {', '.join(given)}", "None", hint)
        return {}
    check_bool("use_peephole", use)
    if use and len(given) < len(peepholes):
        missing = ", ".join(name for name in peepholes if name not in given)
        fail(ValueError, "use_peephole", "False without wci, wcf and wco", f"True without {missing}")
    return given if use else {}


def _clip(cell_clip: Any) -> float | None:
    """Return the operation's clip as ours; None for 0 or less, which doesn't clip."""
    clip = check_real("cell_clip", cell_clip, finite=False)
    return clip if clip > 0 else None
