"""Compile the fake driver, and libraries with the names of the real ones that link to it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import symbols
from emulation import compiler

_DEVICE = Path(__file__).parent / "device"
_EMULATOR = _DEVICE.parents[1] / "emulation" / "runtime"
_OPTIONS = ("-std=c++17", "-O2", "-march=native", "-fopenmp-simd", "-fPIC", "-Wall", "-Wextra", "-Werror")
DRIVER = "libfakedriver.so"
# The libraries that CuPy and nvmath-python open, and the version of their symbols.
NAMED = {
    "libcuda.so.1": None,
    "libnvrtc.so.13": None,
    "libcublas.so.13": "libcublas.so.13",
    "libcublasLt.so.13": "libcublasLt.so.13",
}


def build() -> Path:
    """Return the folder with the driver for the installed CuPy. It is compiled unless the cache has it."""
    folder = compiler.cache_folder() / f"driver-{_digest()}"
    if not _is_complete(folder):
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            _compile_driver(made)
            for name, version in NAMED.items():
                _compile_named(made, name, version)
            if not _is_complete(folder):
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
        except OSError:
            if not _is_complete(folder):  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def _is_complete(folder: Path) -> bool:
    """Return whether a folder still has all libraries, and mark them as used. The cache may have removed some."""
    return all(compiler.is_there(folder / name) for name in (DRIVER, *NAMED))


def runtime_module() -> Path:
    """Return CuPy's module that has CUDA's runtime linked into it."""
    return _module("cupy_backends.cuda.api.runtime")


def _module(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{name} is not installed")
    return Path(found.origin)


def _digest() -> str:
    versions = [importlib.metadata.version("cupy-cuda13x"), compiler.machine()]
    sources = [*sorted(_DEVICE.iterdir()), _EMULATOR / "launch.h", Path(symbols.__file__), Path(__file__)]
    content = b"\0".join([*map(str.encode, versions), *(file.read_bytes() for file in sources)])
    return hashlib.sha256(content).hexdigest()[:24]


def _compile_driver(folder: Path) -> None:
    headers = [f"-I{each}" for each in (compiler.cuda_headers(), _EMULATOR)]
    sources = map(str, sorted(_DEVICE.glob("*.cpp")))
    _run([*_OPTIONS, *headers, *sources, f"-Wl,-soname,{DRIVER}", "-o", str(folder / DRIVER)])


def _compile_named(folder: Path, name: str, version: str | None) -> None:
    """Compile a library with the driver's functions. libcublas also gets stubs for all others that CuPy may call."""
    unit, script = folder / "unit.cpp", folder / "versions"
    unit.write_text("\n".join(_stubs(folder) if name == "libcublas.so.13" else []), encoding="utf-8")
    script.write_text(f"{version or ''} {{ global: *; }};", encoding="utf-8")
    linker = [f"-Wl,-soname,{name}", f"-Wl,--version-script={script}", "-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed"]
    _run(["-fPIC", str(unit), *linker, f"-L{folder}", f"-l:{DRIVER}", "-o", str(folder / name)])


def _stubs(folder: Path) -> list[str]:
    """Return C++ for the functions that CuPy may call and the driver lacks. Each prints its name and fails."""
    has = {symbol.name for symbol in symbols.functions(folder / DRIVER)}
    wanted = {symbol.name for symbol in symbols.functions(runtime_module()) if symbol.name.startswith("cuda")}
    undefined = symbols.undefined(_module("cupy_backends.cuda.libs.cublas"))
    wanted |= {symbol.name for symbol in undefined if symbol.name.startswith("cublas")}
    lines = ['extern "C" int driver_lacks(const char*);']
    lines += [f'extern "C" int {name}() {{ return driver_lacks("{name}"); }}' for name in sorted(wanted - has)]
    return lines


def _run(arguments: list[str]) -> None:
    done = subprocess.run(["g++", "-shared", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the fake driver doesn't compile:\n{done.stderr[:4000]}")
