"""support/step_code.py finds which of its facts are not true of a program."""

import re

import ml_dtypes
import numpy as np
import pytest

from fusedlstm.backends.cuda import tiles

from support import sass, step_code

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def step(pairs):
    """Return the instructions of a step that the facts are about, for some pairs of units of a thread."""
    stores = ["ST.E.64 desc[UR10][R28.64], R26", "@P0 ST.E desc[UR10][R26.64], R23", "STG.E desc[UR10][R24.64], R23"]
    return "\n".join(
        [
            *("LDGSTS.E.BYPASS.128 [R11], desc[UR10][R26.64]", "MEMBAR.ALL.GPU"),
            *(["@P0 LD.E.64 R24, desc[UR10][R26.64]"] * pairs + ["MUFU.EX2 R1, R2"] * 16 * pairs),
            *(stores * pairs),
            "EXIT",
        ]
    )


GOOD = step(4)  # a thread of TENSOR_MEDIUM has 2 units in each of 4 rows
COPY, BARRIER = "LDGSTS.E.BYPASS.128 [R11], desc[UR10][R26.64]\n", "BAR.SYNC.DEFER_BLOCKING 0x0\n"
LOOP = f".L_x_2:\nHMMA.16816.F32.BF16 R4, R8, R12, R4\n{COPY}{BARRIER}LDSM.16.M88.4 R8, [R3]\n@P1 BRA `(.L_x_2)\n"


def program(lines):
    """Return the program of lines as a disassembler writes them. Labels end in a colon."""
    numbered = [
        line if line.endswith(":") else f"        /*{k:04x}*/ {line} ;" for k, line in enumerate(lines.split("\n"))
    ]
    return sass.parsed("\n".join(numbered))


def complaints(lines, tile=tiles.TENSOR_MEDIUM):
    return step_code.complaints(program(lines), tile, BFLOAT16)


def test_good_code_has_no_complaints():
    assert complaints(GOOD) == set()
    assert complaints(step(16).replace("MEMBAR", f"{LOOP}MEMBAR"), tiles.TENSOR_WIDE) == set()


def test_copies_before_products_are_found():
    loop = LOOP.replace(COPY + BARRIER, BARRIER + COPY)
    assert complaints(step(16).replace("MEMBAR", f"{loop}MEMBAR"), tiles.TENSOR_WIDE) == {"products precede copies"}
    assert complaints(GOOD.replace("MEMBAR", f"{loop}MEMBAR")) == set()  # neighbours multiply in the meantime


LOAD, STORE = "@P0 LD.E.64 R24, desc[UR10][R26.64]", "STG.E desc[UR10][R24.64], R23"
PLANTED = {
    "a fence first": (r"\A", "MEMBAR.SC.GPU\n", "copies begin before fences"),
    "a load last": (rf"{re.escape(LOAD)}\n((?s:.*))EXIT", rf"\1{LOAD}\nEXIT", "c is loaded before stores"),
    "a loop": (
        rf"({re.escape(LOAD)}\n)((?s:.*))EXIT",
        r".L_x_1:\n\1\2@P1 BRA `(.L_x_1)\nEXIT",
        "c is loaded before stores",
    ),
    "halves of a pair": (r"STG\.E ", "STG.E.U16 ", "pairs are stored whole"),
    "one function more": (r"\A", "MUFU.RCP R1, R2\n", "special functions are few"),
    "a spill": (r"\A", "STL [R1], R2\n", "no local memory"),
}


@pytest.mark.parametrize(("old", "new", "fact"), PLANTED.values(), ids=PLANTED)
def test_planted_code_has_one_complaint(old, new, fact):
    lines = re.sub(old, new, GOOD, count=1)
    assert lines != GOOD
    assert complaints(lines) == {fact}


def test_a_missing_load_is_noticed():
    with pytest.raises(AssertionError):
        complaints(GOOD.replace(LOAD, "NOP", 1))


def test_flow_of_a_program():
    """A branch may have its condition as a predicate or as an operand. Nothing follows an unconditional EXIT."""
    found = program(
        ".L_x_0:\nNOP\n@P0 BRA `(.L_x_1)\nBRA P2, `(.L_x_0)\nBRA `(.L_x_0)\n.L_x_1:\nBSYNC B0\n@P1 EXIT\nEXIT"
    )
    assert [each.next for each in found] == [(1,), (4, 2), (0, 3), (0,), (5,), (6,), ()]
    assert sass.reachable(found, [4]) == {5, 6}
    assert sass.reachable(found, [2]) == {0, 1, 2, 3, 4, 5, 6}
