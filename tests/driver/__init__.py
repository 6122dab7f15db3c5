"""Run the real CuPy and nvmath-python on a fake driver, on machines without a GPU. See README.md."""

from .install import install, missing

__all__ = ["install", "missing"]
