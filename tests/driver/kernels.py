"""Make functions that the emulator runs from the fake NVRTC's descriptions of code."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from fusedlstm.backends.cuda.function_types import functions_type
from fusedlstm.functions import ACTIVATIONS, Functions

from emulation import FORWARD, REVERSE, Module, compiler, shuffled

_MOST_PARAMETERS = 64
_HEADERS = Path(__file__).parent / "headers"
_CUPYS = "cupy.cu"  # the file for a kernel of CuPy or of a test
# How the package's kernels run: "check" checks every access.
MODE = os.environ.get("FUSEDLSTM_EMULATION", "fast")
SCHEDULE = {"forward": FORWARD, "reverse": REVERSE, "shuffled": shuffled(seed=1)}[
    os.environ.get("FUSEDLSTM_SCHEDULE", "forward")
]


class Kernel(ctypes.Structure):
    """The struct of this name in device/modules.h."""

    _fields_ = (
        ("run", ctypes.c_void_p),
        ("launch", ctypes.c_void_p),
        ("parameters", ctypes.c_int),
        ("sizes", ctypes.c_int * _MOST_PARAMETERS),
    )


class Description(NamedTuple):
    """A description of compiled code.

    Attributes:
        file: the source's file name.
        source: the source itself.
        options: NVRTC's options.
        names: the kernels' instances.
        lowered: the names of those instances in the code.
        headers: the size, time and path of each header.
    """

    file: str
    source: str
    options: tuple[str, ...]
    names: tuple[str, ...]
    lowered: tuple[str, ...]
    headers: tuple[str, ...]

    @staticmethod
    def read(content: bytes) -> Description:
        """Return the description in some bytes."""
        file, source, *lists = _fields(content)
        return Description(file.decode(), source.decode(), *(tuple(map(bytes.decode, _fields(all_))) for all_ in lists))


def _fields(content: bytes) -> list[bytes]:
    """Return the fields in some bytes. Each is a length, a colon, and that many bytes."""
    fields, at = [], 0
    while at < len(content):
        colon = content.index(b":", at)
        end = colon + 1 + int(content[at:colon])
        fields.append(content[colon + 1 : end])
        at = end
    return fields


def find(description: Description, name: str, out: Any) -> bool:
    """Fill in `out` with the kernel of a lowered name. Return False if there is none."""
    instance = dict(zip(description.lowered, description.names, strict=True)).get(name, name)
    if instance == name and not re.search(rf'extern "C" __global__ void {name}\b', description.source):
        return False
    function = _module(description, _compiled_together(instance)).function(instance)
    sizes = [parameter.size for parameter in function._parameters]
    out.run, out.launch = function._kernel, ctypes.cast(function._module.library.emulation_launch, ctypes.c_void_p)
    out.parameters, out.sizes = len(sizes), (ctypes.c_int * _MOST_PARAMETERS)(*sizes)
    return True


def _compiled_together(instance: str) -> tuple[str, ...]:
    """Return the instances to compile with this one. Compiling all of `lstm_pointwise` takes no longer than one."""
    match = re.fullmatch(r"(lstm_pointwise<[^,]+, [^,]+, \d), (.*), \w+, \w+, \w+>", instance)
    functions = [functions_type(Functions.of(activation=each)) for each in ACTIVATIONS]
    if match is None or match[2] not in functions:
        return (instance,)
    flags = itertools.product(functions, *[("false", "true")] * 3)
    return tuple(f"{match[1]}, {', '.join(rest)}>" for rest in flags)


@functools.cache
def _module(description: Description, instances: tuple[str, ...]) -> Module:
    """Return the emulated module of some instances. It stays loaded, even if a header changes later."""
    for header in description.headers:
        path = header.split(" ", 2)[2]
        if header != _header(path):
            raise RuntimeError(f"stale code: {path} has changed since the code was compiled")
    includes = [option for option in description.options if option.startswith("-I")]
    of_cuda = {f"-I{compiler.cuda_headers()}"}
    flags = (f"-I{_HEADERS}", *(option for option in includes if option not in of_cuda))
    file = _file(description)
    return Module(file, instances, mode="fast" if file.name == _CUPYS else MODE, flags=flags)


def _header(path: str) -> str:
    """Return a header's size, time and path, as the fake NVRTC writes them."""
    about = os.stat(path)
    return f"{about.st_size} {about.st_mtime_ns} {path}"


def _file(description: Description) -> Path:
    """Return a file with the source: the project's own, or one written now."""
    for option in description.options:
        file = Path(option.removeprefix("-I")) / description.file
        if file.is_file() and file.read_text(encoding="utf-8") == description.source:
            return file
    source = f'#include "nvrtc_builtins.h"\n{_with_shared_arrays(description.source)}'
    folder = compiler.cache_folder() / "sources" / hashlib.sha256(source.encode()).hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / _CUPYS
    file.write_text(source, encoding="utf-8")
    return file


def _with_shared_arrays(source: str) -> str:
    """Return CuPy's source with shared arrays declared as the emulator needs them."""
    return re.sub(r"__shared__ (?:__align__\(\w+\) )?(\w+) (\w+)\[(.+?)\];", r"SHARED_ARRAY(\1, \2, (\3));", source)
