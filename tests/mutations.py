"""Plant mistakes in copies of the kernels, one at a time. The tests of the emulated kernels must find each.

python tests/mutations.py [words]   plants all, or those with these words in their description, and prints how each was
                                    found. Its status is 1 if one was not.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusedlstm.backends.cuda.arguments import ClipArguments

from emulation import Module
from support.outcomes import Outcome, missed
from support.structs import by_value

TESTS = [
    Path(__file__).parent / "cuda" / f"test_kernels_{name}.py"
    for name in ("emulated", "planned", "interleave", "scan", "sequence", "slots", "step", "zoneout")
]
ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "kernels"

# Tests, as words for pytest's -k. One dtype stands for all that share its code.
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
CHECK = "test_check"
STATE_ROWS = "test_state_rows"
# The smallest tile that shows the mistake.
SMALL = "test_step and small8-__half"
MEDIUM = "test_step and medium-__half"
LARGE, WIDE = "test_step and large-__half", "test_step and wide-__half"
MEDIUM_SHORT, SMALL_SHORT = "test_step and medium3-__half", "test_step and small8_3-__half"
SIMT_SHORT = "test_step and simt_medium3-float"
TF32 = "test_step and medium-float"
SMALL_TF32 = "test_step and small8-float"
SIMT = "test_step and simt16-float"
SIMT_LARGE = "test_step and simt-float"
SIMT_DOUBLE = "test_step and simt16-double"
OFFSETS = "offsets and large-__half"
PROJECT = "test_project and small8-__half"
PROJECT_LARGE = "test_project and large-__half"
PROJECTS = "test_step and projects and small8-__half"
PROJECTS_MEDIUM = "test_step and projects and medium-__half"
INTERLEAVE = "test_interleave and __half"
PAD = "test_pad and __half"
ROUNDING = "test_rounding"
FAR_APART = "test_offsets_beyond and interleave"
GATES = "test_gates and medium-__half"
GATES_LARGE = "test_gates and large-__half"
SCAN = "test_scan_has and __nv_bfloat16-1"
SCAN_ROWS = "test_scan_has and __half-10"
SCAN_TF32 = "test_scan_has and float-6"
SCAN_TF32_LARGE = "test_larger and float-96"
SCAN_CHUNKS = "test_chunks and narrow and forwards"
SCAN_PROJECTS, SCAN_PROJECTS_MORE = "test_scan_projects and plain", "test_scan_projects and all"
SCAN_DIRECTIONS = "test_scan_in_any_order and narrow and reverse"
ZONEOUT_FINISH = "test_zoneout_of_finish"
ZONEOUT_STEP = "test_zoneout_of_a_step and small8"
ZONEOUT_PROJECT = "test_zoneout_of_a_projection and small8"
FLAGS = "test_flags"
AFTER_PRODUCT = "test_step_after_a_product[float-"
AFTER_PRODUCT_FAR = "test_step_after_a_product_beyond"
END = "test_end_of_a_step[float-"
END_FAR = "test_end_of_a_step_beyond"
IDLE_STEP = "test_idle_rows_of_a_step and small8"
IDLE_PROJECTION = "test_idle_rows_of_a_projection and small8"


@dataclass(frozen=True)
class Mutation:
    """A text that occurs once in a kernel's file, and its replacement.

    If a mutation changes no result, `shown_equivalent` shows that, given the folder of the changed kernels.
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
        """Return the file with the mistake in it."""
        text = (KERNELS / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self}: {self.old!r} occurs {text.count(self.old)} times in {self.file}, not once")
        return text.replace(self.old, self.new)


def same_bits_of_clip(changed: Path) -> str:
    """Show that lstm_clip gives the same bits for all 16-bit numbers, and limits of every size."""
    name, numbers = "lstm_clip<__half>", np.arange(1 << 16, dtype=np.uint16)
    limits = np.abs(numbers[:0x7C00:97].view(np.float16).astype(np.float64))[1:]  # a cell's limits are positive

    def clipped(folder: Path, limit: np.float64) -> bytes:
        h = numbers.view(np.float16).copy()
        function = Module(folder / "clip.cu", [name], mode="fast").function(name)
        function((256,), (256,), [by_value(ClipArguments(h, h.size, limit), T=h.dtype)])
        return h.tobytes()

    assert all(clipped(changed, limit) == clipped(KERNELS, limit) for limit in limits)
    return f"the same bits for all 65536 float16 numbers and {len(limits)} limits: at the limit, x is the limit"


# Each row: a description, the old text, the new text, and the tests that must find it, unless they are float's.
POINTWISE = [
    # Rows and units of each thread.
    ("row guard one too far", "row >= a.B ||", "row > a.B ||"),
    ("unit guard one too far", "unit >= a.cell.N)", "unit > a.cell.N)"),
    ("no unit guard", "row >= a.B || unit >= a.cell.N", "row >= a.B"),
    ("guards of which both must hold", "row >= a.B || unit", "row >= a.B && unit"),
    ("unit guard one short", "unit >= a.cell.N)", "unit + W >= a.cell.N)"),
    ("row by the wrong size of a block", "blockIdx.x * blockDim.y", "blockIdx.x * blockDim.x"),
    ("units of neighbours overlap", "threadIdx.x) * W", "threadIdx.x) * (W > 1 ? W / 2 : W)"),
    ("units not by the vector", "blockDim.x + threadIdx.x) * W", "blockDim.x + threadIdx.x)"),
    ("row in a byte", "const i64 row = (i64)", "const unsigned char row = "),
    # Which element of gates.
    ("one gate too many", "gate < 4; ++gate) {", "gate < 5; ++gate) {"),
    ("one gate too few", "gate < 4; ++gate) {", "gate < 3; ++gate) {"),
    ("gates one element on", "gate * a.cell.N + unit;", "gate * a.cell.N + unit + 1;"),
    ("gates interleaved", "gate * a.cell.N + unit;", "gate + 4 * unit;"),
    ("gates without their row", "a.gates.at + row * a.gates.stride + column", "a.gates.at + column"),
    ("gates as if contiguous", "row * a.gates.stride", "row * 4 * a.cell.N"),
    ("gates by c's stride", "row * a.gates.stride", "row * a.c.stride"),
    ("int offset of gates", "row * a.gates.stride", "(int)(row * a.gates.stride)", HALF),
    ("int offset of gates_h", "row * a.gates_h.stride", "(int)(row * a.gates_h.stride)", HALF),
    ("int offset of reset_gates", "row * a.reset_gates.stride", "(int)(row * a.reset_gates.stride)", HALF),
    ("int offset of a gate", "column = gate * a.cell.N", "column = (int)(gate * a.cell.N)", HALF),
    ("int offset of c", "row * a.c.stride", "(int)(row * a.c.stride)", HALF),
    ("int offset of reset_c", "row * a.reset_c.stride", "(int)(row * a.reset_c.stride)", HALF),
    ("int offset of h", "row * a.h.stride", "(int)(row * a.h.stride)", HALF),
    ("int offset of c_out", "row * a.c_out.stride", "(int)(row * a.c_out.stride)", HALF),
    ("gates_h by the stride of gates", "row * a.gates_h.stride", "row * a.gates.stride"),
    ("gates_h not checked for null", "a.gates_h.at ? a.gates_h.at + row", "true ? a.gates_h.at + row"),
    ("bias by recurrent's pointer", "if (a.cell.bias) {", "if (recurrent) {"),
    ("bias by the unit alone", "a.cell.bias + gate * a.cell.N + unit", "a.cell.bias + unit"),
    ("bias of three gates", "gate < 4; ++gate) add", "gate < 3; ++gate) add"),
    ("int offset of bias", "bias + gate * a.cell.N", "bias + (int)(gate * a.cell.N)", HALF),
    ("half a vector", "k < W; ++k) z[gate][k] = A", "k < (W + 1) / 2; ++k) z[gate][k] = A"),
    ("a loop beyond the vector", "k < W; ++k) z[gate][k] = A", "k <= W; ++k) z[gate][k] = A"),
    # Resets.
    ("resets without the option", "RESET ? a.is_first[row] : 0", "a.is_first[row]"),
    ("no resets", "RESET ? a.is_first[row] : 0", "0"),
    ("resets of all rows", "RESET ? a.is_first[row] : 0", "RESET"),
    ("the reset of the block's row", "a.is_first[row]", "a.is_first[threadIdx.y]"),
    ("no reset of c", "    old_c = a.reset_c.at ? a.reset_c.at + row * a.reset_c.stride : nullptr;\n", ""),
    (
        "no reset of gates",
        "    recurrent = a.reset_gates.at ? a.reset_gates.at + row * a.reset_gates.stride : nullptr;\n",
        "",
    ),
    ("one reset_c for all rows", "a.reset_c.at + row * a.reset_c.stride", "a.reset_c.at"),
    ("one reset_gates for all rows", "a.reset_gates.at + row * a.reset_gates.stride", "a.reset_gates.at"),
    ("reset_gates not checked for null", "recurrent = a.reset_gates.at ?", "recurrent = true ?"),
    ("reset_c as if of a row each", "row * a.reset_c.stride", "row * a.cell.N"),
    ("c of a reset not zeroed", "state.at[k] = A(0);", "state.at[k] = A(1);"),
    ("c of a reset zeroed in part", "k < W; ++k) state.at[k] = A(0)", "k < W - 1; ++k) state.at[k] = A(0)"),
    # The state.
    ("c as if contiguous", "row * a.c.stride", "row * a.cell.N"),
    ("c without its unit", "load<W>(old_c + unit)", "load<W>(old_c)"),
    ("peepholes without the option", "if (PEEPHOLE) peepholes =", "peepholes ="),
    # The output.
    ("h by c's stride", "row * a.h.stride", "row * a.c.stride"),
    ("h to the first row", "a.h.at + row * a.h.stride + unit", "a.h.at + unit"),
    ("c stored a unit on", "a.c_out.stride + unit", "a.c_out.stride + unit + 1"),
    (
        "c's first unit stored",
        "store<W>(a.c_out.at + row * a.c_out.stride + unit, state)",
        "a.c_out.at[row * a.c_out.stride + unit] = state.at[0]",
    ),
    ("c stored in c", "store<W>(a.c_out.at", "store<W>((A*)a.c.at"),
    ("c not stored", "  store<W>(a.c_out.at + row * a.c_out.stride + unit, state);\n", ""),
]

OTHER_PART = "keep_part<FUNCTIONS::ZONEOUT_C>(next, c.at[k])"
KEPT_BEFORE_O = "    next = c.at[k] = keep_part<FUNCTIONS::ZONEOUT_C>(c.at[k], next);\n"
CLIP_AND_PEEPHOLE = """    if (CLIP) next = clip(next, A(cell_clip));
    if (PEEPHOLE) z_o = multiply_and_add(A(widen(p.o.at[k])), next, z_o);"""
GATED = "gated<FUNCTIONS, typename FUNCTIONS::Output, FAST>(z_o, next)"
CELL = [
    ("gates i and f swapped", "z_i = z[0][k], z_f = z[1][k]", "z_i = z[1][k], z_f = z[0][k]"),
    ("gate o in g's place", "(z[2][k])", "(z[3][k])"),
    ("gate g in o's place", "z_o = z[3][k]", "z_o = z[2][k]"),
    ("more in place of what was there", "z[k] += A(widen(more", "z[k] = A(widen(more"),
    ("more, but for the last of a vector", "k < W; ++k) z[k] +=", "k < (W + 1) / 2; ++k) z[k] +="),
    # The state.
    ("no clip of c", "    if (CLIP) next = clip(next, A(cell_clip));\n", ""),
    ("clips without the option", "if (CLIP) next", "next"),
    ("f and i swapped in the sum", "multiply_and_add(f, c.at[k], input)", "multiply_and_add(input, c.at[k], f)"),
    ("the old c stays", "    c.at[k] = keep_part<FUNCTIONS::ZONEOUT_C>(c.at[k], next);\n", ""),
    ("no part of c stays", "c.at[k] = keep_part<FUNCTIONS::ZONEOUT_C>(c.at[k], next)", "c.at[k] = next"),
    ("the other part of c stays", "keep_part<FUNCTIONS::ZONEOUT_C>(c.at[k], next)", OTHER_PART),
    ("the new c is whole", "A(1 - of_bits(PART)) * next", "next"),
    ("o sees the c that stays", "    c.at[k] = keep_part<FUNCTIONS::ZONEOUT_C>(c.at[k], next);\n", KEPT_BEFORE_O),
    # Peepholes.
    ("no peephole i", "      z_i = multiply_and_add(A(widen(p.i.at[k])), c.at[k], z_i);\n", ""),
    ("peephole f of i's weights", "widen(p.f.at[k])", "widen(p.i.at[k])"),
    ("peephole f of i's row", "peephole + N + unit", "peephole + unit"),
    ("peephole o a row too far", "peephole + 2 * N + unit", "peephole + 3 * N + unit"),
    ("int offset of peephole o", "peephole + 2 * N + unit", "peephole + (int)(2 * N) + unit", PLANNED_HALF),
    ("peephole o sees the old c", "(A(widen(p.o.at[k])), next", "(A(widen(p.o.at[k])), c.at[k]"),
    ("peephole o before the clip", CLIP_AND_PEEPHOLE, "\n".join(CLIP_AND_PEEPHOLE.split("\n")[::-1])),
    # The output.
    ("h without its activation", GATED, "gate_of<FUNCTIONS, FAST>(z_o) * next"),
    ("tanh whatever the activation", "typename FUNCTIONS::Output, FAST", "Function<TANH>, FAST"),
    ("o without its function", GATED, "z_o * activate<typename FUNCTIONS::Output, FAST>(next)"),
    # Functions.
    ("g's function for the output", "FUNCTIONS::Output, FAST", "FUNCTIONS::Input, FAST"),
    ("the output's function for g", "FUNCTIONS::Input, FAST>(z_i", "FUNCTIONS::Output, FAST>(z_i"),
    ("the output's function for a coupled g", "FUNCTIONS::Input, FAST>(z_g", "FUNCTIONS::Output, FAST>(z_g"),
    ("g's function for f", "FUNCTIONS::Gate, FAST>(clip_gate", "FUNCTIONS::Input, FAST>(clip_gate"),
    ("g's function for i and o", "FUNCTIONS::Gate, FAST>(clipped", "FUNCTIONS::Input, FAST>(clipped"),
    ("sigmoids whatever f", "activate<typename FUNCTIONS::Gate, FAST>(clip_gate", "sigmoid<FAST>(clip_gate"),
    ("sigmoids whatever i and o", "activate<typename FUNCTIONS::Gate, FAST>(clipped", "sigmoid<FAST>(clipped"),
    ("f not clipped", "FAST>(clip_gate<FUNCTIONS>(z))", "FAST>(z)"),
    ("i and o not clipped", "clipped = clip_gate<FUNCTIONS>(z)", "clipped = z"),
    ("g not clipped", "clip_gate<FUNCTIONS>(z[2][k])", "z[2][k]"),
    ("gates clipped without the option alone", "CLIP == INFINITE", "CLIP != INFINITE"),
    ("gate i clipped before its peephole", "z_i = z[0][k]", "z_i = clip_gate<FUNCTIONS>(z[0][k])"),
    ("gate o clipped before its peephole", "z_o = z[3][k]", "z_o = clip_gate<FUNCTIONS>(z[3][k])"),
    ("c' clipped as gates are", "(z_o, next)", "(z_o, clip_gate<FUNCTIONS>(next))"),
    ("the other gate coupled", "COUPLED = COUPLED_GATE", "COUPLED = COUPLED_GATE ? 3 - COUPLED_GATE : NO_GATE"),
    ("a coupled i is f", "(OF_F ? other : gate) *", "gate *"),
    ("a coupled f is i", "f = OF_F ? gate : other", "f = gate"),
    ("a coupled f has a gate of its own", "f = OF_F ? gate : other", "f = gate_of<FUNCTIONS, FAST>(z_f)"),
    ("a coupled i has a gate of its own", "OF_F ? z_f : z_i", "z_i"),
    ("one less than a coupled gate", "other = add_rounded(A(1), -gate)", "other = add_rounded(gate, A(-1))"),
    ("the difference for the sum", "widen(a.at[k]), widen(b.at[k])", "widen(a.at[k]), -widen(b.at[k])", PLANNED),
    ("the sum of a vector's first", ", widen(b.at[k])", ", widen(b.at[0])", PLANNED),
    ("no sum", "add_rounded(widen(a.at[k]), widen(b.at[k]))", "widen(a.at[k])", PLANNED),
]

STORE_H = "    store<W>(a.h.at + (a.h_by_slot ? slot : row) * a.h.stride + unit, m);\n"
ADD_INPUT = "    if (a.copy.input.at) m = sum(m, load<W>(a.copy.input.at + row * a.copy.input.stride + unit));\n"
PLANNED_KERNEL = [
    # Rows and units of each thread.
    ("row guard one too far", "row >= a.B ||", "row > a.B ||"),
    ("no row guard", "row >= a.B || ", ""),
    ("unit guard one too far", "unit >= a.cell.N)", "unit > a.cell.N)"),
    ("no unit guard", " || unit >= a.cell.N", ""),
    ("unit guard one short", "unit >= a.cell.N)", "unit + W >= a.cell.N)"),
    ("row by the wrong size of a block", "blockIdx.x * blockDim.y", "blockIdx.x * blockDim.x"),
    ("units not by the vector", "blockDim.x + threadIdx.x) * W", "blockDim.x + threadIdx.x)"),
    # Slots.
    ("rows have no slots", "a.slot_of_row ? a.slot_of_row[row] : row", "row"),
    ("rows not checked for null", "a.slot_of_row ? a.slot_of_row[row]", "true ? a.slot_of_row[row]"),
    ("the slot of the first row", "a.slot_of_row ? a.slot_of_row[row]", "a.slot_of_row ? a.slot_of_row[0]"),
    ("slot -1 steps", "slot < 0", "slot < -1"),
    ("slot 0 takes no step", "slot < 0", "slot <= 0"),
    ("a skipped row's copy is 1", "of(0)", "of(1)"),
    ("a skipped row's copy stays", "a.copy.write", "if (slot >= 0) a.copy.write"),
    # Gates.
    ("gates by the slot", "a.gates + row * 4 * a.cell.N", "a.gates + slot * 4 * a.cell.N"),
    ("gates of the first row", "a.gates + row * 4 * a.cell.N + column", "a.gates + column"),
    ("gates interleaved", "gate * a.cell.N + unit;", "gate + 4 * unit;"),
    ("one gate too few", "gate < 4", "gate < 3"),
    ("no bias", "      if (a.cell.bias) add(z[gate], a.cell.bias + column);\n", ""),
    ("bias not checked for null", "if (a.cell.bias) add", "add"),
    ("bias by the unit alone", "a.cell.bias + column", "a.cell.bias + unit"),
    ("int offset of gates", "row * 4 * a.cell.N", "(int)(row * 4 * a.cell.N)", PLANNED_HALF),
    ("int offset of a gate", "column = gate * a.cell.N", "column = (int)(gate * a.cell.N)", PLANNED_HALF),
    # The state.
    ("c by the row", "load<W>(a.c.at + slot * a.c.stride", "load<W>(a.c.at + row * a.c.stride"),
    ("c as if contiguous", "load<W>(a.c.at + slot * a.c.stride", "load<W>(a.c.at + slot * a.cell.N"),
    ("c by h's stride", "load<W>(a.c.at + slot * a.c.stride", "load<W>(a.c.at + slot * a.h.stride"),
    ("c stored by the row", "store<W>(a.c.at + slot * a.c.stride", "store<W>(a.c.at + row * a.c.stride"),
    ("c stored as if contiguous", "store<W>(a.c.at + slot * a.c.stride", "store<W>(a.c.at + slot * a.cell.N"),
    ("c not stored", "    store<W>(a.c.at + slot * a.c.stride + unit, state);\n", ""),
    ("no load of peepholes", "if (PEEPHOLE) peepholes", "if (!PEEPHOLE) peepholes"),
    (
        "int offset of c",
        "load<W>(a.c.at + slot * a.c.stride",
        "load<W>(a.c.at + (int)(slot * a.c.stride)",
        PLANNED_HALF,
    ),
    (
        "int offset of the new c",
        "store<W>(a.c.at + slot * a.c.stride",
        "store<W>(a.c.at + (int)(slot * a.c.stride)",
        PLANNED_HALF,
    ),
    # The output.
    ("h by the row", "(a.h_by_slot ? slot : row)", "row"),
    ("h by the slot", "(a.h_by_slot ? slot : row)", "slot"),
    ("h by the other of both", "a.h_by_slot ? slot : row", "a.h_by_slot ? row : slot"),
    ("h by c's stride", "* a.h.stride", "* a.c.stride"),
    ("h by the stride of copy", "* a.h.stride", "* a.copy.to.stride"),
    ("h not stored", STORE_H, ""),
    ("h with the input", STORE_H, ADD_INPUT + STORE_H),
    ("copy not written", "  a.copy.write(row, unit, m, slot >= 0);\n", ""),
    ("copy without the input", "m, slot >= 0)", "m, false)"),
    ("the input of rows that skip", "m, slot >= 0)", "m, true)"),
    ("copy and input by the slot", "a.copy.write(row", "a.copy.write(slot"),
    ("int offset of h", "(a.h_by_slot ? slot : row) * a.h.stride", "(int)(slot * a.h.stride)", PLANNED_HALF),
]

PROJECTED = "clip(A(widen(a.projected.at[row * a.projected.stride + column])), A(a.limit))"
FINISH_KERNEL = [
    ("row guard one too far", "row >= a.B", "row > a.B"),
    ("no row guard", "row >= a.B || ", ""),
    ("column guard one too far", "column >= a.P", "column > a.P"),
    ("no column guard", " || column >= a.P", ""),
    ("row by the wrong size of a block", "blockIdx.x * blockDim.y", "blockIdx.x * blockDim.x"),
    ("rows have no slots", "a.slot_of_row ? a.slot_of_row[row] : row", "row"),
    ("rows not checked for null", "a.slot_of_row ? a.slot_of_row[row]", "true ? a.slot_of_row[row]"),
    ("slot -1 has h", "slot >= 0", "slot >= -1"),
    ("slot 0 has none", "slot >= 0", "slot > 0"),
    ("a skipped row's copy is 1", "of(0)", "of(1)"),
    ("a skipped row's copy stays", "if (a.copy.to.at) a.copy.to.at", "if (a.copy.to.at && slot >= 0) a.copy.to.at"),
    ("no clip", PROJECTED, "A(widen(a.projected.at[row * a.projected.stride + column]))"),
    ("a limit of the wrong sign", "A(a.limit)", "A(-a.limit)"),
    ("half the limit", "A(a.limit)", "A(a.limit / 2)"),
    ("projected by the slot", "a.projected.at[row", "a.projected.at[slot"),
    ("projected by h's stride", "a.projected.stride + column", "a.h.stride + column"),
    ("h by the row", "a.h.at[slot", "a.h.at[row"),
    ("h by the stride of projected", "a.h.stride + column", "a.projected.stride + column"),
    ("h not stored", "    a.h.at[slot * a.h.stride + column] = output;\n", ""),
    ("copy without the input", "a.copy.to.at && a.copy.input.at", "false"),
    ("input not checked for null", "a.copy.to.at && a.copy.input.at", "a.copy.to.at"),
    ("input before the rounding of h", "widen(output) +", PROJECTED + " +"),
    ("the difference", "widen(output) +", "widen(output) -"),
    ("input by the slot", "a.copy.input.at[row", "a.copy.input.at[slot"),
    ("input by the stride of copy", "row * a.copy.input.stride", "row * a.copy.to.stride"),
    ("copy by the slot", "a.copy.to.at[row", "a.copy.to.at[slot"),
    ("copy by the stride of input", "row * a.copy.to.stride", "row * a.copy.input.stride"),
    ("copy not checked for null", "if (a.copy.to.at) a.copy.to.at", "a.copy.to.at"),
    ("int offset of projected", "[row * a.projected.stride", "[(int)(row * a.projected.stride)"),
    ("int offset of h", "[slot * a.h.stride", "[(int)(slot * a.h.stride)"),
    ("int offset of copy", "[row * a.copy.to.stride", "[(int)(row * a.copy.to.stride)"),
    ("int offset of input", "[row * a.copy.input.stride", "[(int)(row * a.copy.input.stride)"),
]

RESET_KERNEL = [
    ("guard one too far", "row < a.B", "row <= a.B"),
    ("no guard", "row < a.B && ", ""),
    ("row by the wrong size of a block", "blockIdx.x * blockDim.y", "blockIdx.x * blockDim.x"),
    ("every row", "(!a.is_first || a.is_first[row])", "true"),
    ("no row without flags", "!a.is_first || a.is_first[row]", "a.is_first && a.is_first[row]"),
    ("the flag of the first row", "a.is_first[row]);", "a.is_first[0]);"),
    ("the rows that are not marked", "|| a.is_first[row]", "|| !a.is_first[row]"),
    ("no barrier", "  __syncthreads();  // all have read their row's flag\n", ""),
    ("flags not cleared", "  if (a.is_first && a.clears && threadIdx.x == 0) a.is_first[row] = 0;\n", ""),
    ("flags of the host cleared", "a.is_first && a.clears &&", "a.is_first &&"),
    ("flags of a block's first row cleared", "threadIdx.x == 0", "threadIdx.x + threadIdx.y == 0"),
    ("flags set", "a.is_first[row] = 0", "a.is_first[row] = 1"),
    ("flags of slots cleared", "a.is_first[row] = 0", "a.is_first[slot] = 0"),
    ("flags not checked for null", "a.is_first && a.clears", "a.clears"),
    ("rows have no slots", "a.slots ? a.slots[row] : row", "row"),
    ("slots not checked for null", "a.slots ? a.slots[row]", "true ? a.slots[row]"),
    ("h only up to a block's threads", "k < a.H; k += blockDim.x", "k < a.H; k += a.H"),
    ("c only up to a block's threads", "k < a.C; k += blockDim.x", "k < a.C; k += a.C"),
    ("h beyond its row", "k < a.H", "k <= a.H"),
    ("c beyond its row", "k < a.C", "k <= a.C"),
    ("c of as many columns as h", "k < a.C", "k < a.H"),
    ("h by the row", "  a.h.at[slot", "  a.h.at[row"),
    ("h by c's stride", "a.h.at[slot * a.h.stride", "a.h.at[slot * a.c.stride"),
    ("c by h's stride", "a.c.at[slot * a.c.stride", "a.c.at[slot * a.h.stride"),
    ("reset_h by the slot", "a.reset_h.at[row", "a.reset_h.at[slot"),
    ("reset_c by the slot", "a.reset_c.at[row", "a.reset_c.at[slot"),
    ("reset_h by the stride of reset_c", "row * a.reset_h.stride", "row * a.reset_c.stride"),
    ("reset_c by the stride of reset_h", "row * a.reset_c.stride", "row * a.reset_h.stride"),
    ("reset_h not checked for null", "a.reset_h.at ? ", "true ? "),
    ("reset_c not checked for null", "a.reset_c.at ? ", "true ? "),
    ("the first reset_h for all", "row * a.reset_h.stride", "0 * a.reset_h.stride"),
    ("h of one", "of(0)", "of(1)"),
    ("c of one", "A(0)", "A(1)"),
    ("int offset of h", "a.h.at[slot * a.h.stride + k]", "a.h.at[(int)(slot * a.h.stride + k)]"),
    ("int offset of c", "a.c.at[slot * a.c.stride + k]", "a.c.at[(int)(slot * a.c.stride + k)]"),
    ("int offset of reset_h", "[row * a.reset_h.stride + k]", "[(int)(row * a.reset_h.stride + k)]"),
    ("int offset of reset_c", "[row * a.reset_c.stride + k]", "[(int)(row * a.reset_c.stride + k)]"),
]

CLAIM = "atomicExch(audit.claims + slot, tick) == tick"
SLOTS = [
    ("padding is out of range", "  if (slot == -1) return -1;\n", ""),
    ("all below zero is padding", "slot == -1", "slot < 0"),
    ("slots below zero", "slot < 0 || slot >= capacity", "slot >= capacity"),
    ("a slot too many", "slot >= capacity", "slot > capacity"),
    ("slots of 32 bits", "slot < 0 || slot >= capacity", "(int)slot < 0 || (int)slot >= capacity"),
    ("released slots step", "!audit.live[slot]", "false"),
    ("released slots alone step", "!audit.live[slot]", "audit.live[slot]"),
    ("claims of another tick", CLAIM, "atomicExch(audit.claims + slot, tick) != tick"),
    ("claims of later ticks", CLAIM, "atomicExch(audit.claims + slot, tick) >= tick"),
    ("claims of 32 bits", CLAIM, "(unsigned)atomicExch(audit.claims + slot, tick) == (unsigned)tick"),
    ("claims not kept", CLAIM, "audit.claims[slot] == tick"),
    ("claims that race", CLAIM, "audit.claims[slot] == tick || (audit.claims[slot] = tick) != tick"),
    ("a slot with a problem steps", "  return -1;\n}", "  return (int)slot;\n}"),
    ("kinds of another order", "OUT_OF_RANGE, RELEASED, TWICE }", "RELEASED, OUT_OF_RANGE, TWICE }"),
    ("twice is released", "report(audit.problems, TWICE", "report(audit.problems, RELEASED"),
    ("problems counted twice", "1ull", "2ull"),
    ("problems not counted up", "atomicAdd(", "atomicExch("),
    ("counts side by side", "problems + 2 * problem, 1ull", "problems + problem, 1ull"),
    ("a slot in the count's place", "problem + 1, (", "problem, ("),
    ("no slot of a problem", "(u64)slot", "~0ull"),
]

CHECK_KERNEL = [
    ("guard one too far", "row < a.B", "row <= a.B"),
    ("no guard", "if (row < a.B) ", ""),
    ("the wrong size of a block", "blockDim.x", "warpSize"),
    ("the slot of the first row", "a.slots[row]", "a.slots[0]"),
    ("slots as they are", "checked(a.slots[row], a.capacity, a.audit)", "a.slots[row]"),
    ("stored at the start", "a.steppable[row]", "a.steppable[0]"),
    ("stored in the slots", "a.steppable[row] =", "const_cast<i64*>(a.slots)[row] ="),
    ("a slot of the batch's size", "a.slots[row], a.capacity", "a.slots[row], a.B"),
    ("another tick", "a.audit)", "Audit{a.audit.live, a.audit.claims, a.audit.tick + 1, a.audit.problems})"),
    ("a tick of 32 bits", "a.audit)", "Audit{a.audit.live, a.audit.claims, (unsigned)a.audit.tick, a.audit.problems})"),
]

STATE_ROWS_KERNEL = [
    ("guard one too far", "k < a.B", "k <= a.B"),
    ("no guard", "if (k < a.B) ", ""),
    ("the wrong size of a block", "blockDim.x", "warpSize"),
    ("the other row", "a.words[a.slots[k]] & 1", "~a.words[a.slots[k]] & 1"),
    ("the first row", "(i64)(a.words[a.slots[k]] & 1)", "0"),
    ("the whole word", "a.words[a.slots[k]] & 1", "a.words[a.slots[k]]"),
    ("another bit", "a.words[a.slots[k]] & 1", "a.words[a.slots[k]] >> 1 & 1"),
    ("the row's word", "a.words[a.slots[k]]", "a.words[k]"),
    ("the row's rows", "2 * a.slots[k]", "2 * k"),
    ("a row a slot", "2 * a.slots[k]", "a.slots[k]"),
    ("int offset of a slot", "2 * a.slots[k]", "(int)(2 * a.slots[k])"),
    ("stored at the start", "a.rows[k] =", "a.rows[0] ="),
    ("stored in the slots", "a.rows[k] =", "const_cast<i64*>(a.slots)[k] ="),
]

GATHER_KERNEL = [
    ("nothing is checked", "a.audit.live ? checked(", "!a.audit.live ? checked("),
    # Rows.
    ("row by the wrong size of a block", "blockIdx.x * blockDim.y", "blockIdx.x * blockDim.x"),
    ("slots beyond the batch", "row < a.B", "row <= a.B"),
    ("slots of all rows", "row < a.B", "row < a.M"),
    ("rows of the batch alone", "row < a.M", "row < a.B"),
    ("no guard of rows", "if (row < a.M) a.slot_of_row", "a.slot_of_row"),
    ("no barrier", "  __syncthreads();\n", ""),
    ("the slot of a block's first row", "slot_of[threadIdx.y];", "slot_of[0];"),
    ("slots of a block in one place", "slot_of[threadIdx.y] = slot", "slot_of[threadIdx.x] = slot"),
    ("slot 0 is none", "if (slot < 0) return", "if (slot <= 0) return"),
    ("rows that have no slot", "if (slot < 0) return", "if (row >= a.B) return"),
    ("is_first not checked for null", "a.is_first && a.is_first[row]", "a.is_first[row]"),
    ("the flag of the first row", "a.is_first[row]", "a.is_first[0]"),
    ("the flag of the slot", "a.is_first[row]", "a.is_first[slot]"),
    # x and the state.
    ("to the slot's row", "a.operand.at + row", "a.operand.at + slot"),
    ("rows of the operand without gaps", "row * a.operand.stride", "row * (a.X + a.H)"),
    ("x of the slot", "a.x.at[row", "a.x.at[slot"),
    ("x as if contiguous", "a.x.at[row * a.x.stride", "a.x.at[row * a.I"),
    ("x and its padding", "k < a.I", "k < a.X"),
    ("x only up to a block's threads", "k < a.I; k += blockDim.x", "k < a.I; k += a.I"),
    ("the state only up to a block's threads", "k < a.H / W; k += blockDim.x", "k < a.H / W; k += a.H"),
    ("the state at the end of a stride", "(to + a.X)", "(to + a.operand.stride - a.H)"),
    ("the state beyond its row", "k < a.H / W", "k <= a.H / W"),
    ("the state but for its end", "k < a.H / W", "k < a.H / W - 1"),
    ("the state beside x", "(to + a.X)", "(to + a.I)"),
    ("the state of the row", "a.all_h + slot * a.H", "a.all_h + row * a.H"),
    ("the state by the operand's stride", "a.all_h + slot * a.H", "a.all_h + slot * a.operand.stride"),
    ("the state of one", "of(0)", "of(1)"),
    ("an old state stays", "if (first) {\n      to_state", "if (false) {\n      to_state"),
    ("a new state alone", "to_state[k] = state[k]", "to_state[k] = zeros"),
    ("the state's first vector throughout", "= state[k]", "= state[0]"),
    ("c of every row", "  if (first) {\n    for", "  {\n    for"),
    ("c stays", "a.c[slot * a.C + k] = A(0)", "(void)k"),
    ("c of one", "A(0)", "A(1)"),
    ("c of the row", "a.c[slot", "a.c[row"),
    ("c by the state's columns", "a.c[slot * a.C", "a.c[slot * a.H"),
    ("c beyond its row", "k < a.C", "k <= a.C"),
    ("c only up to a block's threads", "k < a.C; k += blockDim.x", "k < a.C; k += a.C"),
    ("int offset of the operand", "row * a.operand.stride", "(int)(row * a.operand.stride)"),
    ("int offset of x", "a.x.at[row * a.x.stride + k]", "a.x.at[(int)(row * a.x.stride + k)]"),
    ("int offset of the state", "slot * a.H", "(int)(slot * a.H)"),
    ("int offset of c", "slot * a.C + k", "(int)(slot * a.C + k)"),
]

CLIP_KERNEL = [
    ("guard one too far", "k < a.count", "k <= a.count"),
    ("guard one short", "k < a.count", "k + 1 < a.count"),
    ("no guard", "if (k < a.count) ", ""),
    ("the wrong size of a block", "blockDim.x", "warpSize"),
    ("neighbours given one element", "widen(a.h[k])", "widen(a.h[k / 2 * 2])"),
    ("half the limit", "A(a.limit)", "A(a.limit / 2)"),
    ("stored at the start", "a.h[k] = Narrow", "a.h[0] = Narrow"),
]

SELECT_KERNEL = [
    ("guard of rows one too far", "row >= a.B", "row > a.B"),
    ("no guard of rows", "row >= a.B || ", ""),
    ("guard of columns one too far", "column >= a.K", "column > a.K"),
    ("no guard of columns", "column >= a.K || ", ""),
    ("the rows that are not marked", "!a.mask[row]", "a.mask[row]"),
    ("every row", " || !a.mask[row]", ""),
    ("the mask of the first row", "!a.mask[row]", "!a.mask[0]"),
    ("the mask by columns", "!a.mask[row]", "!a.mask[column]"),
    ("always zeros", "a.value.at ? a.value.at[row * a.value.stride + column] : ", ""),
    ("zeros of one", "of(0)", "of(1)"),
    ("the first row for all", "row * a.value.stride", "0 * a.value.stride"),
    ("rows of K elements", "a.value.at[row * a.value.stride", "a.value.at[row * a.K"),
    ("stored at the row's start", "a.out[row * a.K + column]", "a.out[row * a.K]"),
    ("stored a row on", "a.out[row * a.K", "a.out[(row + 1) * a.K"),
    (
        "rows and columns exchanged",
        "(i64)blockIdx.x * blockDim.y + threadIdx.y",
        "(i64)blockIdx.y * blockDim.y + threadIdx.x",
    ),
    (
        "int offset of value",
        "a.value.at[row * a.value.stride + column]",
        "a.value.at[int(row * a.value.stride + column)]",
    ),
    ("int offset of out", "a.out[row * a.K + column]", "a.out[int(row * a.K + column)]"),
]

ADD_KERNEL = [
    ("guard one too far", "k < a.count", "k <= a.count"),
    ("no guard", "if (k < a.count) ", ""),
    ("the difference", ") + widen(", ") - widen("),
    ("the other alone", "widen(a.out[k]) + widen(a.more[k])", "widen(a.more[k])"),
    ("itself twice", "widen(a.more[k])", "widen(a.out[k])"),
    ("the first of the others", "widen(a.more[k])", "widen(a.more[0])"),
    ("the wrong size of a block", "blockDim.x", "warpSize"),
    ("stored in the other", "if (k < a.count) a.out[k] =", "if (k < a.count) const_cast<T*>(a.more)[k] ="),
    ("stored at the start", "a.out[k] = Narrow", "a.out[0] = Narrow"),
]

INTERLEAVE_KERNEL = [
    # Elements of each thread.
    ("column guard one too far", "column >= a.columns) return;\n  const", "column > a.columns) return;\n  const"),
    ("no column guard", "  if (column >= a.columns) return;\n  const", "  const"),
    # The source of each weight.
    ("units 32 apart", "row / 32 * 8 + row % 8", "row / 32 * 32 + row % 8"),
    (
        "gates of a unit side by side",
        "unit = row / 32 * 8 + row % 8, gate = row % 32 / 8",
        "unit = row / 4, gate = row % 4",
    ),
    ("units of a gate in another order", "row / 32 * 8 + row % 8", "row / 32 * 8 + 7 - row % 8"),
    ("gates in another order", "gate = row % 32 / 8", "gate = 3 - row % 32 / 8"),
    ("not interleaved", "gate * a.N + unit", "row / 4"),
    ("a unit of the next gate", "unit < a.N &&", "unit <= a.N &&"),
    ("no guard of units", "unit < a.N && k", "k"),
    ("h a column late", "column >= a.KX", "column > a.KX"),
    ("h where x ends", "column >= a.KX", "column >= a.I"),
    ("columns of h from the row's start", "of_h ? column - a.KX : column", "column"),
    ("one column of x too many", "(of_h ? a.P : a.I)", "(of_h ? a.P : a.I + 1)"),
    ("one column of h too many", "(of_h ? a.P : a.I)", "(of_h ? a.P + 1 : a.I)"),
    ("as many columns of h as of x", "(of_h ? a.P : a.I)", "a.I"),
    ("x in h's place", "(of_h ? a.X : 0)", "0"),
    ("h right after x", "(of_h ? a.X : 0)", "(of_h ? a.I : 0)"),
    ("weights as if contiguous", "(gate * a.N + unit) * a.weight.stride", "(gate * a.N + unit) * (a.X + a.P)"),
    (
        "int offset of the weight",
        "(gate * a.N + unit) * a.weight.stride",
        "(int)((gate * a.N + unit) * a.weight.stride)",
        FAR_APART,
    ),
    (
        "int offset of where it goes",
        "a.KX : column;",
        "a.KX : column;\n  if (row * a.columns != (int)(row * a.columns)) return;",
        FAR_APART,
    ),
    (
        "padding as it was",
        "  a.to[row * a.columns + column] = value;\n}\n\n//",
        "  if (unit < a.N) a.to[row * a.columns + column] = value;\n}\n\n//",
    ),
    (
        "x's padding as it was",
        "  a.to[row * a.columns + column] = value;\n}\n\n//",
        "  if (of_h || k < a.I) a.to[row * a.columns + column] = value;\n}\n\n//",
    ),
    (
        "h's padding as it was",
        "  a.to[row * a.columns + column] = value;\n}\n\n//",
        "  if (!of_h || k < a.P) a.to[row * a.columns + column] = value;\n}\n\n//",
    ),
    # Rounding.
    ("numbers that are not rounded", "__uint_as_float(to_tf32(weight))", "weight", ROUNDING),
    (
        "numbers cut off",
        "__uint_as_float(to_tf32(weight))",
        "__uint_as_float(__float_as_uint(weight) & ~0x1fffu)",
        ROUNDING,
    ),
    ("bits as a number", "__uint_as_float(to_tf32(weight))", "(float)to_tf32(weight)", ROUNDING),
    ("the weights of cells not rounded", "kept<ROUND>(a.weight.at", "kept<false>(a.weight.at", ROUNDING),
    ("sums with zero", "    return weight;", "    return Narrow<T>::of(widen(weight) + 0);"),
    # A projection's.
    (
        "a projection's column guard one too far",
        "column >= a.columns) return;\n  T",
        "column > a.columns) return;\n  T",
        PAD,
    ),
    ("one row of a projection too many", "row < a.P &&", "row <= a.P &&", PAD),
    ("one column of a projection too many", "column < a.N)", "column <= a.N)", PAD),
    ("rows and columns of a projection exchanged", "row < a.P && column < a.N", "row < a.N && column < a.P", PAD),
    ("a projection as if contiguous", "row * a.projection.stride", "row * a.N", PAD),
    ("int offset of a projection", "row * a.projection.stride", "(int)(row * a.projection.stride)", FAR_APART),
    (
        "int offset of where a projection goes",
        "if (row < a.P &&",
        "if (row * a.columns != (int)(row * a.columns)) return;\n  if (row < a.P &&",
        FAR_APART,
    ),
    ("a projection's weights not rounded", "kept<ROUND>(a.projection.at", "kept<false>(a.projection.at", ROUNDING),
]

OVERFLOWING = "return exponential(x) / (A(1) + exponential(x))"
CLIP_OF_NAN = "x < limit ? (x > -limit ? x : -limit) : limit"
DOUBLE_OF_FLOAT = "double of(double x) { return float(x); }"
WIDENED_FLOAT = "double widen(double x) { return float(x); }"
DOUBLED = """Vector<T, W> whole;
  for (int k = 0; k < W; ++k) whole.at[k] = from[k & ~1];
  return whole;"""
ALPHA_AND_BETA = "alpha = A(of_bits(FUNCTION::ALPHA)), beta ="
SOFTPLUS = "add_rounded(x < A(0) ? A(0) : x, log_1_plus(exponential(-magnitude(x))))"
HARD_SIGMOID = "line < A(0) ? A(0) : line > A(1) ? A(1) : line"
ACTIVATIONS = [
    ("clip at the limit itself", "x > limit ? limit", "x >= limit ? limit", CLIP, same_bits_of_clip),
    ("sigmoid of the other sign", "x < A(0) ? e * small : small", "x < A(0) ? small : e * small"),
    ("sigmoid of x without its magnitude", "e = exponential(-magnitude(x))", "e = exponential(-x)"),
    ("sigmoid that overflows", "return x < A(0) ? e * small : small", OVERFLOWING),
    ("sigmoid of |x|", "return x < A(0) ? e * small : small", "return small"),
    ("relu loses NaN", "x < A(0) ? A(0) : x;", "x > A(0) ? x : A(0);"),
    ("relu for tanh", "KIND == TANH) return hyperbolic_tangent(x)", "KIND == TANH) return x"),
    ("softsign without a magnitude", "x / (A(1) + magnitude(x))", "x / (A(1) + x)"),
    ("elu by exp", "alpha * exponential_minus_1(x)", "alpha * exponential(x)"),
    ("elu without its alpha", "alpha * exponential_minus_1(x)", "exponential_minus_1(x)"),
    ("elu of the other sign", "KIND == ELU) return x > A(0)", "KIND == ELU) return x < A(0)"),
    ("elu loses accuracy near 0", "return expm1f(x)", "return expf(x) - 1.0f"),
    ("alpha and beta exchanged", ALPHA_AND_BETA, "beta = A(of_bits(FUNCTION::ALPHA)), alpha ="),
    ("softplus that overflows", SOFTPLUS, "log_1_plus(exponential(x))"),
    ("softplus without its line", SOFTPLUS, "log_1_plus(exponential(-magnitude(x)))"),
    ("softplus of the other sign", "x < A(0) ? A(0) : x, log", "x < A(0) ? x : A(0), log"),
    ("softplus by a logarithm of less", "return log1pf(x)", "return log1pf(x / 2)"),
    ("affine without beta", "return multiply_and_add(alpha, x, beta)", "return alpha * x"),
    ("leaky relu that does not leak", "? alpha * x : x", "? A(0) : x"),
    ("leaky relu of the other sign", "x < A(0) ? alpha * x", "x > A(0) ? alpha * x"),
    ("thresholded relu at 0", "x <= alpha ? A(0) : x", "x <= A(0) ? A(0) : x"),
    ("thresholded relu loses NaN", "x <= alpha ? A(0) : x", "x > alpha ? x : A(0)"),
    ("scaled tanh without its alpha", "return alpha * activate", "return activate"),
    ("scaled tanh without its beta", "(beta * x)", "(x)"),
    ("hard sigmoid from above alone", HARD_SIGMOID, "line > A(1) ? A(1) : line"),
    ("hard sigmoid from below alone", HARD_SIGMOID, "line < A(0) ? A(0) : line"),
    ("hard sigmoid loses NaN", HARD_SIGMOID, "line < A(1) ? (line > A(0) ? line : A(0)) : A(1)"),
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
    ("bits taken for a number", "__longlong_as_double((i64)bits)", "(double)bits"),
    ("double narrowed to float", "double of(double x) { return x; }", DOUBLE_OF_FLOAT, DOUBLE),
    ("double widened by float", "double widen(double x) { return x; }", WIDENED_FLOAT, DOUBLE),
    ("vectors loaded one element on", "Vector<T, W>*>(from)", "Vector<T, W>*>(from + 1)"),
    ("every other element, twice", "return *reinterpret_cast<const Vector<T, W>*>(from);", DOUBLED),
    ("vectors stored one element back", "Vector<T, W>*>(to) =", "Vector<T, W>*>(to - 1) ="),
    (
        "pairs stored one element back",
        "reinterpret_cast<unsigned*>(to) =",
        "reinterpret_cast<unsigned*>(to - 1) =",
        SMALL,
    ),
    (
        "the first of a pair stored alone",
        "*reinterpret_cast<unsigned*>(to) = *reinterpret_cast<const unsigned*>(&value)",
        "*to = value.at[0]",
        SMALL,
    ),
    ("vectors of twice the size", "T at[W];", "T at[2 * W];"),
    ("vectors of too large an alignment", "16 ? 16 : sizeof(T) * W", "16 ? 32 : 2 * sizeof(T) * W"),
]

CLEAR = "is_first[first_row + r] = 0;"
STEP_KERNEL = [
    # Flags, once all blocks have read them.
    ("readers of the first rows", "readers + blockIdx.x", "readers"),
    ("flags always cleared", "if (a.readers) clear_flags", "clear_flags"),
    ("flags not cleared", "    clear_read_flags();  // before", "    // before"),
    ("flags not cleared by a projection", "    }\n    clear_read_flags();\n", "    }\n", PROJECTS),
    # Blocks.
    ("rows of a block overlap", "(i64)blockIdx.x * Tile::ROWS", "(i64)blockIdx.x * (Tile::ROWS - 1)"),
    ("units of a block overlap", "(i64)blockIdx.y * Tile::UNITS", "(i64)blockIdx.y * Tile::UNITS / 2"),
    ("weights of the first units", "a.weight.at + 4 * first_unit * a.weight.stride", "a.weight.at"),
    ("weights by units", "4 * first_unit * a.weight.stride", "first_unit * a.weight.stride"),
    (
        "int offset of a block's weights",
        "4 * first_unit * a.weight.stride",
        "(int)(4 * first_unit * a.weight.stride)",
        OFFSETS,
    ),
    ("x and h of each other's length", "(int)a.I, (int)a.P", "(int)a.P, (int)a.I"),
    ("rows read before they are there", "  }\n  __syncthreads();\n\n  const", "  }\n\n  const"),
    ("weights not begun", "  if (!PROJECT) tile.begin(shared, operands(first_unit_of_block));", " "),
    ("weights begun for the first units", "operands(first_unit_of_block)", "operands(0)"),
    # Words.
    ("words flipped unasked", "a.rows.pool.flips && blockIdx.y == 0", "blockIdx.y == 0"),
    ("words not flipped", "a.rows.pool.flips && blockIdx.y == 0", "false"),
    (
        "words of the first rows flipped",
        "a.rows.pool.flips && blockIdx.y == 0",
        "a.rows.pool.flips && blockIdx.x == 0 && blockIdx.y == 0",
    ),
    (
        "words flipped by a block that may not be",
        "a.rows.pool.flips && blockIdx.y == 0",
        "a.rows.pool.flips && blockIdx.y == 1",
    ),
    # The output.
    ("m where a row takes no step", "if (row.out) {", "{"),
    ("m at the row's start", "store<W>(row.out + unit, h)", "store<W>(row.out, h)"),
    ("copies of a block's row", "write<IDLE>(first_row + r, unit", "write<IDLE>(r, unit"),
    ("the input added where a row skips", "h, row.out, a.last);", "h, true, a.last);"),
    # A projection in the same launch.
    ("no zeros beside m", "    clear<Tile::THREADS>(ms, projected.tiles() * Tile::ROWS * TILE_ROW);\n", "", PROJECTS),
    (
        "zeros in a part of m's tiles",
        "projected.tiles() * Tile::ROWS",
        "(projected.tiles() - 1) * Tile::ROWS",
        PROJECTS,
    ),
    ("m over the tiles", "shared + Tile::SHARED_BYTES", "shared", PROJECTS),
    ("m over the last tile", "shared + Tile::SHARED_BYTES", "shared + Tile::SHARED_BYTES - TILE_ROW", PROJECTS_MEDIUM),
    ("units staged over sums", "      __syncthreads();  // all are done with the tiles before\n", "", PROJECTS),
    ("m multiplied before it is there", "      __syncthreads();  // all of m is written, too\n", "", PROJECTS),
    ("units of a tile left out", "first_unit += Tile::UNITS", "first_unit += 2 * Tile::UNITS", PROJECTS),
    ("units of the first tile", "multiply(first_unit);\n      finish", "multiply(0);\n      finish", PROJECTS),
    ("m of the first tile's units", "(ms, r, (int)unit, m)", "(ms, r, (int)(unit - first_unit), m)", PROJECTS),
    ("columns of a tile left out", "first += 4 * Tile::UNITS", "first += 8 * Tile::UNITS", PROJECTS),
    (
        "a projection as long as h",
        "{rows, (int)a.cell.N, 0, a.projection.at",
        "{rows, (int)a.P, 0, a.projection.at",
        PROJECTS,
    ),
    ("a projection of x", "(shared, columns, ms)", "(shared, columns, shared)", PROJECTS),
    ("weights of the first columns", "      columns.weight += first * a.projection.stride;\n", "", PROJECTS),
    ("a limit of another", "count, a.proj_clip, a.copy", "count, a.proj_clip / 2, a.copy", PROJECTS),
]

PROJECT_KERNEL = [
    ("columns of a block overlap", "(i64)blockIdx.y * Tile::UNITS * 4", "(i64)blockIdx.y * Tile::UNITS * 2"),
    ("rows of a block overlap", "(i64)blockIdx.x * Tile::ROWS", "(i64)blockIdx.x * (Tile::ROWS - 1)"),
    ("h by the row", "all.out_by_slot = true", "all.out_by_slot = false"),
    ("words flipped unasked", "a.pool.flips && blockIdx.y == 0", "blockIdx.y == 0"),
    ("words not flipped", "a.pool.flips && blockIdx.y == 0", "false"),
    (
        "words of the first rows flipped",
        "a.pool.flips && blockIdx.y == 0",
        "a.pool.flips && blockIdx.x == 0 && blockIdx.y == 0",
    ),
    ("rows read before they are there", "  }\n  __syncthreads();\n", "  }\n"),
    ("an h beside m", "(int)a.N, 0,", "(int)a.N, (int)a.P,", PROJECT_LARGE),
    ("weights of the first columns", "a.weight.at + first_column * a.weight.stride", "a.weight.at"),
    ("m as long as h", "{rows, (int)a.N, 0", "{rows, (int)a.P, 0"),
    ("a limit of the wrong sign", "count, a.limit, a.copy", "count, -a.limit, a.copy"),
    ("copies of a block's row", "a.last, first_row, first_column", "a.last, 0, first_column"),
]

ADD_INPUT_OF_COPY = "    if (input.at && steps) copied = sum(h, load<W>(input.at + row * input.stride + column));\n"
COPIES = [
    ("copy not checked for null", "    if (!to.at) return;\n", ""),
    ("copy without the input", ADD_INPUT_OF_COPY, ""),
    ("input not checked for null", "input.at && steps", "steps"),
    ("the input of rows that skip", "input.at && steps", "input.at"),
    ("input by the stride of copy", "row * input.stride", "row * (to.stride + 1)"),
    ("input of the first row", "input.at + row * input.stride", "input.at"),
    ("copy of the first row", "to.at + row * to.stride", "to.at"),
    ("copy without its column", "to.at + row * to.stride + column", "to.at + row * to.stride"),
    ("int offset of input", "row * input.stride", "(int)(row * input.stride)", OFFSETS),
    ("int offset of copy", "row * to.stride", "(int)(row * to.stride)", OFFSETS),
    # As planned.cu uses them.
    ("copy not checked for null after a matmul", "    if (!to.at) return;\n", "", PLANNED),
    ("input not checked for null after a matmul", "input.at && steps", "steps", PLANNED),
    ("input by the stride of copy after a matmul", "row * input.stride", "row * to.stride", PLANNED),
    ("copy by the stride of input after a matmul", "row * to.stride", "row * input.stride", PLANNED),
    ("int offset of copy after a matmul", "row * to.stride", "(int)(row * to.stride)", PLANNED_HALF),
    ("int offset of input after a matmul", "row * input.stride", "(int)(row * input.stride)", PLANNED_HALF),
]

ONES_OF_BIAS = "for (int w = 0; w < W; ++w) bias[part][gate].at[w] = Narrow<T>::of(1);"
ONES_OF_C = "for (int w = 0; w < W; ++w) c[part][k].at[w] = A(1);"
TILE_EPILOGUE = [
    # Inputs.
    ("a bias where there is none", "bias[part][gate] = {};", ONES_OF_BIAS),
    ("bias not checked for null", "cell.bias && exists", "exists"),
    ("bias of units beyond the last", "cell.bias && exists", "cell.bias"),
    ("no bias", "if (cell.bias && exists) bias", "if (false) bias"),
    ("bias interleaved", "cell.bias + gate * cell.N + at", "cell.bias + gate + 4 * at"),
    ("bias of gate i", "cell.bias + gate * cell.N + at", "cell.bias + at"),
    ("inputs of a unit too many", "at < cell.N", "at <= cell.N"),
    ("inputs of another block", "at = first_unit + unit(tile, part)", "at = unit(tile, part)"),
    ("no load of peepholes", "if (PEEPHOLE && exists) peepholes", "if (!PEEPHOLE && exists) peepholes"),
    ("peepholes of units beyond the last", "if (PEEPHOLE && exists)", "if (PEEPHOLE)"),
    ("c of a reset is 1", "c[part][k] = {};", ONES_OF_C),
    ("c of rows of no block", "exists && r < count && rows", "exists && rows"),
    ("c of units beyond the last", "exists && r < count && rows", "r < count && rows"),
    ("c not checked for null", "r < count && rows[r].c)", "r < count)"),
    ("the new c read", "load<W>(rows[r].c + at)", "load<W>(rows[r].c_out + at)"),
    ("the first units of c read", "load<W>(rows[r].c + at)", "load<W>(rows[r].c)"),
    ("units of the next group", "return part * W / Tile::THREAD_UNITS", "return part", MEDIUM),
    ("the first of two units", "return part * W % Tile::THREAD_UNITS", "return 0"),
    # Units.
    ("unit guard one too far", "unit >= cell.N", "unit > cell.N"),
    ("no unit guard", "    if (unit >= cell.N) continue;\n", ""),
    (
        "row guard one too far",
        "if (r >= count) continue;\n      const Row",
        "if (r > count) continue;\n      const Row",
    ),
    ("no row guard", "      if (r >= count) continue;\n      const Row", "      const Row"),
    ("units of another block", "first_unit + inputs.unit(tile, part)", "inputs.unit(tile, part)"),
    ("sums of the first of two units", "inputs.in_group(part) + w)", "inputs.in_group(part))"),
    ("sums of a gate's neighbour", "group(part), gate, inputs", "group(part), gate ^ 1, inputs"),
    ("sums of the first group", "tile.sum(k, inputs.group(part)", "tile.sum(k, 0", LARGE),
    ("sums of the first row", "tile.sum(k, inputs", "tile.sum(0, inputs", LARGE),
    ("sums without a bias", " + A(widen(inputs.bias[part][gate].at[w]))", ""),
    ("the bias of the first units", "inputs.bias[part]", "inputs.bias[0]", LARGE),
    ("the peepholes of the first units", "inputs.peepholes[part]", "inputs.peepholes[0]", LARGE),
    ("the c of the first row", "inputs.c[part][k]", "inputs.c[part][0]", LARGE),
    ("the c of the first units", "inputs.c[part][k]", "inputs.c[0][k]", LARGE),
    ("rows without a slot step", "if (row.out) {", "if (true) {"),
    ("c not stored", "        store<W>(row.c_out + unit, c);\n", ""),
    ("double by approximations", "CLIP, Tile::FAST>", "CLIP, true>", SIMT_DOUBLE),
    ("a clip of the wrong sign", "[part], cell.clip)", "[part], -cell.clip)"),
    ("a skipped row's m is 1", "Narrow<T>::of(0)", "Narrow<T>::of(1)"),
    ("m of another row", "      keep(r, unit, m);", "      keep(k, unit, m);", MEDIUM),
    # Columns.
    ("columns side by side", "unit / 8 * 32 + gate * 8 + unit % 8", "gate * 8 + unit", PROJECT_LARGE),
    ("columns of gates", "gate * 8 + unit % 8", "gate + unit % 8 * 4", PROJECT),
    ("column guard one too far", "column >= P", "column > P", PROJECT),
    ("no column guard", "      if (column >= P) continue;\n", "", PROJECT),
    (
        "row guard of columns one too far",
        "if (r >= count) continue;\n        T*",
        "if (r > count) continue;\n        T*",
        PROJECT,
    ),
    ("no row guard of columns", "        if (r >= count) continue;\n        T*", "        T*", PROJECT),
    ("no clip", "clip(A(tile.sum(k, g, gate, e + w)), A(limit))", "A(tile.sum(k, g, gate, e + w))", PROJECT),
    ("columns of the first of two", "gate, e + w)), A(limit)", "gate, e)), A(limit)", PROJECT),
    ("a column's limit of the wrong sign", "A(limit)", "A(-limit)", PROJECT),
    ("a skipped row's copy is 1", ": A(0)", ": A(1)", PROJECT),
    ("h where a row takes no step", "        if (to) {", "        {", PROJECT),
    ("h at the row's start", "store<W>(to + column, h)", "store<W>(to, h)", PROJECT),
    (
        "columns copied to a block's row",
        "write<IDLE>(first_row + r, column, h, to, last)",
        "write<IDLE>(r, column, h, to, last)",
        PROJECT,
    ),
    ("the input of a skipped row's columns", "column, h, to, last)", "column, h, true, last)", PROJECT),
]

STEP_COUNT = "B - first_row < ROWS ? int(B - first_row) : ROWS"
NEW_WORD = "store_relaxed(of.pool.words + slot, 2 * (u64)of.pool.tick + !parity)"
COUNTED = "threadIdx.x == 0 ? arrive(readers, gridDim.y) : 0"
COUNTED_RELAXED = """threadIdx.x == 0 ? atomicAdd(readers, 1u) : 0;
    if (threadIdx.x == 0 && before == gridDim.y - 1) atomicExch(readers, 0u)"""
ROWS = [
    ("a flipped word taken for the old", "int(word & 1) ^ int(word >> 1 == tick)", "int(word & 1)"),
    ("parity of the tick", "int(word & 1) ^", "int(word >> 1 & 1) ^"),
    ("the tick in a word's lower bits", "word >> 1 == tick", "word == tick"),
    ("words of 32 bits that race", "load_relaxed(of.pool.words + slot)", "of.pool.words[slot]"),
    ("words flipped by a plain store", NEW_WORD, "of.pool.words[slot] = 2 * (u64)of.pool.tick + !parity"),
    ("words of the old parity", "of.pool.tick + !parity", "of.pool.tick + parity"),
    ("words of no tick", "2 * (u64)of.pool.tick + !parity", "(u64)!parity"),
    ("words always flipped", "if (flips) store", "store"),
    ("the word of the row", "load_relaxed(of.pool.words + slot)", "load_relaxed(of.pool.words + row)"),
    ("rows beyond the batch", "  if (row >= of.B) return found;\n", ""),
    ("rows one beyond the batch", "row >= of.B", "row > of.B"),
    ("slots not checked for null", "if (of.pool.slots) {", "if (true) {"),
    ("as many rows in every block", STEP_COUNT, "ROWS"),
    ("as many rows as there are", STEP_COUNT, "int(B - first_row)"),
    ("slot -1 steps", "slot < 0", "slot < -1"),
    ("slot 0 takes no step", "slot < 0", "slot <= 0"),
    ("the slot of the first row", "of.pool.slots[row]", "of.pool.slots[0]"),
    ("the other h read", "before = 2 * slot + parity", "before = 2 * slot + !parity"),
    ("the same h written", "after = 2 * slot + !parity", "after = 2 * slot + parity"),
    ("h of the slot's half", "before = 2 * slot + parity", "before = slot + parity"),
    ("is_first not checked for null", "of.is_first && of.is_first[row]", "of.is_first[row]"),
    ("the flag of the first row", "of.is_first && of.is_first[row]", "of.is_first && of.is_first[0]"),
    ("the flag of the slot", "of.is_first && of.is_first[row]", "of.is_first && of.is_first[slot]"),
    ("no resets", "of.is_first && of.is_first[row]", "false"),
    ("reset_h not checked for null", "if (of.reset_h.at) found", "found"),
    ("reset_c not checked for null", "if (of.reset_c.at) found", "found"),
    (
        "the old h of a reset",
        "    if (of.reset_h.at) found.h = of.reset_h.at + row *",
        "    if (of.h.at) found.h = of.h.at + row *",
    ),
    (
        "the old c of a reset",
        "    if (of.reset_c.at) found.c =",
        "    found.c = of.c.at + slot * of.c.stride;\n    if (false) found.c =",
    ),
    ("one reset_h for all", "row * of.reset_h.stride", "0 * of.reset_h.stride"),
    ("one reset_c for all", "row * of.reset_c.stride", "0 * of.reset_c.stride"),
    ("reset_h of the slot", "row * of.reset_h.stride", "slot * of.reset_h.stride"),
    ("reset_c by the stride of c", "row * of.reset_c.stride", "row * of.c.stride"),
    ("reset_h by the stride of h", "row * of.reset_h.stride", "row * of.h.stride"),
    ("x of the slot", "of.x.at + row", "of.x.at + slot"),
    ("x as if contiguous", "row * of.x.stride", "row * (of.x.stride - 1)"),
    ("h of the row", "of.h.at + before", "of.h.at + row"),
    ("c of the row", "of.c.at + slot", "of.c.at + row"),
    ("the new c of the row", "of.c_out.at + slot", "of.c_out.at + row"),
    ("the new c by the old one's stride", "slot * of.c_out.stride", "slot * (of.c.stride + 2)"),
    ("out by the slot", "of.out_by_slot ? after : row", "after"),
    ("out by the row", "of.out_by_slot ? after : row", "row"),
    ("int offset of x", "row * of.x.stride", "(int)(row * of.x.stride)", OFFSETS),
    ("int offset of h", "before * of.h.stride", "(int)(before * of.h.stride)", OFFSETS),
    ("int offset of c", "slot * of.c.stride", "(int)(slot * of.c.stride)", OFFSETS),
    ("int offset of the new c", "slot * of.c_out.stride", "(int)(slot * of.c_out.stride)", OFFSETS),
    ("int offset of reset_h", "row * of.reset_h.stride", "(int)(row * of.reset_h.stride)", OFFSETS),
    ("int offset of reset_c", "row * of.reset_c.stride", "(int)(row * of.reset_c.stride)", OFFSETS),
    ("int offset of out", "(of.out_by_slot ? after : row) *", "(int)(of.out_by_slot ? after : row) * (int)", OFFSETS),
    # Flags.
    ("flags cleared by all warps", "  if (threadIdx.x >= 32) return;\n", "", MEDIUM),
    ("no block is counted", "gridDim.y > 1", "false"),
    ("blocks counted without an order", COUNTED, COUNTED_RELAXED),
    ("every lane is counted", COUNTED, "arrive(readers, gridDim.y)"),
    ("lanes not ordered after the count", "    __syncwarp();  // a shuffle", "    // a shuffle"),
    ("a block too many is counted", "arrive(readers, gridDim.y)", "arrive(readers, gridDim.y + 1)"),
    ("flags cleared by every block", "    if (__shfl_sync(0xffffffff, before, 0) != gridDim.y - 1) return;\n", ""),
    ("flags cleared by the last but one", "!= gridDim.y - 1", "!= gridDim.y - 2"),
    ("flags never cleared", "!= gridDim.y - 1", "!= gridDim.y"),
    ("flags cleared after all blocks of rows", "!= gridDim.y - 1", "!= gridDim.x - 1"),
    ("flags of the first lane", "r += 32) is_first", "r += rows) is_first", MEDIUM),
    ("flags of rows beyond the batch", "r < rows && first_row + r < B", "r < rows"),
    ("flags of the first rows", CLEAR, "is_first[r] = 0;"),
    ("flags set", CLEAR, "is_first[first_row + r] = 1;"),
]

STAGING = [
    ("chunks swapped beyond their row", "(row & 2 | row >> 2 & 1)", "(row >> 1)"),
    (
        "chunks of weights not swapped",
        "to + place(first, row, chunk), from, CHUNK",
        "to + (first + row) * TILE_ROW + chunk * CHUNK, from, CHUNK",
    ),
    ("chunks of rows not swapped", "to + place(above, own, chunk)", "to + row * TILE_ROW + chunk * CHUNK"),
    ("chunks of later rows in the first", "return first * TILE_ROW + place", "return place"),
    (
        "chunks of single elements not swapped",
        "to + place(row, column / each)",
        "to + row * TILE_ROW + column / each * CHUNK",
    ),
    (
        "single elements without their column",
        "(to + place(row, column / each)) + column % each",
        "(to + place(row, column / each))",
    ),
    ("tiles of x but its last", "return (I + K - 1) / K", "return I / K"),
    ("tiles of h but its last", "(P + K - 1) / K; }", "P / K; }"),
    ("weights of the first tile", "tile * of.K + chunk", "chunk"),
    ("weights by bytes", "chunk * (CHUNK / (int)sizeof(T))", "chunk * CHUNK"),
    ("weights of half a chunk", "from, CHUNK, part", "from, CHUNK / 2, part"),
    ("a part without copies of rows", "k * parts / copies == at", "k * parts / copies == at + 1", WIDE),
    ("a part without copies of weights", "parts / 2) / copies", "parts) / copies", WIDE),
    ("weights that aren't wanted", "from, CHUNK, part.wanted", "from, CHUNK, true", WIDE),
    ("rows that aren't wanted", "                    part.wanted);", "                    true);", WIDE),
    ("int offset of weights", "(first + row) * of.weight_stride", "(first + row) * (int)of.weight_stride", OFFSETS),
    ("h from a tile on", "tile < of.x_tiles()", "tile <= of.x_tiles()"),
    ("h's tiles numbered from x on", "(in_x ? tile : tile - of.x_tiles())", "tile"),
    ("h as long as x", "in_x ? of.I : of.P", "of.I"),
    ("x in h's place", "in_x ? of.rows[row].x : of.rows[row].h;\n      const int", "of.rows[row].x;\n      const int"),
    ("rows not checked for null", "from ? length - column : 0", "length - column"),
    ("tails of rows not guarded", "left < each ? left : each", "each"),
    ("chunks beyond rows not guarded", "left < 0 ? 0 : left < each", "left < each"),
    ("rows beyond the tile", "      if (ROWS * CHUNKS % THREADS != 0 && row >= ROWS) break;\n", "", SIMT),
    ("chunks from the row's start", "from + column : nowhere", "from + first : nowhere"),
    ("as many bytes as elements", "count * (int)sizeof(T)", "count"),
    ("single elements of rows that are not", "from && first + column < length", "first + column < length"),
    ("single elements beyond a row", "first + column < length", "first + column <= length"),
    ("single elements from the row's start", "from[first + column]", "from[column]"),
    ("single elements of the first threads", "k < ROWS * of.K; k += THREADS", "k < ROWS * of.K; k += 2 * THREADS"),
    ("zeros a chunk too far apart", "at += THREADS * CHUNK", "at += 2 * THREADS * CHUNK", PROJECTS),
    ("zeros of the first threads", "at = threadIdx.x * CHUNK", "at = threadIdx.x * TILE_ROW", PROJECTS),
    (
        "m not swapped",
        "tile * ROWS * TILE_ROW + place(row, chunk)",
        "(tile * ROWS + row) * TILE_ROW + chunk * CHUNK",
        PROJECTS,
    ),
    ("m in the first tile", "tile * ROWS * TILE_ROW + place", "place", PROJECTS),
    ("m in the first elements of chunks", "to + column % each, values", "to, values", PROJECTS),
]

WAIT = "    copy_async_wait<Tile::STAGES - 2>();\n"
BARRIER = "    __syncthreads();  // all have copied this tile, and multiplied the one before\n"
STAGE = "    stage(tile + Tile::STAGES - 1);\n"
AHEAD_BARRIER = "    __syncthreads();  // all have copied this tile, and loaded the one before\n"
PIPELINE = [
    ("no wait", WAIT, ""),
    ("a wait of one too many in flight", "copy_async_wait<Tile::STAGES - 2>", "copy_async_wait<Tile::STAGES - 1>"),
    ("no barrier", BARRIER, ""),
    ("a barrier before the wait", WAIT + BARRIER, BARRIER + WAIT),
    ("a stage overwritten while others read", BARRIER + STAGE, STAGE + BARRIER),
    ("tiles that are staged one too far", STAGE, "    stage(tile + Tile::STAGES);\n"),
    ("a stage that is not the tile's", "to = shared + tile % Tile::STAGES", "to = shared + tile % (Tile::STAGES - 1)"),
    ("a stage too few at first", "STAGES - 1; ++tile) stage(", "STAGES - 2; ++tile) stage("),
    ("weights of a tile too few at first", "STAGES - 1; ++tile) {", "STAGES - 2; ++tile) {"),
    ("weights beyond the last tile at first", "tile < of.tiles()", "true"),
    (
        "weights of later tiles left out",
        "    stage(tile + Tile::STAGES - 1);",
        "    stage(tile + Tile::STAGES - 1, true);",
    ),
    ("weights of the first tile's stage", "shared + tile * Tile::STAGE_BYTES", "shared"),
    ("tiles beyond the last", "if (tile < tiles) {", "if (true) {"),
    ("the last tile left out", "tile < tiles; ++tile", "tile < tiles - 1; ++tile"),
    ("groups of copies without an end", "    copy_async_commit();\n", ""),
    ("weights over rows", "(stage + Tile::ROWS * TILE_ROW", "(stage + (Tile::ROWS - 1) * TILE_ROW"),
    ("m's first tile alone", "resident + tile * Tile::ROWS * TILE_ROW", "resident", PROJECTS_MEDIUM),
]
PIPELINE_AHEAD = [
    ("no wait", WAIT, ""),
    ("a wait of one too many in flight", "copy_async_wait<Tile::STAGES - 2>", "copy_async_wait<Tile::STAGES - 1>"),
    ("no barrier", AHEAD_BARRIER, ""),
    ("a barrier before the wait", WAIT + AHEAD_BARRIER, AHEAD_BARRIER + WAIT),
    ("copies before the operands are loaded", "stage(tile + Tile::STAGES - 1, k", "stage(tile + Tile::STAGES, k"),
    ("a stage that is not the tile's", "to = shared + tile % Tile::STAGES", "to = shared + tile % (Tile::STAGES - 1)"),
    ("a stage too few at first", "STAGES - 1; ++tile) stage(", "STAGES - 2; ++tile) stage("),
    ("weights of later tiles left out", "- 1, k, parts); }", "- 1, k, parts, true); }"),
    ("tiles beyond the last", "k, parts, tile < tiles}", "k, parts, true}"),
    ("groups of copies without an end", "    if (k + 1 == parts) copy_async_commit();\n", ""),
    ("a group of copies for each part", "if (k + 1 == parts) copy", "copy"),
    ("the last tile left out", "tile < tiles; ++tile", "tile < tiles - 1; ++tile"),
    ("the first half of the tile before", "      load(0, staged);\n", ""),
    ("the second half of the first tile", "      staged = wait(tile + 1);", "      wait(tile + 1);"),
]
TENSOR = [
    ("rows of a thread", "r * 8 + lane / 4", "r * 8 + lane % 8"),
    ("units of a thread", "8 + 2 * (lane % 4)", "8 + lane % 4"),
    ("sums of rows and units exchanged", "r % 2 * 2 + e", "r % 2 + 2 * e"),
    ("sums of the first rows", "sums[r / 2][g][gate]", "sums[0][g][gate]"),
    ("rows by the other warps", "warp / WARPS_C * M * 16", "warp % WARPS_C * M * 16"),
    ("groups by the other warps", "warp % WARPS_C * G", "warp / WARPS_C * G"),
    ("groups of warps overlap", "warp % WARPS_C * G", "warp % WARPS_C", LARGE),
    ("half of a tile's K", "step < 2", "step < 1"),
    ("a: rows of 8", "m * 16, lane % 16", "m * 16, lane % 8"),
    ("a: the same rows twice", "warp_row + m * 16, lane", "warp_row, lane"),
    ("a: the other half of K", "lane % 16, step * 2 + lane / 16", "lane % 16, step * 2 + 1 - lane / 16"),
    ("a: columns of another order", "lane % 16, step * 2 + lane / 16", "lane % 16, step * 2 + lane / 8 % 2"),
    ("a: the first step's columns", "lane % 16, step * 2 + lane / 16", "lane % 16, lane / 16"),
    ("b: wrong columns", "step * 2 + lane / 8 % 2", "step * 2 + lane / 16"),
    ("b: wrong rows", "first, lane / 16 * 8 + lane % 8", "first, lane / 8 % 2 * 8 + lane % 8"),
    ("b: gates of another group", "(warp_group + g) * 32 + gates * 8", "g * 32 + gates * 8"),
    ("b: the first gates", "* 32 + gates * 8", "* 32"),
    ("b: fragments exchanged", "{{both[0], both[1]}, {both[2], both[3]}}", "{{both[0], both[2]}, {both[1], both[3]}}"),
    ("fragments of the wrong rows", "a[k / 2], b[k % 2]", "a[k % 2], b[k % 2]"),
    ("fragments of the wrong gate", "a[k / 2], b[k % 2]", "a[k / 2], b[0]"),
    ("sums of the wrong gate", "[gates + k % 2]", "[gates]"),
    ("float32 cut off to TF32", "to_tf32(__uint_as_float(fragment[k]))", "fragment[k]", TF32),
    ("four stages where three fit", "STAGES = STAGES_", "STAGES = 4", MEDIUM_SHORT),
]

SMALL_WAIT = "      copy_async_wait<STAGES - 2>();\n"
SMALL_BARRIER = "      __syncwarp();  // all lanes have copied this tile, and multiplied the one before\n"
SMALL_STAGE = "      stage(pass + STAGES - 1);\n"
TENSOR_SMALL = [
    ("no wait", SMALL_WAIT, ""),
    ("a wait of one too many in flight", "copy_async_wait<STAGES - 2>", "copy_async_wait<STAGES - 1>"),
    ("no barrier", SMALL_BARRIER, ""),
    ("a barrier before the wait", SMALL_WAIT + SMALL_BARRIER, SMALL_BARRIER + SMALL_WAIT),
    ("a stage overwritten while others read", SMALL_BARRIER + SMALL_STAGE, SMALL_STAGE + SMALL_BARRIER),
    ("tiles that are staged one too far", SMALL_STAGE, "      stage(pass + STAGES);\n"),
    ("a stage that is not the tile's", "to = own + pass % STAGES", "to = own + pass % (STAGES - 1)"),
    ("weights of a tile too few at first", "pass < STAGES - 1; ++pass) {", "pass < STAGES - 2; ++pass) {"),
    ("weights beyond the last tile at first", "      if (pass * WARPS + warp >= of.tiles()) return;\n", ""),
    ("weights of one pipeline at first", "(warp * STAGES + pass) * STAGE_BYTES", "pass * STAGE_BYTES"),
    ("weights of all warps at first", "of, pass * WARPS + warp, threadIdx", "of, pass, threadIdx"),
    ("warps of one pipeline", "shared + warp * STAGES * STAGE_BYTES", "shared"),
    ("pipelines overlap", "shared + warp * STAGES * STAGE_BYTES", "shared + warp * (STAGES - 1) * STAGE_BYTES"),
    ("tiles of all warps", "const int tile = pass * WARPS + warp", "const int tile = pass + warp"),
    ("tiles beyond the last", "if (tile < tiles) {", "if (true) {"),
    (
        "tiles of the other warps left out",
        "pass * WARPS + warp < tiles; ++pass",
        "pass * WARPS + WARPS - 1 < tiles; ++pass",
    ),
    ("groups of copies without an end", "      copy_async_commit();\n", ""),
    (
        "sums over tiles that are read",
        "    __syncthreads();  // all are done with the tiles, which the sums now overwrite\n",
        "",
    ),
    ("sums not waited for", "    __syncthreads();\n    parts = to;", "    parts = to;"),
    ("half of a tile's K", "step < 2", "step < 1"),
    ("b: wrong columns", "batch * 8, lane % 8, lane / 8", "batch * 8, lane % 8, lane / 8 ^ 1"),
    ("b: the first 8 rows", "place(batch * 8, lane", "place(0, lane", "test_step and small32-__half"),
    (
        "b: fragments exchanged",
        "b[batch][2 * step], b[batch][2 * step + 1]",
        "b[batch][2 * step + 1], b[batch][2 * step]",
    ),
    ("b: fragments of the first step", "b[batch][2 * step], b[batch][2 * step + 1]", "b[batch][0], b[batch][1]"),
    ("a: wrong columns", "lane % 16, step * 2 + lane / 16", "lane % 16, step * 2 + lane / 8 % 2"),
    ("a: gates of the other half", "place(half * 16, lane", "place((1 - half) * 16, lane"),
    ("a: rows of 8", "half * 16, lane % 16", "half * 16, lane % 8"),
    ("sums of the first gates", "multiply_add<T>(sums[half][batch]", "multiply_add<T>(sums[0][batch]"),
    ("gates of another order", "half * 2 + k / 2", "half * 2 + k % 2"),
    ("units of a lane", "place_of(lane / 4)", "place_of(lane % 8)"),
    ("rows of a lane", "2 * (lane % 4) + k % 2", "lane % 4 + k % 2 * 4"),
    ("all warps' sums in one place", "to[warp][half", "to[0][half"),
    ("the last warp's sums left out", "warp < WARPS; ++warp) total", "warp < WARPS - 1; ++warp) total"),
    ("the first warp's sums twice", "total += parts[warp]", "total += parts[0]"),
    ("the first of two units", "parts[0][gate][place_of(unit(0) + e)]", "parts[0][gate][place_of(unit(0))]"),
    ("units in the place of others", "parts[0][gate][place_of(unit(0) + e)]", "parts[0][gate][unit(0) + e]"),
    ("rows of a thread", "row(int) const { return threadIdx.x / 4", "row(int) const { return threadIdx.x % ROWS"),
    ("units of a thread", "threadIdx.x % 4 * 2", "threadIdx.x % 4"),
    ("weights over rows", "to + WEIGHT_ROWS * TILE_ROW, of", "to + (WEIGHT_ROWS - 1) * TILE_ROW, of"),
    ("float32 cut off to TF32", "      round_to_operand<T>(b[batch]);\n", "", SMALL_TF32),
    ("four stages where three fit", "STAGES = STAGES_", "STAGES = 4", SMALL_SHORT),
]

SIMT_TILES = [
    ("rows of a thread", "% (32 / L) + 16 * r", "% (32 / L) + 8 * r", SIMT_LARGE),
    ("rows of neighbours", "threadIdx.x / 8 % (32 / L)", "threadIdx.x / 16 % (32 / L)"),
    ("groups of a thread", "(256 / L) + L / 8 * g", "(256 / L) + g", SIMT_LARGE),
    ("units of a thread", "group(g) * 8 + threadIdx.x % 8", "group(g) * 8 + threadIdx.x / 2 % 8"),
    ("sums of the first group", "return sums[r][g][gate]", "return sums[r][0][gate]"),
    ("sums of the first row", "return sums[r][g][gate]", "return sums[0][g][gate]", SIMT_LARGE),
    ("weights of the wrong gate", "* 32 + k % 4 * 8", "* 32 + k / 2 % 4 * 8"),
    ("weights of the wrong unit", "place(first, threadIdx.x % 8", "place(first, threadIdx.x / 2 % 8"),
    ("weights of the wrong group", "group(k / 4) * 32", "group(k % 2) * 32"),
    ("weights of another chunk", "threadIdx.x % 8, chunk)", "threadIdx.x % 8, chunk ^ 1)"),
    ("rows of another chunk", "row(0), chunk)", "row(0), chunk ^ 1)"),
    ("the first rows", "place(16 * r, row(0)", "place(0, row(0)", SIMT_LARGE),
    ("all but the last of K", "chunk < CHUNKS", "chunk < CHUNKS - 1"),
    ("all but the last of a chunk", "e < each", "e < each - 1"),
    ("sums in the wrong place", "T& sum = sums[r][k / 4][k % 4]", "T& sum = sums[r][k % 2][k / 2]"),
    ("four stages where three fit", "STAGES = STAGES_", "STAGES = 4", SIMT_SHORT),
]

# Instances with tanh where no sigmoid is a factor.
OTHER_GATES = "test_step and small32-__nv_bfloat16"
FAST_ACTIVATIONS = [
    ("fast sigmoid without its one", "reciprocal_approx(1 + e);", "reciprocal_approx(e);"),
    (
        "fast sigmoid of the other sign",
        "    e = exponential_approx(-magnitude(x))",
        "    e = exponential_approx(magnitude(x))",
    ),
    ("fast tanh of half", "exponential_approx(-2 * magnitude(x))", "exponential_approx(-magnitude(x))", OTHER_GATES),
    (
        "fast tanh without a sign",
        "copysignf((1 - e) * reciprocal_approx(1 + e), x)",
        "(1 - e) * reciprocal_approx(1 + e)",
        OTHER_GATES,
    ),
    ("fast product of a positive gate", "(x < 0 ? e : 1) * (1 - f)", "(1 - f)"),
    ("fast product of a negative gate", "(x < 0 ? e : 1) * (1 - f)", "e * (1 - f)"),
    ("fast product of the wrong sign", "(1 + f)), y)", "(1 + f)), x)"),
    ("fast product that overflows", "f = exponential_approx(-2 * mag", "f = exponential_approx(2 * mag"),
    ("fast product with half of tanh", "f = exponential_approx(-2 * mag", "f = exponential_approx(-mag"),
    ("fast product without one divisor", "reciprocal_approx((1 + e) * (1 + f))", "reciprocal_approx(1 + e)"),
    ("fast tanh whatever the activation", "KIND == TANH && FAST", "FAST"),
    (
        "fast activations without their sigmoid",
        "if (KIND == SIGMOID) return sigmoid<FAST>(x)",
        "if (KIND == SIGMOID) return x",
    ),
]

FAST_PRODUCTS = [
    ("fast products whatever the gates", "FAST && FUNCTIONS::Gate::KIND == SIGMOID &&", "FAST &&", OTHER_GATES),
    ("fast products whatever the function", " && FUNCTION::KIND == TANH) {", ") {", LARGE),
]

OTHER_PART_OF_H = "keep_part<PART>(A(widen(next.at[k])), A(widen(before.at[k])))"
PARTS_OF_PROJECT = "if (ZONEOUT) all.h = a.old_h, all.reset_h = a.reset_h;"
CLEAR_OF_PROJECT = "if (ZONEOUT && a.readers) clear_flags(a.is_first, a.readers + blockIdx.x"
# Zoneout: first the shared code, then each kernel's read of the old h.
ZONEOUT_OF_H = [
    ("no part of h stays", "if constexpr (PART == 0) {", "if constexpr (true) {"),
    ("the other part of h stays", "keep_part<PART>(A(widen(before.at[k])), A(widen(next.at[k])))", OTHER_PART_OF_H),
    ("the old h of a vector's first", "widen(before.at[k])", "widen(before.at[0])"),
    ("an old h of one", "before.at[k] = Narrow<T>::of(0)", "before.at[k] = Narrow<T>::of(1)"),
    ("the old h not checked for null", "if (old) before", "before"),
    ("the part of c for h", "ZONEOUT_H = ZONEOUT_H_BITS", "ZONEOUT_H = ZONEOUT_C_BITS"),
    ("the part of h for c", "ZONEOUT_C = ZONEOUT_C_BITS", "ZONEOUT_C = ZONEOUT_H_BITS"),
]
ZONEOUT_OF_STEP = [
    ("the part of c for h", "keep_h<FUNCTIONS::ZONEOUT_H>(row.h", "keep_h<FUNCTIONS::ZONEOUT_C>(row.h"),
    ("the first units of the old h", "row.h ? row.h + unit", "row.h ? row.h"),
    ("the new h in the old one's place", "row.h ? row.h + unit", "row.h ? row.out + unit"),
    (
        "a projection that keeps the part of c",
        "finish_columns<FUNCTIONS::ZONEOUT_H",
        "finish_columns<FUNCTIONS::ZONEOUT_C",
    ),
    ("a projection that keeps nothing", "columns<FUNCTIONS::ZONEOUT_H", "columns<0"),
]
ZONEOUT_OF_COLUMNS = [
    ("no part of the old h", "          h = keep_h<ZONEOUT>(rows[r].h ? rows[r].h + column : nullptr, h);\n", ""),
    ("the old h of a block's first row", "rows[r].h ? rows[r].h + column", "rows[0].h ? rows[0].h + column"),
    ("the first columns of the old h", "rows[r].h ? rows[r].h + column", "rows[r].h ? rows[r].h"),
]
ZONEOUT_OF_PROJECT = [
    ("m in the old h's place", PARTS_OF_PROJECT, PARTS_OF_PROJECT.replace("a.old_h", "a.m")),
    ("an old h without resets", "ZONEOUT || IDLE", "IDLE"),
    ("an old h that is reset to zeros", PARTS_OF_PROJECT, PARTS_OF_PROJECT.replace(", all.reset_h = a.reset_h", "")),
    ("no part of the old h", "finish_columns<ZONEOUT, W, IDLE>", "finish_columns<0, W, IDLE>"),
    ("flags not cleared", CLEAR_OF_PROJECT, CLEAR_OF_PROJECT.replace("ZONEOUT && a.readers", "false")),
    ("readers of the first rows", CLEAR_OF_PROJECT, CLEAR_OF_PROJECT.replace(" + blockIdx.x", "")),
]
ZONEOUT_OF_FINISH = [
    ("no part of the old h", "if (ZONEOUT) {", "if (false) {"),
    ("the other part", "(before, A(widen(output)))", "(A(widen(output)), before)"),
    ("the old h of the slot", "old.at[row", "old.at[slot"),
    ("the old h by the stride of h", "row * old.stride", "row * a.h.stride"),
    ("the old h in each column", "old.stride + column", "old.stride"),
    ("int offset of the old h", "[row * old.stride", "[(int)(row * old.stride)"),
]

FLAGS_KERNEL = [
    ("step guard one too far", "s >= a.S", "s > a.S"),
    ("row guard one too far", "row >= a.B", "row > a.B"),
    ("row by the wrong size of a block", "blockIdx.x * blockDim.y", "blockIdx.x * blockDim.x"),
    ("chunks that all begin at 0", "t = a.start + s", "t = s"),
    ("the step at a length", "t >= a.lengths", "t > a.lengths"),
    ("lengths of int", "t >= a.lengths[", "t >= (int)a.lengths["),
    ("lengths not checked for null", "a.lengths && ", ""),
    ("lengths as if contiguous", "row * a.lengths_stride", "row"),
    ("mask not checked for null", "!a.mask.at || ", ""),
    ("the mask inverted", "|| a.mask.of(t, row)", "|| !a.mask.of(t, row)"),
    ("booleans by the wrong stride", "t * step + k * row", "t * row + k * step"),
    ("booleans of the first step", "t * step + k * row", "k * row"),
    ("is_first not checked for null", "} else if (a.is_first.at) {", "} else {"),
    ("a direction that is always forward", "if (a.reverse) {", "if (false) {"),
    ("a direction that is always backward", "if (a.reverse) {", "if (true) {"),
    ("the mark of the same step backward", "do ++marked;\n      while", "while"),
    ("the mark of an idle step", "while (marked < a.T && !takes(a, marked, row));", "while (false);"),
    ("a search within the chunk", "while (marked < a.T &&", "while (marked < a.start + a.S &&"),
    ("a search beyond the end", "while (marked < a.T &&", "while (marked <= a.T &&"),
    ("the mark after the last step", "if (marked < a.T && a.is_first", "if (a.is_first"),
    ("a reset beside idle", "flags = FLAG_IDLE;", "flags = FLAG_IDLE | FLAG_RESET;"),
    ("idle rows without a flag", "flags = FLAG_IDLE;", "flags = 0;"),
    ("flags of the first step", "a.flags.at[s * a.flags.stride + row]", "a.flags.at[row]"),
    ("flags as if contiguous", "s * a.flags.stride", "s * a.B"),
]
FLAG_NUMBERS = [
    ("flags swapped", "FLAG_RESET = 1", "FLAG_RESET = 4", FLAGS),
    ("idle by another bit", "= 2 ", "= 1 ", FLAGS),
]
SEQUENCE_OF_POINTWISE = [
    ("idle rows step", "SEQUENCE && flags & FLAG_IDLE", "false"),
    ("reset rows are idle", "flags & FLAG_IDLE", "flags"),
    ("a reset before idle", "flags & FLAG_IDLE", "flags == FLAG_IDLE"),
    ("idle rows without a copy", "    a.copy.template repeat<W>(row, unit, a.last);\n", ""),
    ("what the first unit repeats", "repeat<W>(row, unit", "repeat<W>(row, 0"),
    ("no copy", "  if (SEQUENCE) a.copy.write(row, unit, output, true);\n", ""),
    ("a copy without the input", "unit, output, true)", "unit, output, false)"),
]
SEQUENCE_OF_COPY = [
    ("last not checked for null", "if (last.at) copied", "copied"),
    ("nothing repeated", "if (last.at) copied", "if (false) copied"),
    ("the first row repeated", "last.at + row * last.stride", "last.at"),
    ("last by the stride of copy", "row * last.stride", "row * to.stride"),
    ("the first columns repeated", "last.stride + column", "last.stride"),
    ("a copy not checked for null", "if (to.at) put(row", "put(row"),
    ("int offset of last", "row * last.stride", "(int)(row * last.stride)", AFTER_PRODUCT_FAR),
    ("idle rows get zeros", "if (IDLE && !steps) {", "if (false) {", IDLE_STEP),
    ("rows that step repeat, too", "if (IDLE && !steps) {", "if (IDLE) {", IDLE_STEP),
]
SEQUENCE_OF_FINISH = [
    ("idle rows have h", "flags & FLAG_IDLE ? -1 :", "false ? -1 :"),
    ("reset rows are idle", "flags & FLAG_IDLE ? -1", "flags ? -1"),
    ("flags not checked for null", "SEQUENCE && a.flags ? a", "SEQUENCE ? a"),
    ("no resets", "flags ? a.reset_h : a.old_h", "a.old_h"),
    ("reset_h not checked for null", "flags && !old.at ? A(0) : ", ""),
    ("nothing repeated", "} else if (SEQUENCE && a.last.at) {", "} else if (false) {"),
    ("last not checked for null", "SEQUENCE && a.last.at", "SEQUENCE"),
    ("last by the stride of copy", "row * a.last.stride", "row * a.copy.to.stride"),
    ("int offset of last", "row * a.last.stride", "(int)(row * a.last.stride)", END_FAR),
]
SEQUENCE_OF_STEP = [
    ("idle rows step", "row_of<IDLE>(a.rows", "row_of<false>(a.rows"),
    ("idle rows' h not copied", "  if (IDLE) carry_idle", "  if (false) carry_idle"),
    ("as many columns of h as units", "a.next_h, a.P)", "a.next_h, a.cell.N)"),
    ("the h of idle rows to m", "a.rows.h, a.next_h", "a.rows.h, a.rows.out"),
    ("zeros for idle rows", "a.copy.template write<IDLE>", "a.copy.template write<false>"),
    ("a projection with zeros for idle rows", "ZONEOUT_H, W, IDLE>", "ZONEOUT_H, W, false>"),
]
SEQUENCE_OF_ROWS = [
    ("reset rows are idle", "if (IDLE && of.is_first[row] & FLAG_IDLE)", "if (IDLE && of.is_first[row])"),
    ("a reset before idle", "of.is_first[row] & FLAG_IDLE)", "of.is_first[row] == FLAG_IDLE)"),
    ("all rows carried", "    if (rows[r].out) continue;\n", ""),
    ("rows of the first warp carried", "r += THREADS / 32", "r += THREADS"),
    ("rows beyond the batch carried", "r = threadIdx.x / 32; r < count", "r = threadIdx.x / 32; r <= count"),
    ("the first rows carried", "const i64 row = first_row + r;\n    for", "const i64 row = r;\n    for"),
    ("the first columns carried", "k < P; k += (i64)gridDim.y * 32", "k < 32; k += (i64)gridDim.y * 32"),
    ("columns of a block carried", "k += (i64)gridDim.y * 32", "k += P"),
    ("h carried by the stride of next", "h.at[row * h.stride", "h.at[row * next.stride"),
    ("next by the stride of h", "next.at[row * next.stride", "next.at[row * h.stride"),
]
SEQUENCE_OF_PROJECT = [
    ("idle rows step", "row_of<IDLE>(all", "row_of<false>(all"),
    ("flags not read", "ZONEOUT || IDLE", "ZONEOUT"),
    ("zeros for idle rows", "ZONEOUT, W, IDLE>", "ZONEOUT, W, false>"),
]

GATES_KERNEL = [
    ("a row beyond the last", "first_row + r < a.B", "first_row + r <= a.B"),
    ("a stored row beyond the last", "row >= a.B", "row > a.B"),
    ("a unit beyond the last", "unit >= a.N", "unit > a.N"),
    ("rows of the first block", "(first_row + r) * a.x.stride", "r * a.x.stride"),
    ("weights of the first block", "a.weight.at + 4 * first_unit * a.weight.stride", "a.weight.at"),
    (
        "gates of the first of two units",
        "sums.at[gate] = tile.sum(k, group, gate, e)",
        "sums.at[gate] = tile.sum(k, group, gate, 0)",
    ),
    ("units of the first group", "tile.unit(group) + e", "tile.unit(0) + e", GATES_LARGE),
    ("gates of the first group", "tile.sum(k, group, gate", "tile.sum(k, 0, gate", GATES_LARGE),
    ("no barrier after the rows", "  __syncthreads();\n  tile.template", "  tile.template"),
]

SCAN_FLAGS = [
    ("too few steps kept", "KEPT = 4", "KEPT = 2"),
    ("of another row", "*at(step, threadIdx.x) = flags", "*at(step, threadIdx.x ^ 1) = flags"),
    ("of another step", "load<2>(at(step, row))", "load<2>(at(step + 1, row))"),
]

SCAN_GATES = [
    ("a row beyond the last", "batch * 8 + row < count", "batch * 8 + row <= count"),
    ("a unit beyond the last", "unit_copied() < N", "unit_copied() <= N"),
    ("gates of another unit", "Tile::unit() % ROW + e", "Tile::unit() % ROW + 1 - e"),
    ("gates f and g swapped", "sums[e][gate / 2][gate % 2 * 2 + r]", "sums[e][gate % 2][gate / 2 * 2 + r]"),
    ("every batch copies the first rows", "(i64)(batch * 8 + k * 2) * stride", "(i64)(k * 2) * stride", SCAN_ROWS),
]

SCAN_TILE = [
    ("units of a warp overlap", "WARP_UNITS + threadIdx.x % 32 / 4 * 2", "8 + threadIdx.x % 32 / 4 * 2"),
    ("weights of the other unit", "const int of = unit() + k / 2, gate", "const int of = unit() + 1 - k / 2, gate"),
    ("halves of K swapped", "at = step * 8 + word / 2 * 4", "at = step * 8 + (1 - word / 2) * 4"),
    ("zeros in the last tile", "return step / 2 < tiles || whole ?", "return step / 2 < tiles ?"),
    ("weights past the last tile", "|| whole ?", "|| true ?", "test_scan_has and float-6"),
    (
        "the first rows for all",
        "h + tile * ROWS * TILE_ROW + place(slot(batch * 8 + lane % 8)",
        "h + tile * ROWS * TILE_ROW + place(slot(lane % 8)",
        SCAN_ROWS,
    ),
    ("h not rounded", "      round_to_operand<T>(b);\n", "", SCAN_TF32),
    ("others of one step", "(((step - KEPT) * 4 + k)", "(k", SCAN_TF32_LARGE),
    ("weights of h past the last column", "(K + EACH - 1) / EACH", "K_TILES", "test_scan_projects and wider"),
    ("a projection of the first column", "(unit() + word % 2) * from", "unit() * from", SCAN_PROJECTS),
    ("a projection of one step", "(step * THREADS + threadIdx.x)", "threadIdx.x", SCAN_PROJECTS),
    (
        "the first rows of m",
        "m + tile * ROWS * TILE_ROW + place(slot(batch * 8 + lane % 8)",
        "m + tile * ROWS * TILE_ROW + place(slot(lane % 8)",
        SCAN_PROJECTS_MORE,
    ),
]

SCAN_KERNEL = [
    ("a buffer reused one step early", "hs + (step + 1) % 2 * Tile::H_BYTES", "hs + step % 2 * Tile::H_BYTES"),
    ("a reset one step late", "&& of_next.at[r] == FLAG_RESET;", "&& of_now.at[r] == FLAG_RESET;"),
    ("a reset after the last step", "step >= steps) return 0;", "step >= steps) return FLAG_RESET;"),
    (
        "a chunk forgets c",
        "      c[r] = load_units<W>(row_at(resets ? d.reset_c : d.c, at, unit), there);\n",
        "      c[r] = load_units<W>(row_at(d.reset_c, at, unit), there);\n",
        SCAN_CHUNKS,
    ),
    ("a chunk forgets h", "row_at(resets ? d.reset_h : d.h, at, unit)", "row_at(d.reset_h, at, unit)", SCAN_CHUNKS),
    ("a chunk leaves the h before the last", "hs + steps % 2 * Tile::H_BYTES", "hs + (steps + 1) % 2 * Tile::H_BYTES"),
    ("an idle row steps c", "          c[r] = select(idle, before, c[r]);\n", ""),
    ("an idle row steps h", "        h = select(idle, load<2>(Tile::own(now, row)), h);\n", ""),
    ("an idle row has an output", "output = select(idle, instead, output);", "", SCAN),
    ("no barrier after a step", "    __syncthreads();  // all of h", "    __syncwarp();  // all of h"),
    ("no wait for copies", "copy_async_wait<BATCHES - 1>();", ""),
    ("copies while lanes read", "      __syncwarp();  // all lanes have read it\n", ""),
    ("lanes read while others copy", "      __syncwarp();  // all lanes have copied x's part\n", ""),
    ("wait for the wrong batch", "copy_async_wait<BATCHES - 1>", "copy_async_wait<BATCHES>"),
    ("no group for missing rows", "        copy_async_commit();\n        continue;", "        continue;", SCAN_ROWS),
    ("c of the first rows for all", "of + ((batch * 2 + r) * Tile::THREADS", "of + (r * Tile::THREADS", SCAN_ROWS),
    ("the bias of one unit", "load<4>(bias + 4 * (unit + e))", "load<4>(bias + 4 * unit)"),
    ("both directions are the first", "a.direction(blockIdx.y)", "a.direction(0)", SCAN_DIRECTIONS),
    ("the backward direction runs forwards", "way = d.reverse ? -1 : 1", "way = 1", SCAN_DIRECTIONS),
    ("a row beyond the last", "if (row < count) store_units", "if (row <= count) store_units"),
    ("no residual input", "d.input.at ? sum(h, more) : h", "h"),
    (
        "a projection reset one step late",
        "FLAG_IDLE, of_next.at[r] ==",
        "FLAG_IDLE, of_now.at[r] ==",
        SCAN_PROJECTS_MORE,
    ),
    ("no barrier after m", "      __syncthreads();  // all of m", "      __syncwarp();  // all of m", SCAN_PROJECTS),
    ("no clip of the projection", "clip(sums[2 * e + r], A(d.proj_clip))", "sums[2 * e + r]", SCAN_PROJECTS),
    ("the columns of the other row", "sums[2 * e + r]", "sums[2 * e + 1 - r]", SCAN_PROJECTS),
    ("h as wide as m", "P = Tile::PROJECTS ? (int)d.P : N", "P = N", SCAN_PROJECTS),
    (
        "m as wide as h",
        "store_units<W>(Tile::own(ms, row), m, exist)",
        "store_units<W>(Tile::own(ms, row), m, columns)",
        SCAN_PROJECTS,
    ),
    ("m not cleared", "  if (Tile::PROJECTS) clear<Tile::THREADS>(ms, Tile::H_BYTES);\n", "", SCAN_PROJECTS),
    (
        "rows of a projection idle too late",
        "of_now.at[r] & FLAG_IDLE, of_next",
        "of_next.at[r] & FLAG_IDLE, of_next",
        SCAN_PROJECTS_MORE,
    ),
    ("a last output of the step before", "if (FLAGS == LAST) store<2>(own(lasts, batch, r), output);", ""),
]

MUTATIONS = [
    *(Mutation("sequence_flags.cu", *row, tests=FLAGS) for row in FLAGS_KERNEL),
    *(Mutation("flags.cuh", *row) for row in FLAG_NUMBERS),
    *(
        Mutation(file, f"in a sequence: {what}", old, new, *tests or [usual])
        for file, usual, rows in (
            ("pointwise.cu", AFTER_PRODUCT, SEQUENCE_OF_POINTWISE),
            ("cell.cuh", AFTER_PRODUCT, SEQUENCE_OF_COPY),
            ("finish.cu", END, SEQUENCE_OF_FINISH),
            ("step.cu", IDLE_STEP, SEQUENCE_OF_STEP),
            ("rows.cuh", IDLE_STEP, SEQUENCE_OF_ROWS),
            ("project.cu", IDLE_PROJECTION, SEQUENCE_OF_PROJECT),
        )
        for what, old, new, *tests in rows
    ),
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
    *(Mutation("slots.cuh", *row, tests=CHECK) for row in SLOTS),
    *(Mutation("check.cu", *row, tests=CHECK) for row in CHECK_KERNEL),
    *(Mutation("state_rows.cu", *row, tests=STATE_ROWS) for row in STATE_ROWS_KERNEL),
    *(Mutation("step.cu", what, old, new, *tests or [SMALL]) for what, old, new, *tests in STEP_KERNEL),
    *(Mutation("project.cu", what, old, new, *tests or [PROJECT]) for what, old, new, *tests in PROJECT_KERNEL),
    *(Mutation("cell.cuh", what, old, new, *tests or [SMALL]) for what, old, new, *tests in COPIES),
    *(Mutation("tile_epilogue.cuh", what, old, new, *tests or [SMALL]) for what, old, new, *tests in TILE_EPILOGUE),
    *(Mutation("cell.cuh", f"zoneout: {what}", old, new, ZONEOUT_STEP) for what, old, new in ZONEOUT_OF_H),
    *(Mutation("step.cu", f"zoneout: {what}", old, new, ZONEOUT_STEP) for what, old, new in ZONEOUT_OF_STEP),
    *(
        Mutation("tile_epilogue.cuh", f"zoneout: {what}", old, new, ZONEOUT_PROJECT)
        for what, old, new in ZONEOUT_OF_COLUMNS
    ),
    *(Mutation("project.cu", f"zoneout: {what}", old, new, ZONEOUT_PROJECT) for what, old, new in ZONEOUT_OF_PROJECT),
    *(Mutation("finish.cu", f"zoneout: {what}", old, new, ZONEOUT_FINISH) for what, old, new in ZONEOUT_OF_FINISH),
    *(Mutation("rows.cuh", what, old, new, *tests or [SMALL]) for what, old, new, *tests in ROWS),
    *(Mutation("staging.cuh", what, old, new, *tests or [SMALL]) for what, old, new, *tests in STAGING),
    *(Mutation("pipeline.cuh", what, old, new, *tests or [MEDIUM]) for what, old, new, *tests in PIPELINE),
    *(Mutation("pipeline_ahead.cuh", what, old, new, *tests or [WIDE]) for what, old, new, *tests in PIPELINE_AHEAD),
    *(Mutation("tensor.cuh", what, old, new, *tests or [MEDIUM]) for what, old, new, *tests in TENSOR),
    *(Mutation("tensor_small.cuh", what, old, new, *tests or [SMALL]) for what, old, new, *tests in TENSOR_SMALL),
    *(Mutation("simt.cuh", what, old, new, *tests or [SIMT]) for what, old, new, *tests in SIMT_TILES),
    *(Mutation("activations.cuh", what, old, new, *tests or [LARGE]) for what, old, new, *tests in FAST_ACTIVATIONS),
    *(Mutation("cell.cuh", what, old, new, tests=tests) for what, old, new, tests in FAST_PRODUCTS),
    *(
        Mutation("interleave.cu", what, old, new, *tests or [INTERLEAVE])
        for what, old, new, *tests in INTERLEAVE_KERNEL
    ),
    *(Mutation("gates.cu", what, old, new, *tests or [GATES]) for what, old, new, *tests in GATES_KERNEL),
    *(Mutation("scan_flags.cuh", what, old, new, *tests or [SCAN]) for what, old, new, *tests in SCAN_FLAGS),
    *(Mutation("scan_gates.cuh", what, old, new, *tests or [SCAN]) for what, old, new, *tests in SCAN_GATES),
    *(Mutation("scan_tile.cuh", what, old, new, *tests or [SCAN]) for what, old, new, *tests in SCAN_TILE),
    *(Mutation("scan.cu", what, old, new, *tests or [SCAN]) for what, old, new, *tests in SCAN_KERNEL),
]


@contextmanager
def mutated(mutation: Mutation | None) -> Iterator[Path]:
    """Yield a copy of the kernels' folder, with the mistake in it, if any."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "kernels"
        copy.mkdir()
        for file in KERNELS.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        if mutation is not None:
            (copy / mutation.file).write_text(mutation.applied(), encoding="utf-8")
        yield copy


def first_failure(kernels: Path, tests: str) -> str | None:
    """Return the message of the first of these tests to fail on a folder of kernels, or None if all pass."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-m",
        "",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "--tb=no",
        "-k",
        tests,
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, *map(str, TESTS)],
        cwd=ROOT,
        env=environment
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


def outcome(mutation: Mutation) -> Outcome:
    """Plant one mistake, and return how it was found."""
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
        os.environ["EMULATION_CACHE"] = cache  # these libraries are of no further use
        with mutated(None) as kernels:
            failure = first_failure(kernels, "test")
        if failure is not None:
            print(f"The tests fail without a mistake: {failure}")
            return 1
        chosen = [mutation for mutation in MUTATIONS if words in str(mutation)]
        not_found = missed(outcome, chosen)
    equivalent = sum(mutation.shown_equivalent is not None for mutation in chosen)
    print(f"{equivalent} of them change no result")
    return 1 if not_found else 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
