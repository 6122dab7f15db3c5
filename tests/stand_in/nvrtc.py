"""NVRTC's calls. A program's code describes the program, from which gpu.Module builds the emulated kernel."""

import hashlib
import itertools
import json
from pathlib import Path

_numbers = itertools.count(1)
_programs = {}


class NVRTCError(RuntimeError):
    """A status that is not NVRTC_SUCCESS."""


def getVersion():
    return 13, 0


def getSupportedArchs():
    return [75, 80, 86, 89, 90, 100, 120]


def _digest(path, includes):
    """Return a digest of the file that code is compiled from, and of every header that it may include."""
    files = [Path(path), *(file for folder in includes for file in sorted(Path(folder).glob("*.cuh")))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def createProgram(src, name, headers, include_names):
    number = next(_numbers)
    _programs[number] = {"source": src, "file": name, "names": []}
    return number


def addNameExpression(prog, name):
    _programs[prog]["names"].append(name)


def compileProgram(prog, options):
    program = _programs[prog]
    folders = [Path(option[2:]) for option in options if option.startswith("-I")]
    found = [folder / program["file"] for folder in folders if (folder / program["file"]).is_file()]
    architectures = [option for option in options if option.startswith("-arch=")]
    if not found or len(architectures) != 1 or found[0].read_text(encoding="utf-8") != program["source"]:
        raise NVRTCError("NVRTC_ERROR_INVALID_OPTION")
    program["path"] = str(found[0])
    program["includes"] = [str(folder) for folder in folders if list(folder.glob("*.cuh"))]
    program["sources"] = _digest(program["path"], program["includes"])


def getLoweredName(prog, name):
    return "mangled_" + "_".join(str(ord(letter)) for letter in name)


def getCUBIN(prog):
    """Return the code without its last byte, as CuPy does."""
    program = _programs[prog]
    mangled = {getLoweredName(prog, name): name for name in program["names"]}
    description = {key: program[key] for key in ("path", "includes", "sources")}
    return json.dumps({**description, "names": mangled}).encode()


def getPTX(prog):
    return getCUBIN(prog) + b"\0"


def getProgramLog(prog):
    return ""


def destroyProgram(prog):
    del _programs[prog]
