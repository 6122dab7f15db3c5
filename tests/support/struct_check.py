"""Have a C++ compiler check that the structs of kernels match their records in Python."""

import os
import re
import subprocess

from emulation.compiler import cuda_headers
from support.kernel_cases import DTYPES, state_type
from support.places import TESTS

SHIM = TESTS / "emulation" / "shim"
HEAD = """#include "cuda_on_cpu.h"
#include <type_traits>
#include <utility>
"""


def in_c(dtype):
    return next(name for name, each in DTYPES.items() if each == dtype)


def struct_in_c(struct):
    """Return the struct's name in C++, with its template arguments."""
    types = ", ".join(map(in_c, struct.types.values()))
    return struct.record.__name__ + (f"<{types}>" if types else "")


def type_in_c(struct, kind):
    """Return a member's type in C++, with its template parameters T, A and G replaced."""
    types = {letter: in_c(dtype) for letter, dtype in struct.types.items()}
    if "T" in types:
        types["A"] = state_type(types["T"])
    return re.sub(r"\b[TAG]\b", lambda found: types[found[0]], kind)


def assertion(condition, words):
    return f'static_assert({condition}, "{words}");'


def assertions_of_struct(struct):
    """Yield assertions that each member has its offset and its type, and that there is no other member."""
    name = struct_in_c(struct)
    for member in struct.members:
        kind = type_in_c(struct, member.kind)
        place = f"{name}: {member.name}"
        yield assertion(f"__builtin_offsetof({name}, {member.name}) == {member.offset}", f"{place} is elsewhere")
        found = f"decltype(std::declval<{name}>().{member.name})"
        yield assertion(f"std::is_same<{found}, {kind}>::value", f"{place} is not {kind}")
    yield assertion(f"sizeof({name}) == {struct.size}", f"{name} has more or fewer members")


def assertions(kernels):
    """Yield assertions about every struct, once, and that each kernel takes its own struct."""
    structs = {struct_in_c(kernel.struct): kernel.struct for kernel in kernels}
    for struct in structs.values():
        yield from assertions_of_struct(struct)
    for kernel in kernels:
        name = struct_in_c(kernel.struct)
        words = f"{kernel.name} does not take {name}"
        yield assertion(f"std::is_same<decltype(&{kernel.name}), void (*)({name})>::value", words)


def complaints(folder, kernels, scratch):
    """Compile a folder's kernels against their records, and list the compiler's errors."""
    files = dict.fromkeys(kernel.file for kernel in kernels)
    lines = [*(f'#include "{folder / file}"' for file in files), *assertions(kernels)]
    unit = scratch / "structs.cpp"
    unit.write_text(HEAD + "\n".join(lines) + "\n")
    command = ["g++", "-std=c++17", "-w", "-fsyntax-only", f"-I{SHIM}", f"-I{cuda_headers()}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"})
    found = re.findall(r"error: (?:static assertion failed: )?(.*)", done.stderr)
    assert bool(found) == bool(done.returncode), done.stderr
    return found
