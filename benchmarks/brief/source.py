"""The CUDA C++ of a probe, as one text: NVRTC then needs no include path, and CuPy's cache sees every change."""

from __future__ import annotations

from pathlib import Path

FOLDERS = (Path(__file__).parent, Path(__file__).parents[1] / "probes")
OPTIONS = ("-std=c++17",)
_INCLUDE = '#include "common.cuh"\n'


def text(file: str) -> str:
    """Return the source of a file with what it includes."""
    (path,) = (folder / file for folder in FOLDERS if (folder / file).is_file())
    common = (FOLDERS[0] / "common.cuh").read_text(encoding="utf-8").replace("#pragma once\n", "")
    return path.read_text(encoding="utf-8").replace(_INCLUDE, common)
