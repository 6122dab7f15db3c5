"""Look for what `cupy_internals.py` needs in the installed CuPy, without a GPU. CI runs this with several versions."""

import ctypes
import re
from pathlib import Path

import cupy

from fusedlstm.backends.cuda.runtime import cupy_internals as internals

from driver import build

FILES = ("compile.py", "cublas.py", "packed.py")  # beside `cupy_internals.py`, these use its modules
sources = [(Path(internals.__file__).parent / name).read_text(encoding="utf-8") for name in FILES]
names = {match for source in sources for match in re.findall(r"\b(driver|nvrtc|cublas)\.(\w+)", source)}
assert len(names) > 15, names
libraries = [ctypes.CDLL(str(build.build() / name)) for name in ("libcublasLt.so.13", "libcublas.so.13")]
modules = {"driver": internals.driver, "nvrtc": internals.nvrtc, "cublas": internals.import_cublas()}
lacking = [f"{module}.{name}" for module, name in sorted(names) if not hasattr(modules[module], name)]
assert not lacking, f"CuPy {cupy.__version__} lacks {lacking}"
assert callable(internals.get_cublas_handle)
assert internals.ForeignStream(1, 0).ptr == 1
assert cupy.RawModule(path="a.cubin").file_path == "a.cubin"
assert isinstance(cupy.RawKernel.max_dynamic_shared_size_bytes, type(cupy.RawKernel.num_regs))
print("CuPy", cupy.__version__, "has all names")
