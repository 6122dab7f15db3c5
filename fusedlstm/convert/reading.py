"""Convert a cell's arrays in some layout to those of LSTMWeights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays.host import to_host
from fusedlstm.convert.layout import Layout, Names, all_names
from fusedlstm.validation.arguments import check_dtype, check_shape, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from fusedlstm.arrays.dtypes import NumpyArray


def read(
    layout: Layout,
    argument: str,
    arrays: Mapping[str, Any],
    *,
    forget_bias: float | None = None,
    full_name: Callable[[str], str] = str,
) -> dict[str, NumpyArray | None]:
    """Convert a cell's arrays in some layout to the arrays of an LSTMWeights, by name.

    Args:
        layout: the cell's layout.
        argument: the name of `arrays` in errors about a missing array.
        arrays: the cell's arrays, by the layout's names, from any library. Others are ignored: see `refuse_unknown`.
        forget_bias: what the cell adds to the forget gate at every step; None for its system's default.
        full_name: maps a layout's name to the name in errors.

    Raises:
        TypeError: arrays have different dtypes, or are not numbers.
        ValueError: an array is missing or has the wrong shape.
    """
    cell = _Cell(layout, argument, arrays, full_name)
    cell.measure()
    weight_ih, weight_hh = cell.weights()
    return {
        "weight_ih": weight_ih,
        "weight_hh": weight_hh,
        "bias": cell.bias(layout.forget_bias if forget_bias is None else forget_bias),
        "peephole": cell.peephole(),
        "weight_hr": cell.projection(),
    }


def refuse_unknown(
    layout: Layout,
    argument: str,
    names: Iterable[str],
    *,
    full_name: Callable[[str], str] = str,
    ignored: Collection[str] = (),
) -> None:
    """Raise if a cell has an array that the layout doesn't have, as it may change what the cell computes.

    Args:
        layout: the cell's layout.
        argument: the name of the cell's arrays in errors.
        names: the arrays' names. Names below one of the layout's, such as "kernel/Adam", belong to an optimiser.
        full_name: see `read`.
        ignored: names of arrays that change nothing.

    Raises:
        ValueError: there are such arrays. The message names them.
    """
    own = layout.names()
    unknown = sorted(
        name
        for name in names
        if name not in own and name not in ignored and not any(name.startswith(f"{known}/") for known in own)
    )
    if unknown:
        got = ", ".join(map(full_name, unknown[:4])) + (" ..." if len(unknown) > 4 else "")
        hint = "A plain LSTM doesn't have them: leave them out if they don't change what it computes"
        fail(ValueError, argument, "the arrays of an LSTM cell alone", got, hint)


class _Cell:
    """The arrays of one cell in its layout. Blocks are (4, N, ...) in our order of gates, i, f, g, o."""

    def __init__(
        self, layout: Layout, argument: str, arrays: Mapping[str, Any], full_name: Callable[[str], str]
    ) -> None:
        self.layout, self.argument, self.given, self.full_name = layout, argument, arrays, full_name
        self.gates = len(layout.gates)
        self.is_joint = not layout.weight_hh
        self.sizes: dict[str, int] = {}
        self.first: tuple[str, np.dtype[Any]] | None = None  # its name and dtype, which the others must match

    def array(self, name: str) -> NumpyArray:
        """Return an array in host memory. Raise unless it has the dtype of the first."""
        if name not in self.given:
            have = ", ".join(sorted(map(str, self.given))[:8]) or "none"
            fail(ValueError, self.argument, f"an array named {self.full_name(name)!r}", have)
        array = to_host(self.full_name(name), self.given[name])
        self.first = self.first or (self.full_name(name), array.dtype)
        check_dtype(self.full_name(name), array.dtype, self.first[1], f"that of {self.first[0]}")
        return array

    def measure(self) -> None:
        """Determine N, I and P from the array for x and from the projection."""
        name, blocks = all_names(self.layout.weight_ih)[0], self.blocks_in(self.layout.weight_ih)
        shape = self.array(name).shape
        gates, width = (shape[::-1] if self.layout.columns else shape) if len(shape) == 2 else (0, 0)
        if gates % blocks or gates == 0:
            hint = "If it holds several cells, pass them one by one" if len(shape) == 3 else ""
            fail(ValueError, self.full_name(name), f"shape {self.shape_of_x(blocks)}", f"shape {shape}", hint)
        N = self.sizes["N"] = gates // blocks
        P = self.sizes["P"] = self.size_of_projection() or N
        self.sizes["I"] = width - P if self.is_joint else width
        if self.sizes["I"] < 0:
            wanted = f"shape {self.shape_of_x(blocks)} with at least P = {P} rows for h"
            fail(ValueError, self.full_name(name), wanted, f"shape {shape}")

    def shape_of_x(self, blocks: int) -> str:
        width, gates = "I + P" if self.is_joint else "I", f"{blocks}N" if blocks > 1 else "N"
        return f"({width}, {gates})" if self.layout.columns else f"({gates}, {width})"

    def blocks_in(self, names: Names) -> int:
        """Return the number of gates in each of these arrays."""
        return self.gates if isinstance(names, str) else 1

    def size_of_projection(self) -> int | None:
        """Return P of the projection; None without one."""
        name = self.layout.weight_hr
        if not name or name not in self.given:
            return None
        shape = self.array(name).shape
        if len(shape) != 2 or 0 in shape:
            wanted = "(N, P)" if self.layout.columns else "(P, N)"
            fail(ValueError, self.full_name(name), f"shape {wanted}", f"shape {shape}")
        return int(shape[1] if self.layout.columns else shape[0])

    def weights(self) -> tuple[NumpyArray, NumpyArray]:
        """Return weight_ih (4N, I) and weight_hh (4N, P)."""
        I, N = self.sizes["I"], self.sizes["N"]
        if self.is_joint:
            both = self.blocks(self.layout.weight_ih, "").reshape(4 * N, -1)
            return both[:, :I], both[:, I:]
        weight_ih, weight_hh = self.blocks(self.layout.weight_ih, "I"), self.blocks(self.layout.weight_hh, "P")
        return weight_ih.reshape(4 * N, I), weight_hh.reshape(4 * N, -1)

    def blocks(self, names: Names, width: str | None) -> NumpyArray:
        """Return blocks (4, N, ...). `width` is a letter, "" for any width, or None for a bias."""
        blocks = self.blocks_in(names)
        parts = []
        for name in all_names(names):
            array = self.array(name)
            terms = ([width] if width else []) + [f"{blocks}N" if blocks > 1 else "N"]
            if width != "":
                spec = " ".join(terms if self.layout.columns else terms[::-1])
                check_shape(self.full_name(name), array.shape, spec, self.sizes)
            rows = array.T if self.layout.columns else array
            parts.append(self.cut(rows, blocks))
        return self.in_our_order(np.concatenate(parts))

    def cut(self, rows: NumpyArray, blocks: int) -> NumpyArray:
        """Cut the first axis into the gates' blocks."""
        N, rest = self.sizes["N"], rows.shape[1:]
        if self.layout.interleaved:
            return rows.reshape(N, blocks, *rest).swapaxes(0, 1)
        return rows.reshape(blocks, N, *rest)

    def in_our_order(self, blocks: NumpyArray) -> NumpyArray:
        """Return the layout's blocks as (4, N, ...) in our order, with zeros for a coupled gate."""
        ours = np.zeros((4, *blocks.shape[1:]), blocks.dtype)
        for block, gate in zip(blocks, self.layout.gates, strict=True):
            ours["ifgo".index(gate)] = block
        return ours

    def bias(self, forget_bias: float) -> NumpyArray | None:
        """Return the sum of all biases (4N,), including the forget bias; None without any."""
        N, biases = self.sizes["N"], self.layout.biases
        there = [names for names in biases if any(name in self.given for name in all_names(names))]
        if there and len(there) != len(biases):
            missing = next(names for names in biases if names not in there)
            given, other = (self.full_name(all_names(names)[0]) for names in (there[0], missing))
            fail(ValueError, self.argument, "both biases or none", f"{given}, but {other} is missing")
        if self.layout.has_bias:
            there = list(biases)
        if not there and not forget_bias:
            return None
        parts = [self.blocks(names, None) for names in there]
        with np.errstate(all="ignore"):  # there may be infinities
            bias: NumpyArray = sum(parts[1:], start=parts[0]) if parts else np.zeros((4, N), self.dtype)
            if forget_bias:  # adding 0.0 would turn -0.0 into 0.0
                bias[1] += np.asarray(forget_bias, bias.dtype)
        return bias.reshape(4 * N)

    @property
    def dtype(self) -> np.dtype[Any]:
        assert self.first is not None, "measured first"
        return self.first[1]

    def peephole(self) -> NumpyArray | None:
        """Return the peepholes (3, N), rows i, f, o, with zeros for a coupled gate; None without any."""
        names = [name for name in all_names(self.layout.peephole) if name]
        missing = [name for name in names if name not in self.given]
        if len(missing) == len(names):
            return None
        if missing:
            wanted = f"all of {', '.join(map(self.full_name, names))}"
            fail(ValueError, self.argument, wanted, f"no {', '.join(map(self.full_name, missing))}")
        if isinstance(self.layout.peephole, str):
            return self.packed_peephole(self.layout.peephole)
        rows = np.zeros((3, self.sizes["N"]), self.dtype)
        for row, name in zip(rows, self.layout.peephole, strict=True):
            if name:
                array = self.array(name)
                check_shape(self.full_name(name), array.shape, "N", self.sizes)
                row[:] = array
        return rows

    def packed_peephole(self, name: str) -> NumpyArray:
        array = self.array(name)
        check_shape(self.full_name(name), array.shape, "3 N" if array.ndim == 2 else "3N", self.sizes)
        return array.reshape(3, -1)[[self.layout.peepholes.index(gate) for gate in "ifo"]]

    def projection(self) -> NumpyArray | None:
        """Return weight_hr (P, N); None without one."""
        name = self.layout.weight_hr
        if not name or name not in self.given:
            return None
        array = self.array(name)
        check_shape(self.full_name(name), array.shape, "N P" if self.layout.columns else "P N", self.sizes)
        return array.T if self.layout.columns else array
