"""Mistakes made on purpose in copies of the kernels, one at a time: the tests of the emulated kernels must find each.

python tests/mutations.py [words]   makes all, or those with these words in their description, and prints how each was
                                    found. Its status is 1 if one was not.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emulation import Module

HERE = Path(__file__).parent
TESTS = [HERE / "test_kernels_emulated.py", HERE / "test_kernels_planned.py"]
KERNELS = HERE.parent / "kernels"

# Tests, as pytest's -k names them: of one dtype, as all have one code, or of what differs by dtype.
FLOAT = "float-float"
DOUBLE = "double-double"
HALF = "__half-__half"
BFLOAT16 = "__nv_bfloat16-__nv_bfloat16"
CLIP = "test_clip"
SELECT = "test_select"
ADD = "test_add"
PLANNED = "test_planned[float-"
PLANNED_HALF = "test_planned and __half"
FINISH = "test_finish"
RESET = "test_reset"
GATHER = "test_gather"


@dataclass(frozen=True)
class Mutation:
    """A text of a kernel's file, which is there once, and what takes its place.

    A mutation that changes no result has the function that shows so, given the folder of the changed kernels.
    """

    file: str
    what: str
    old: str
    new: str
    tests: str = FLOAT
    shown_equivalent: Callable[[Path], str] | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"

    def applied(self) -> str:
        """The file with the mistake in it."""
        text = (KERNELS / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self}: {self.old!r} is {text.count(self.old)} times in {self.file}, not once")
        return text.replace(self.old, self.new)


def same_bits_of_clip(changed: Path) -> str:
    """Show that lstm_clip gives the same bits for every number of 16 bits and limits of every size."""
    name, numbers = "lstm_clip<__half>", np.arange(1 << 16, dtype=np.uint16)
    limits = np.abs(numbers[:0x7C00:97].view(np.float16).astype(np.float64))[1:]  # a cell's limits are above zero

    def clipped(folder: Path, limit: np.float64) -> bytes:
        h = numbers.view(np.float16).copy()
        function = Module(folder / "clip.cu", [name], mode="fast").function(name)
        function((256,), (256,), (h, np.int64(h.size), limit))
        return h.tobytes()

    assert all(clipped(changed, limit) == clipped(KERNELS, limit) for limit in limits)
    return f"the same bits for all 65536 float16 numbers and {len(limits)} limits: at the limit, x is the limit"


# Each row: what is changed, from what, to what, and the tests that are to find it, where they aren't those of float.
POINTWISE = [
    # Which thread has which row and units.
    ("row guard one too far", "row >= B ||", "row > B ||"),
    ("unit guard one too far", "unit >= N)", "unit > N)"),
    ("no unit guard", "row >= B || unit >= N", "row >= B"),
    ("guards of which both must hold", "row >= B || unit", "row >= B && unit"),
    ("unit guard one short", "unit >= N)", "unit + W >= N)"),
    ("row by the wrong size of a block", "blockIdx.x * blockDim.y", "blockIdx.x * blockDim.x"),
    ("units of neighbours overlap", "threadIdx.x) * W", "threadIdx.x) * (W > 1 ? W / 2 : W)"),
    ("units not by the vector", "blockDim.x + threadIdx.x) * W", "blockDim.x + threadIdx.x)"),
    ("row in a byte", "const i64 row = (i64)", "const unsigned char row = "),
    # Which element of gates.
    ("one gate too many", "gate < 4", "gate < 5"),
    ("one gate too few", "gate < 4", "gate < 3"),
    ("gates one element on", "gate * N + unit;", "gate * N + unit + 1;"),
    ("gates interleaved", "gate * N + unit;", "gate + 4 * unit;"),
    ("gates without their row", "gates + row * gates_stride + column", "gates + column"),
    ("gates as if contiguous", "row * gates_stride", "row * 4 * N"),
    ("gates by c's stride", "row * gates_stride", "row * c_stride"),
    ("int offset of gates", "row * gates_stride", "(int)(row * gates_stride)", HALF),
    ("int offset of gates_h", "row * gates_h_stride", "(int)(row * gates_h_stride)", HALF),
    ("int offset of reset_gates", "row * reset_gates_stride", "(int)(row * reset_gates_stride)", HALF),
    ("int offset of a gate", "column = gate * N", "column = (int)(gate * N)", HALF),
    ("int offset of c", "row * c_stride", "(int)(row * c_stride)", HALF),
    ("int offset of reset_c", "row * reset_c_stride", "(int)(row * reset_c_stride)", HALF),
    ("int offset of h", "h + row * N", "h + (int)(row * N)", HALF),
    ("int offset of c_out", "c_out + row * N", "c_out + (int)(row * N)", HALF),
    ("gates_h by the stride of gates", "row * gates_h_stride", "row * gates_stride"),
    ("gates_h not checked for null", "gates_h ? gates_h + row", "true ? gates_h + row"),
    ("bias by recurrent's pointer", "if (bias) add", "if (recurrent) add"),
    ("bias by the unit alone", "bias + column", "bias + unit"),
    ("half a vector", "k < W; ++k) z[gate][k] = A", "k < (W + 1) / 2; ++k) z[gate][k] = A"),
    ("a loop beyond the vector", "k < W; ++k) z[gate][k] = A", "k <= W; ++k) z[gate][k] = A"),
    # Resets.
    ("resets without the option", "RESET && is_first[row]", "is_first[row]"),
    ("no resets", "RESET && is_first[row]", "RESET && false"),
    ("resets of all rows", "RESET && is_first[row]", "RESET"),
    ("the reset of the block's row", "is_first[row]", "is_first[threadIdx.y]"),
    ("no reset of c", "    old_c = reset_c ? reset_c + row * reset_c_stride : nullptr;\n", ""),
    ("no reset of gates", "    recurrent = reset_gates ? reset_gates + row * reset_gates_stride : nullptr;\n", ""),
    ("one reset_c for all rows", "reset_c + row * reset_c_stride", "reset_c"),
    ("one reset_gates for all rows", "reset_gates + row * reset_gates_stride", "reset_gates"),
    ("reset_gates not checked for null", "recurrent = reset_gates ?", "recurrent = true ?"),
    ("reset_c as if of a row each", "row * reset_c_stride", "row * N"),
    ("c of a reset not zeroed", "state.at[k] = A(0);", "state.at[k] = A(1);"),
    ("c of a reset zeroed in part", "k < W; ++k) state.at[k] = A(0)", "k < W - 1; ++k) state.at[k] = A(0)"),
    # The state.
    ("c as if contiguous", "row * c_stride", "row * N"),
    ("c without its unit", "load<W>(old_c + unit)", "load<W>(old_c)"),
    ("peepholes without the option", "if (PEEPHOLE) peepholes =", "peepholes ="),
    # The output.
    ("h by c's stride", "h + row * N", "h + row * c_stride"),
    ("h to the first row", "h + row * N + unit", "h + unit"),
    ("c stored a unit on", "c_out + row * N + unit", "c_out + row * N + unit + 1"),
    ("c's first unit stored", "store<W>(c_out + row * N + unit, state)", "c_out[row * N + unit] = state.at[0]"),
    ("c stored in c", "store<W>(c_out", "store<W>((A*)c"),
    ("c not stored", "  store<W>(c_out + row * N + unit, state);\n", ""),
]

CLIP_AND_PEEPHOLE = """    if (CLIP) next = clip(next, A(cell_clip));
    if (PEEPHOLE) z_o += A(widen(p.o.at[k])) * next;"""
CELL = [
    ("gates i and f swapped", "z_i = z[0][k], z_f = z[1][k]", "z_i = z[1][k], z_f = z[0][k]"),
    ("gate o in g's place", "(z[2][k])", "(z[3][k])"),
    ("gate g in o's place", "z_o = z[3][k]", "z_o = z[2][k]"),
    ("more in place of what was there", "z[k] += A(widen(more", "z[k] = A(widen(more"),
    ("more, but for the last of a vector", "k < W; ++k) z[k] +=", "k < (W + 1) / 2; ++k) z[k] +="),
    # The state.
    ("no clip of c", "    if (CLIP) next = clip(next, A(cell_clip));\n", ""),
    ("clips without the option", "if (CLIP) next", "next"),
    ("f and i swapped in the sum", "sigmoid(z_f) * c.at[k] + sigmoid(z_i)", "sigmoid(z_i) * c.at[k] + sigmoid(z_f)"),
    ("the old c stays", "    c.at[k] = next;\n", ""),
    # Peepholes.
    ("no peephole i", "      z_i += A(widen(p.i.at[k])) * c.at[k];\n", ""),
    ("peephole f of i's weights", "widen(p.f.at[k])", "widen(p.i.at[k])"),
    ("peephole f of i's row", "peephole + N + unit", "peephole + unit"),
    ("peephole o a row too far", "peephole + 2 * N + unit", "peephole + 3 * N + unit"),
    ("int offset of peephole o", "peephole + 2 * N + unit", "peephole + (int)(2 * N) + unit", PLANNED_HALF),
    ("peephole o sees the old c", "A(widen(p.o.at[k])) * next", "A(widen(p.o.at[k])) * c.at[k]"),
    ("peephole o before the clip", CLIP_AND_PEEPHOLE, "\n".join(CLIP_AND_PEEPHOLE.split("\n")[::-1])),
    # The output.
    ("h without its activation", "activate<ACTIVATION>(next)", "next"),
    ("tanh whatever the activation", "activate<ACTIVATION>(next)", "activate<TANH>(next)"),
    ("o without its sigmoid", "of(sigmoid(z_o) *", "of(z_o *"),
    ("the difference for the sum", "widen(a.at[k]) + widen(b.at[k])", "widen(a.at[k]) - widen(b.at[k])", PLANNED),
    ("the sum of a vector's first", "+ widen(b.at[k])", "+ widen(b.at[0])", PLANNED),
    ("no sum", " + widen(b.at[k])", "", PLANNED),
]

STORE_H = "    store<W>(h + (h_by_slot ? slot : row) * h_stride + unit, m);\n"
ADD_INPUT = "    if (copy && input) m = sum(m, load<W>(input + row * input_stride + unit));\n"
PLANNED_KERNEL = [
    # Which thread has which row and units.
    ("row guard one too far", "row >= B ||", "row > B ||"),
    ("no row guard", "row >= B || ", ""),
    ("unit guard one too far", "unit >= N)", "unit > N)"),
    ("no unit guard", " || unit >= N", ""),
    ("unit guard one short", "unit >= N)", "unit + W >= N)"),
    ("row by the wrong size of a block", "blockIdx.x * blockDim.y", "blockIdx.x * blockDim.x"),
    ("units not by the vector", "blockDim.x + threadIdx.x) * W", "blockDim.x + threadIdx.x)"),
    # Slots.
    ("rows have no slots", "rows ? rows[row] : row", "row"),
    ("rows not checked for null", "rows ? rows[row]", "true ? rows[row]"),
    ("the slot of the first row", "rows ? rows[row]", "rows ? rows[0]"),
    ("slot -1 steps", "slot < 0", "slot < -1"),
    ("slot 0 takes no step", "slot < 0", "slot <= 0"),
    ("a skipped row's copy is 1", "of(0)", "of(1)"),
    ("a skipped row's copy stays", "if (copy) store", "if (copy && slot >= 0) store"),
    # Gates.
    ("gates by the slot", "gates + row * 4 * N", "gates + slot * 4 * N"),
    ("gates of the first row", "gates + row * 4 * N + column", "gates + column"),
    ("gates interleaved", "gate * N + unit;", "gate + 4 * unit;"),
    ("one gate too few", "gate < 4", "gate < 3"),
    ("no bias", "      if (bias) add(z[gate], bias + column);\n", ""),
    ("bias not checked for null", "if (bias) add", "add"),
    ("bias by the unit alone", "bias + column", "bias + unit"),
    ("int offset of gates", "row * 4 * N", "(int)(row * 4 * N)", PLANNED_HALF),
    ("int offset of a gate", "column = gate * N", "column = (int)(gate * N)", PLANNED_HALF),
    # The state.
    ("c by the row", "load<W>(c + slot * c_stride", "load<W>(c + row * c_stride"),
    ("c as if contiguous", "load<W>(c + slot * c_stride", "load<W>(c + slot * N"),
    ("c by h's stride", "load<W>(c + slot * c_stride", "load<W>(c + slot * h_stride"),
    ("c stored by the row", "store<W>(c + slot * c_stride", "store<W>(c + row * c_stride"),
    ("c stored as if contiguous", "store<W>(c + slot * c_stride", "store<W>(c + slot * N"),
    ("c not stored", "    store<W>(c + slot * c_stride + unit, state);\n", ""),
    ("no load of peepholes", "if (PEEPHOLE) peepholes", "if (!PEEPHOLE) peepholes"),
    ("int offset of c", "load<W>(c + slot * c_stride", "load<W>(c + (int)(slot * c_stride)", PLANNED_HALF),
    ("int offset of the new c", "store<W>(c + slot * c_stride", "store<W>(c + (int)(slot * c_stride)", PLANNED_HALF),
    # The output.
    ("h by the row", "(h_by_slot ? slot : row)", "row"),
    ("h by the slot", "(h_by_slot ? slot : row)", "slot"),
    ("h by the other of both", "h_by_slot ? slot : row", "h_by_slot ? row : slot"),
    ("h by c's stride", "* h_stride", "* c_stride"),
    ("h by the stride of copy", "* h_stride", "* copy_stride"),
    ("h not stored", STORE_H, ""),
    ("h with the input", STORE_H + ADD_INPUT, ADD_INPUT + STORE_H),
    ("copy without the input", ADD_INPUT, ""),
    ("input not checked for null", "copy && input", "copy"),
    ("input by the slot", "input + row", "input + slot"),
    ("input by the stride of copy", "row * input_stride", "row * copy_stride"),
    ("copy by the slot", "copy + row", "copy + slot"),
    ("copy by the stride of input", "row * copy_stride", "row * input_stride"),
    ("copy not checked for null", "if (copy) store", "store"),
    ("int offset of h", "(h_by_slot ? slot : row) * h_stride", "(int)(slot * h_stride)", PLANNED_HALF),
    ("int offset of copy", "row * copy_stride", "(int)(row * copy_stride)", PLANNED_HALF),
    ("int offset of input", "row * input_stride", "(int)(row * input_stride)", PLANNED_HALF),
]

PROJECTED = "clip(A(widen(projected[row * projected_stride + column])), A(limit))"
FINISH_KERNEL = [
    ("row guard one too far", "row >= B", "row > B"),
    ("no row guard", "row >= B || ", ""),
    ("column guard one too far", "column >= P", "column > P"),
    ("no column guard", " || column >= P", ""),
    ("row by the wrong size of a block", "blockIdx.x * blockDim.y", "blockIdx.x * blockDim.x"),
    ("rows have no slots", "rows ? rows[row] : row", "row"),
    ("rows not checked for null", "rows ? rows[row]", "true ? rows[row]"),
    ("slot -1 has h", "slot >= 0", "slot >= -1"),
    ("slot 0 has none", "slot >= 0", "slot > 0"),
    ("a skipped row's copy is 1", "of(0)", "of(1)"),
    ("a skipped row's copy stays", "if (copy) copy", "if (copy && slot >= 0) copy"),
    ("no clip", PROJECTED, "A(widen(projected[row * projected_stride + column]))"),
    ("a limit of the wrong sign", "A(limit)", "A(-limit)"),
    ("half the limit", "A(limit)", "A(limit / 2)"),
    ("projected by the slot", "projected[row", "projected[slot"),
    ("projected by h's stride", "projected_stride + column", "h_stride + column"),
    ("h by the row", "h[slot", "h[row"),
    ("h by the stride of projected", "h_stride + column", "projected_stride + column"),
    ("h not stored", "    h[slot * h_stride + column] = output;\n", ""),
    ("copy without the input", "copy && input", "false"),
    ("input not checked for null", "copy && input", "copy"),
    ("input before the rounding of h", "widen(output)", PROJECTED),
    ("the difference", "widen(output) +", "widen(output) -"),
    ("input by the slot", "input[row", "input[slot"),
    ("input by the stride of copy", "row * input_stride", "row * copy_stride"),
    ("copy by the slot", "copy[row", "copy[slot"),
    ("copy by the stride of input", "row * copy_stride", "row * input_stride"),
    ("copy not checked for null", "if (copy) copy", "copy"),
    ("int offset of projected", "[row * projected_stride", "[(int)(row * projected_stride)"),
    ("int offset of h", "[slot * h_stride", "[(int)(slot * h_stride)"),
    ("int offset of copy", "[row * copy_stride", "[(int)(row * copy_stride)"),
    ("int offset of input", "[row * input_stride", "[(int)(row * input_stride)"),
]

RESET_KERNEL = [
    ("guard one too far", "row < B", "row <= B"),
    ("no guard", "row < B && ", ""),
    ("row by the wrong size of a block", "blockIdx.x * blockDim.y", "blockIdx.x * blockDim.x"),
    ("every row", "(!is_first || is_first[row])", "true"),
    ("no row without flags", "!is_first || is_first[row]", "is_first && is_first[row]"),
    ("the flag of the first row", "is_first[row]);", "is_first[0]);"),
    ("the rows that are not marked", "|| is_first[row]", "|| !is_first[row]"),
    ("no barrier", "  __syncthreads();  // all have read their flag\n", ""),
    ("flags not cleared", "  if (is_first && threadIdx.x == 0) is_first[row] = 0;\n", ""),
    ("flags of a block's first row cleared", "threadIdx.x == 0", "threadIdx.x + threadIdx.y == 0"),
    ("flags set", "is_first[row] = 0", "is_first[row] = 1"),
    ("flags of slots cleared", "is_first[row] = 0", "is_first[slot] = 0"),
    ("flags not checked for null", "is_first && threadIdx.x", "threadIdx.x"),
    ("rows have no slots", "slots ? slots[row] : row", "row"),
    ("slots not checked for null", "slots ? slots[row]", "true ? slots[row]"),
    ("h, so far as a block has threads", "k < H; k += blockDim.x", "k < H; k += H"),
    ("c, so far as a block has threads", "k < C; k += blockDim.x", "k < C; k += C"),
    ("h beyond its row", "k < H", "k <= H"),
    ("c beyond its row", "k < C", "k <= C"),
    ("c of as many columns as h", "k < C", "k < H"),
    ("h by the row", "  h[slot", "  h[row"),
    ("h by c's stride", "h[slot * h_stride", "h[slot * c_stride"),
    ("c by h's stride", "c[slot * c_stride", "c[slot * h_stride"),
    ("reset_h by the slot", "reset_h[row", "reset_h[slot"),
    ("reset_c by the slot", "reset_c[row", "reset_c[slot"),
    ("reset_h by the stride of reset_c", "row * reset_h_stride", "row * reset_c_stride"),
    ("reset_c by the stride of reset_h", "row * reset_c_stride", "row * reset_h_stride"),
    ("reset_h not checked for null", "reset_h ? ", "true ? "),
    ("reset_c not checked for null", "reset_c ? ", "true ? "),
    ("the first reset_h for all", "row * reset_h_stride", "0 * reset_h_stride"),
    ("h of one", "of(0)", "of(1)"),
    ("c of one", "A(0)", "A(1)"),
    ("int offset of h", "h[slot * h_stride + k]", "h[(int)(slot * h_stride + k)]"),
    ("int offset of c", "c[slot * c_stride + k]", "c[(int)(slot * c_stride + k)]"),
    ("int offset of reset_h", "[row * reset_h_stride + k]", "[(int)(row * reset_h_stride + k)]"),
    ("int offset of reset_c", "[row * reset_c_stride + k]", "[(int)(row * reset_c_stride + k)]"),
]

CLAIM = "atomicExch(claims + slot, tick) == tick"
GATHER_KERNEL = [
    # What is checked of slots.
    ("padding is out of range", "  if (slot == -1) return -1;\n", ""),
    ("all below zero is padding", "slot == -1", "slot < 0"),
    ("slots below zero", "slot < 0 || slot >= capacity", "slot >= capacity"),
    ("a slot too many", "slot >= capacity", "slot > capacity"),
    ("slots of 32 bits", "slot < 0 || slot >= capacity", "(int)slot < 0 || (int)slot >= capacity"),
    ("released slots step", "!live[slot]", "false"),
    ("released slots alone step", "!live[slot]", "live[slot]"),
    ("claims of another tick", CLAIM, "atomicExch(claims + slot, tick) != tick"),
    ("claims of later ticks", CLAIM, "atomicExch(claims + slot, tick) >= tick"),
    ("claims of 32 bits", CLAIM, "(unsigned)atomicExch(claims + slot, tick) == (unsigned)tick"),
    ("claims not kept", CLAIM, "claims[slot] == tick"),
    ("claims that race", CLAIM, "claims[slot] == tick || (claims[slot] = tick) != tick"),
    ("a slot with a problem steps", "  return -1;\n}", "  return (int)slot;\n}"),
    ("kinds of another order", "OUT_OF_RANGE, RELEASED, TWICE }", "RELEASED, OUT_OF_RANGE, TWICE }"),
    ("twice is released", "report(problems, TWICE", "report(problems, RELEASED"),
    ("problems counted twice", "1ull", "2ull"),
    ("problems not counted up", "atomicAdd(", "atomicExch("),
    ("counts side by side", "problems + 2 * problem, 1ull", "problems + problem, 1ull"),
    ("a slot in the count's place", "problem + 1, (", "problem, ("),
    ("no slot of a problem", "(unsigned long long)slot", "~0ull"),
    ("nothing is checked", "live ? checked(", "!live ? checked("),
    # Rows.
    ("row by the wrong size of a block", "blockIdx.x * blockDim.y", "blockIdx.x * blockDim.x"),
    ("slots beyond the batch", "row < B", "row <= B"),
    ("slots of all rows", "row < B", "row < M"),
    ("rows of the batch alone", "row < M", "row < B"),
    ("no guard of rows", "if (row < M) rows", "rows"),
    ("no barrier", "  __syncthreads();\n", ""),
    ("the slot of a block's first row", "slot_of[threadIdx.y];", "slot_of[0];"),
    ("slots of a block in one place", "slot_of[threadIdx.y] = slot", "slot_of[threadIdx.x] = slot"),
    ("slot 0 is none", "if (slot < 0) return", "if (slot <= 0) return"),
    ("rows that have no slot", "if (slot < 0) return", "if (row >= B) return"),
    ("is_first not checked for null", "is_first && is_first[row]", "is_first[row]"),
    ("the flag of the first row", "is_first[row]", "is_first[0]"),
    ("the flag of the slot", "is_first[row]", "is_first[slot]"),
    # x and the state.
    ("to the slot's row", "operand + row", "operand + slot"),
    ("rows of the operand without gaps", "row * operand_stride", "row * (X + H)"),
    ("x of the slot", "x[row", "x[slot"),
    ("x as if contiguous", "x[row * x_stride", "x[row * I"),
    ("x and its padding", "k < I", "k < X"),
    ("x, so far as a block has threads", "k < I; k += blockDim.x", "k < I; k += I"),
    ("the state, so far as a block has threads", "k < H / W; k += blockDim.x", "k < H / W; k += H"),
    ("the state at the end of a stride", "(to + X)", "(to + operand_stride - H)"),
    ("the state beyond its row", "k < H / W", "k <= H / W"),
    ("the state but for its end", "k < H / W", "k < H / W - 1"),
    ("the state beside x", "(to + X)", "(to + I)"),
    ("the state of the row", "states + slot * H", "states + row * H"),
    ("the state by the operand's stride", "states + slot * H", "states + slot * operand_stride"),
    ("the state of one", "of(0)", "of(1)"),
    ("an old state stays", "if (first) {\n      to_state", "if (false) {\n      to_state"),
    ("a new state alone", "to_state[k] = state[k]", "to_state[k] = zeros"),
    ("the state's first vector throughout", "= state[k]", "= state[0]"),
    ("c of every row", "  if (first) {\n    for", "  {\n    for"),
    ("c stays", "c[slot * C + k] = A(0)", "(void)k"),
    ("c of one", "A(0)", "A(1)"),
    ("c of the row", "c[slot", "c[row"),
    ("c by the state's columns", "c[slot * C", "c[slot * H"),
    ("c beyond its row", "k < C", "k <= C"),
    ("c, so far as a block has threads", "k < C; k += blockDim.x", "k < C; k += C"),
    ("int offset of the operand", "row * operand_stride", "(int)(row * operand_stride)"),
    ("int offset of x", "x[row * x_stride + k]", "x[(int)(row * x_stride + k)]"),
    ("int offset of the state", "slot * H", "(int)(slot * H)"),
    ("int offset of c", "slot * C + k", "(int)(slot * C + k)"),
]

CLIP_KERNEL = [
    ("guard one too far", "k < count", "k <= count"),
    ("guard one short", "k < count", "k + 1 < count"),
    ("no guard", "if (k < count) ", ""),
    ("the wrong size of a block", "blockDim.x", "warpSize"),
    ("neighbours given one element", "widen(h[k])", "widen(h[k / 2 * 2])"),
    ("half the limit", "A(limit)", "A(limit / 2)"),
    ("stored at the start", "h[k] = Narrow", "h[0] = Narrow"),
]

SELECT_KERNEL = [
    ("guard of rows one too far", "row >= B", "row > B"),
    ("no guard of rows", "row >= B || ", ""),
    ("guard of columns one too far", "column >= K", "column > K"),
    ("no guard of columns", "column >= K || ", ""),
    ("the rows that are not marked", "!mask[row]", "mask[row]"),
    ("every row", " || !mask[row]", ""),
    ("the mask of the first row", "!mask[row]", "!mask[0]"),
    ("the mask by columns", "!mask[row]", "!mask[column]"),
    ("always zeros", "value ? value[row * value_stride + column] : ", ""),
    ("zeros of one", "of(0)", "of(1)"),
    ("the first row for all", "row * value_stride", "0 * value_stride"),
    ("rows of K elements", "value[row * value_stride", "value[row * K"),
    ("stored at the row's start", "out[row * K + column]", "out[row * K]"),
    ("stored a row on", "out[row * K", "out[(row + 1) * K"),
    (
        "rows and columns exchanged",
        "(i64)blockIdx.x * blockDim.y + threadIdx.y",
        "(i64)blockIdx.y * blockDim.y + threadIdx.x",
    ),
    ("an offset of 32 bits", "value[row * value_stride + column]", "value[int(row * value_stride + column)]"),
    ("an offset of out of 32 bits", "out[row * K + column]", "out[int(row * K + column)]"),
]

ADD_KERNEL = [
    ("guard one too far", "k < count", "k <= count"),
    ("no guard", "if (k < count) ", ""),
    ("the difference", ") + widen(", ") - widen("),
    ("the other alone", "widen(out[k]) + widen(more[k])", "widen(more[k])"),
    ("itself twice", "widen(more[k])", "widen(out[k])"),
    ("the first of the others", "widen(more[k])", "widen(more[0])"),
    ("the wrong size of a block", "blockDim.x", "warpSize"),
    ("stored in the other", "if (k < count) out[k] =", "if (k < count) const_cast<T*>(more)[k] ="),
    ("stored at the start", "out[k] = Narrow", "out[0] = Narrow"),
]

OVERFLOWING = "return exponential(x) / (A(1) + exponential(x))"
CLIP_OF_NAN = "x < limit ? (x > -limit ? x : -limit) : limit"
DOUBLE_OF_FLOAT = "double of(double x) { return float(x); }"
WIDENED_FLOAT = "double widen(double x) { return float(x); }"
DOUBLED = """Vector<T, W> whole;
  for (int k = 0; k < W; ++k) whole.at[k] = from[k & ~1];
  return whole;"""
ACTIVATIONS = [
    ("clip at the limit itself", "x > limit ? limit", "x >= limit ? limit", CLIP, same_bits_of_clip),
    ("sigmoid of the other sign", "x < A(0) ? e * small : small", "x < A(0) ? small : e * small"),
    ("sigmoid of x without its magnitude", "exponential(-magnitude(x))", "exponential(-x)"),
    ("sigmoid that overflows", "return x < A(0) ? e * small : small", OVERFLOWING),
    ("sigmoid of |x|", "return x < A(0) ? e * small : small", "return small"),
    ("relu loses NaN", "x < A(0) ? A(0) : x;", "x > A(0) ? x : A(0);"),
    ("relu for tanh", "KIND == TANH) return hyperbolic_tangent(x)", "KIND == TANH) return x"),
    ("the wrong order of activations", "TANH, RELU, SIGMOID", "TANH, SIGMOID, RELU"),
    ("softsign without a magnitude", "x / (A(1) + magnitude(x))", "x / (A(1) + x)"),
    ("elu by exp", "x > A(0) ? x : exponential_minus_1(x)", "x > A(0) ? x : exponential(x)"),
    ("elu of the other sign", "KIND == ELU) return x > A(0)", "KIND == ELU) return x < A(0)"),
    ("elu loses accuracy near 0", "return expm1f(x)", "return expf(x) - 1.0f"),
    ("linear is tanh", "  return x;\n}", "  return hyperbolic_tangent(x);\n}"),
    ("double by float's exp", "return exp(x)", "return expf(float(x))", DOUBLE),
    ("double by float's tanh", "return tanh(x)", "return tanhf(float(x))", DOUBLE),
    ("clip from above alone", "x < -limit ? -limit : x", "x", CLIP),
    ("clip loses NaN", "x > limit ? limit : x < -limit ? -limit : x", CLIP_OF_NAN, CLIP),
    ("clip to the wrong side", "? -limit : x", "? limit : x", CLIP),
]

PRIMITIVES = [
    ("int for i64", "typedef long long i64", "typedef int i64", CLIP),
    ("half narrowed towards zero", "__float2half_rn", "__float2half_rz", HALF),
    ("half narrowed upwards", "__float2half_rn", "__float2half_ru", HALF),
    ("bfloat16 narrowed towards zero", "__float2bfloat16_rn", "__float2bfloat16_rz", BFLOAT16),
    ("double narrowed to float", "double of(double x) { return x; }", DOUBLE_OF_FLOAT, DOUBLE),
    ("double widened by float", "double widen(double x) { return x; }", WIDENED_FLOAT, DOUBLE),
    ("vectors loaded one element on", "Vector<T, W>*>(from)", "Vector<T, W>*>(from + 1)"),
    ("every other element, twice", "return *reinterpret_cast<const Vector<T, W>*>(from);", DOUBLED),
    ("vectors stored one element back", "Vector<T, W>*>(to) =", "Vector<T, W>*>(to - 1) ="),
    ("vectors of twice the size", "T at[W];", "T at[2 * W];"),
    ("vectors of too large an alignment", "16 ? 16 : sizeof(T) * W", "16 ? 32 : 2 * sizeof(T) * W"),
]

MUTATIONS = [
    *(Mutation("pointwise.cu", *row) for row in POINTWISE),
    *(Mutation("clip.cu", *row, tests=CLIP) for row in CLIP_KERNEL),
    *(Mutation("select.cu", *row, tests=SELECT) for row in SELECT_KERNEL),
    *(Mutation("add.cu", *row, tests=ADD) for row in ADD_KERNEL),
    *(Mutation("activations.cuh", *row) for row in ACTIVATIONS),
    *(Mutation("primitives.cuh", *row) for row in PRIMITIVES),
    *(Mutation("cell.cuh", *row) for row in CELL),
    *(Mutation("planned.cu", what, old, new, *tests or [PLANNED]) for what, old, new, *tests in PLANNED_KERNEL),
    *(Mutation("finish.cu", *row, tests=FINISH) for row in FINISH_KERNEL),
    *(Mutation("reset.cu", *row, tests=RESET) for row in RESET_KERNEL),
    *(Mutation("gather.cu", *row, tests=GATHER) for row in GATHER_KERNEL),
]


@contextmanager
def mutated(mutation: Mutation | None) -> Iterator[Path]:
    """A copy of the kernels' folder, with the mistake in it or none."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "kernels"
        copy.mkdir()
        for file in KERNELS.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        if mutation is not None:
            (copy / mutation.file).write_text(mutation.applied(), encoding="utf-8")
        yield copy


def first_failure(kernels: Path, tests: str) -> str | None:
    """What the first of these tests to fail on a folder of kernels says, or None where all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", "-k", tests]
    done = subprocess.run(
        [*command, *map(str, TESTS)],
        cwd=HERE.parent,
        env=os.environ
        | {"FUSEDLSTM_TEST_KERNELS": str(kernels), "FUSEDLSTM_REQUIRE_EMULATION": "1", "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) \S+?::(.*)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:
        raise RuntimeError(f"pytest itself failed:\n{done.stdout}{done.stderr}")
    if "does not compile" in failed[1]:
        raise RuntimeError(f"a mistake must compile:\n{done.stdout}")
    return failed[1]


@dataclass(frozen=True)
class Outcome:
    mutation: Mutation
    good: bool
    how: str

    def __str__(self) -> str:
        return f"{'    ' if self.good else 'NOT '}{self.mutation}\n        {self.how}"


def outcome(mutation: Mutation) -> Outcome:
    """Make one mistake, and see how it is found."""
    with mutated(mutation) as kernels:
        try:
            failure = first_failure(kernels, mutation.tests)
        except RuntimeError as error:
            return Outcome(mutation, good=False, how=str(error))
        if mutation.shown_equivalent is not None:
            good = failure is None
            return Outcome(mutation, good, f"equivalent: {mutation.shown_equivalent(kernels)}" if good else failure)
    return Outcome(mutation, failure is not None, failure or "not found")


def main(words: str) -> int:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["EMULATION_CACHE"] = cache  # nobody wants these libraries again
        with mutated(None) as kernels:
            failure = first_failure(kernels, "test")
        if failure is not None:
            print(f"The tests fail without a mistake: {failure}")
            return 1
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = []
            for each in pool.map(outcome, (m for m in MUTATIONS if words in str(m))):
                print(each, flush=True)
                outcomes.append(each)
    missed = [each for each in outcomes if not each.good]
    equivalent = sum(each.mutation.shown_equivalent is not None for each in outcomes)
    print(f"{len(outcomes)} mistakes: {len(missed)} not found, {equivalent} equivalent to none")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
