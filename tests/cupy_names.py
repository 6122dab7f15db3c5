"""Look for what `cupy_internals.py` needs in the installed CuPy, without a GPU. CI runs this with several versions."""

import ctypes

import cupy

from fusedlstm.backends.cuda.runtime import cupy_internals as internals

from driver import build

NAMES = {
    "driver": ["launchKernel"],
    "nvrtc": ["createProgram", "addNameExpression", "compileProgram", "getLoweredName", "getCUBIN", "getPTX"],
    "cublas": ["gemmEx", "getMathMode", "setMathMode", "CUBLAS_COMPUTE_32F_FAST_TF32", "CUBLAS_GEMM_DEFAULT"],
}
libraries = [ctypes.CDLL(str(build.build() / name)) for name in ("libcublasLt.so.13", "libcublas.so.13")]
modules = {"driver": internals.driver, "nvrtc": internals.nvrtc, "cublas": internals.import_cublas()}
lacking = [
    f"{module}.{name}" for module, names in NAMES.items() for name in names if not hasattr(modules[module], name)
]
assert not lacking, f"CuPy {cupy.__version__} lacks {lacking}"
assert callable(internals.get_cublas_handle)
assert internals.ForeignStream(1, 0).ptr == 1
assert cupy.RawModule(path="a.cubin").file_path == "a.cubin"
assert isinstance(cupy.RawKernel.max_dynamic_shared_size_bytes, type(cupy.RawKernel.num_regs))
print("CuPy", cupy.__version__, "has all names")
