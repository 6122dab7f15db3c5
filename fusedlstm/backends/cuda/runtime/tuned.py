"""The files of measured times in the cache's folder: one for each GPU and layer. Importing this doesn't import CuPy."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import re
from typing import TYPE_CHECKING

from fusedlstm import log
from fusedlstm.backends.cuda.runtime import cache, probe, sources
from fusedlstm.backends.measured import Layer, from_json, to_json

if TYPE_CHECKING:
    from pathlib import Path

    from fusedlstm.backends.measured import Measured

_PREFIX, _SUFFIX = "tuned-", ".json"
_CUBLAS = ("nvidia-cublas", "nvidia-cublas-cu12")  # packages


def machine(index: int) -> dict[str, str]:
    """Return what the times depend on, besides the layer. Times of another machine aren't used."""
    from fusedlstm.backends.cuda.runtime import about

    facts = about.facts(index)
    return {
        **{name: facts[name] for name in ("GPU", "driver", "NVRTC")},
        "cuBLAS": _version(*_CUBLAS),
        "fusedlstm": _version("fusedlstm"),
        "kernels": sources.digest(),
    }


_known = functools.cache(machine)  # asking the driver takes milliseconds


def _version(*packages: str) -> str:
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "unknown"


def read(index: int, layer: Layer) -> Measured | None:
    """Return the times of a layer on a GPU, or None. A file that can't be used is logged once."""
    about = _known(index)
    name = _name(about["GPU"], layer)
    content = cache.read(name)
    if content is None:
        return None
    try:
        return from_json(content, layer, about)
    except ValueError as error:
        log.warn_once(f"{cache.folder() / name} isn't used: {error}. `fusedlstm tune` measures again")
        return None


def keep(index: int, layer: Layer, measured: Measured) -> Path:
    """Replace the file of a layer, and return its path.

    Raises:
        OSError: it can't be written to the cache's folder.
    """
    about = _known(index)
    path = cache.write(_name(about["GPU"], layer), to_json(measured, layer, about))
    if path.parent != cache.folder():
        raise OSError(f"{cache.folder()}: measured times can't be written there")
    return path


def forget() -> int:
    """Delete the files of all GPUs. Return how many there were."""
    found = sorted(cache.folder().glob(f"{_PREFIX}*{_SUFFIX}"))
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def descriptions(index: int) -> tuple[list[str], list[str]]:
    """Return a line for each of a GPU's files: those that are used, and those that aren't."""
    used, unused = [], []
    gpu = probe.describe_gpus()[index]
    for path in sorted(cache.folder().glob(f"{_PREFIX}{_slug(gpu)}-*{_SUFFIX}")):
        layer = _layer_in(path.name, gpu)
        if layer is None:
            continue
        try:
            measured = from_json(cache.read(path.name) or b"", layer, machine(index))
        except ValueError as error:
            unused.append(f"not used: {path.name}: {error}")
        else:
            kinds = ("B", measured.rows), ("sequences of B", measured.sequences)
            rows = ", ".join(f"{name} = {', '.join(map(str, times))}" for name, times in kinds if times) or "no times"
            used.append(f"measured {measured.date} on this GPU: {layer}, {rows}: {path.name}")
    return used, unused


def _name(gpu: str, layer: Layer) -> str:
    projection = "" if layer.P is None else f"-P{layer.P}"
    return f"{_PREFIX}{_slug(gpu)}-{layer.arithmetic}-I{layer.I}-N{layer.N}{projection}{_SUFFIX}"


def _layer_in(name: str, gpu: str) -> Layer | None:
    """Return the layer that a file's name describes, or None if the file is of a GPU with a longer name."""
    rest = name.removeprefix(f"{_PREFIX}{_slug(gpu)}-").removesuffix(_SUFFIX)
    found = re.fullmatch(r"(\w+)-I(\d+)-N(\d+)(?:-P(\d+))?", rest)
    if found is None:
        return None
    arithmetic, I, N, P = found.groups()
    return Layer(int(I), int(N), None if P is None else int(P), arithmetic)


def _slug(gpu: str) -> str:
    """Return the GPU's name, which begins its description, as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", gpu.partition(",")[0])
