"""Compile every kernel for sm_90 with another version of NVRTC than the installed one, without a GPU.

python tests/other_nvrtc.py FOLDER   FOLDER has one version's wheels of NVRTC and of CUDA's runtime, from
                                     `pip install --no-deps --target FOLDER ...`. The status is 1 if a kernel doesn't
                                     compile, or spills more than a few registers.

The kernels' registers are chosen for the installed version, with which test_compile.py allows no spill at all. Another
version allocates them differently. So a few spilled registers are printed, and aren't an error.
"""

import ctypes
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import resources

from fusedlstm.backends.cuda.runtime import compile as compiler
from fusedlstm.backends.cuda.runtime import sources

_ARCHITECTURE = 90
_FEW = 16  # bytes: four registers


class Nvrtc:
    """One version of NVRTC, by its C functions.

    Args:
        folder: where its wheels are.
    """

    def __init__(self, folder):
        (library,) = Path(folder).rglob("libnvrtc.so.*")
        (headers,) = {path.parent for path in Path(folder).rglob("cuda_fp16.h")}
        for builtins in library.parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins))
        self._library, self._headers = ctypes.CDLL(str(library)), headers
        numbers = ctypes.c_int(), ctypes.c_int()
        self._library.nvrtcVersion(*map(ctypes.byref, numbers))
        self.version = ".".join(str(number.value) for number in numbers)

    def log_of(self, kernel):
        """Compile a kernel, and return ptxas's lines about it. Raise RuntimeError if that fails."""
        program, library = ctypes.c_void_p(), self._library
        source = (sources.folder() / kernel.file).read_bytes()
        library.nvrtcCreateProgram(ctypes.byref(program), source, kernel.file.encode(), 0, None, None)
        try:
            library.nvrtcAddNameExpression(program, kernel.name.encode())
            includes = f"-I{sources.folder()}", f"-I{self._headers}"
            options = [f"-arch=sm_{_ARCHITECTURE}", *compiler._FLAGS, *includes, "--ptxas-options=-v"]
            listed = (ctypes.c_char_p * len(options))(*map(str.encode, options))
            status = library.nvrtcCompileProgram(program, len(options), listed)
            size = ctypes.c_size_t()
            library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            library.nvrtcGetProgramLog(program, log)
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))
        if status:
            raise RuntimeError(f"{kernel.name} doesn't compile:\n{log.value.decode()}")
        return log.value.decode()


def outcome(nvrtc, kernel):
    """Return what to print about a kernel, or None; and whether it is an error."""
    try:
        log = nvrtc.log_of(kernel)
    except RuntimeError as error:
        return str(error), True
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill stores", log)))
    return f"{kernel.name} spills {spilled} bytes" if spilled else None, spilled > _FEW


def main(folder):
    """Compile all kernels, print what is wrong, and return the exit status."""
    nvrtc = Nvrtc(folder)
    kernels = [kernel for kernel, architectures in resources.instances().values() if _ARCHITECTURE in architectures]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(lambda kernel: outcome(nvrtc, kernel), kernels))
    said, wrong = [text for text, _ in found if text], sum(is_error for _, is_error in found)
    print(*said, f"NVRTC {nvrtc.version}: {len(kernels)} kernels, {wrong} errors", sep="\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
