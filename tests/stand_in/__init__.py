"""A stand-in for the parts of CuPy and nvmath-python that the CUDA backend uses. See README.md."""

import contextlib
import sys
import types
from importlib.machinery import ModuleSpec

from . import arrays, cublas, cublaslt, driver, gpu, graphs, memory, nvrtc, streams
from .runtime import runtime

# The real modules, if installed. Tests compile kernels with them and compare names.
real = {}
REPLACED = ("cupy", "cupyx", "cupy_backends", "nvmath")


def _module(name, **members):
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    module.__dict__.update(members)
    return module


def modules():
    """Return the stand-in's modules by the names that they replace."""
    device = _module("cupy.cuda.device", get_cublas_handle=gpu.get_cublas_handle)
    # Of CuPy's module, only the error is used.
    pools = _module("cupy.cuda.memory", OutOfMemoryError=memory.OutOfMemoryError)
    captured = _module("cupy.cuda.graph", Graph=graphs.Graph)
    cuda = _module(
        "cupy.cuda",
        Device=arrays.Device,
        Module=gpu.Module,
        Graph=graphs.Graph,
        alloc_pinned_memory=memory.alloc_pinned_memory,
        driver=driver,
        runtime=runtime,
        nvrtc=nvrtc,
        device=device,
        graph=captured,
        memory=pools,
        get_current_stream=streams.get_current_stream,
        Stream=streams.Stream,
        ExternalStream=streams.ExternalStream,
        Event=streams.Event,
    )
    functions = (
        "ndarray",
        "empty",
        "zeros",
        "asarray",
        "from_dlpack",
        "ascontiguousarray",
        "broadcast_to",
        "concatenate",
        "stack",
        "where",
        "abs",
    )
    cupy = _module(
        "cupy", cuda=cuda, __version__="14.0.stand-in", **{name: getattr(arrays, name) for name in functions}
    )
    libs = _module("cupy_backends.cuda.libs", cublas=cublas, nvrtc=nvrtc)
    bindings = _module("nvmath.bindings", cublasLt=cublaslt)
    return {
        "cupy": cupy,
        "cupy.cuda": cuda,
        "cupy.cuda.device": device,
        "cupy.cuda.graph": captured,
        "cupy.cuda.memory": pools,
        "cupy_backends": _module("cupy_backends"),
        "cupy_backends.cuda": _module("cupy_backends.cuda", libs=libs),
        "cupy_backends.cuda.libs": libs,
        "cupy_backends.cuda.libs.cublas": cublas,
        "cupy_backends.cuda.libs.nvrtc": nvrtc,
        "nvmath": _module("nvmath", bindings=bindings),
        "nvmath.bindings": bindings,
        "nvmath.bindings.cublasLt": cublaslt,
    }


def find_real():
    """Store the installed real modules in `real`, before they are replaced."""
    if real:
        return
    with contextlib.suppress(ImportError):
        import cupy
        from cupy_backends.cuda.libs import nvrtc as real_nvrtc

        real_nvrtc.getVersion()  # loads its library now, which needs the real CuPy
        real.update(cupy=cupy, nvrtc=real_nvrtc)
    with contextlib.suppress(ImportError):
        from cupy_backends.cuda.libs import cublas as real_cublas

        real["cublas"] = real_cublas
    with contextlib.suppress(ImportError):
        from nvmath.bindings import cublasLt as real_cublaslt

        real["cublasLt"] = real_cublaslt


def install():
    """Put the stand-in in the place of CuPy and nvmath-python for this process."""
    assert "fusedlstm.backends.cuda.runtime.compile" not in sys.modules, (
        "install() must come before the CUDA backend is imported"
    )
    find_real()
    for name in [name for name in sys.modules if name.partition(".")[0] in REPLACED]:
        del sys.modules[name]
    sys.modules.update(modules())
