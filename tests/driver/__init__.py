"""The real CuPy and nvmath-python on a fake driver, for machines without a GPU. See README.md."""

from .install import install, missing

__all__ = ["install", "missing"]
