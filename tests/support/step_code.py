"""Facts about the machine code of lstm_step, for every tile and architecture. Steps take longer if one isn't true."""

import re
from collections import Counter

from fusedlstm.backends.cuda import tiles

from support import sass

# Accesses through a row's pointers, which come from shared memory, are generic: to c and h. Others are global.
_LOAD_OF_C = re.compile(r"LD\.E(\.64|\.128)?")
_STORE_OF_RESULT = re.compile(r"(ST|STG)\.E(\.U16|\.64|\.128)?")
# The number of the hardware's special functions, by bytes of a dtype and whether tensor cores multiply. First those of
# each unit: it has three sigmoids and two tanh. In float each has an exponential and a reciprocal. Then those in rare
# cases of the exact functions, whose code all units share.
SPECIAL_FUNCTIONS = {(2, True): (8, 0), (4, True): (8, 0), (4, False): (10, 2), (8, False): (7, 2)}


def complaints(program, tile, dtype):
    """Return the facts that are not true of a step with all options, aligned rows and the widest vectors."""
    return {fact for fact, holds in _FACTS.items() if not holds(program, tile, dtype)}


def _copies_begin_before_fences(program, *_):
    """The first copy of an operand is queued before anything waits for a fence."""
    names = [each.opcode.partition(".")[0] for each in program]
    return "MEMBAR" in names and names.index("LDGSTS") < names.index("MEMBAR")


def _c_is_loaded_before_stores(program, tile, dtype):
    """No load of c waits for a store. Every row's c is loaded."""
    loads, stores = (
        {number for number, each in enumerate(program) if pattern.fullmatch(each.opcode)}
        for pattern in (_LOAD_OF_C, _STORE_OF_RESULT)
    )
    assert len(loads) == units_of_a_thread(tile) // (1 + tile.pairs), Counter(each.opcode for each in program)
    assert stores
    return not loads & sass.reachable(program, stores)


def _pairs_are_stored_whole(program, tile, dtype):
    """A thread stores two units of 16 bits at once."""
    return not any(re.match(r"(ST|STG|STS)\b.*\.U16", each.opcode) for each in program)


def _has_few_special_functions(program, tile, dtype):
    """A unit takes a fixed number of the hardware's functions.

    For newer architectures, the compiler writes some epilogues twice: with and without a copied output.
    """
    of_unit, shared = SPECIAL_FUNCTIONS[dtype.itemsize, tile.pairs]
    found = sum(each.opcode.startswith("MUFU") for each in program) - shared
    return found in {copies * of_unit * units_of_a_thread(tile) for copies in (1, 2)}


def _has_no_local_memory(program, *_):
    """Registers are neither spilled nor indexed."""
    return not {each.opcode.partition(".")[0] for each in program} & {"LDL", "STL"}


def _products_precede_copies(program, tile, _):
    """After the barrier of a K tile, a block that is alone on a multiprocessor multiplies before it queues copies."""
    if tile != tiles.TENSOR_WIDE:
        return True
    barriers = [number for number, each in enumerate(program) if each.opcode.startswith("BAR")]
    waiting = [number for number in barriers if number in sass.reachable(program, [number])]
    assert waiting
    seen = set()
    while waiting:
        number = waiting.pop()
        if program[number].opcode.startswith("LDGSTS"):
            return False
        if number not in seen and not program[number].opcode.startswith("HMMA"):
            seen.add(number)
            waiting += program[number].next
    return True


def units_of_a_thread(tile):
    """Return how many units a thread has in all its rows. Threads of small tiles may be idle."""
    return max(tile.rows * tile.units // tile.threads, 1 + tile.pairs)


_FACTS = {
    "copies begin before fences": _copies_begin_before_fences,
    "c is loaded before stores": _c_is_loaded_before_stores,
    "pairs are stored whole": _pairs_are_stored_whole,
    "special functions are few": _has_few_special_functions,
    "no local memory": _has_no_local_memory,
    "products precede copies": _products_precede_copies,
}
