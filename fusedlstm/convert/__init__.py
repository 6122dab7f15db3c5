"""Weights from other frameworks: one function each, proved by numbers that those frameworks computed."""

from fusedlstm.convert.tf1 import from_tf1
from fusedlstm.convert.torch import from_torch

__all__ = ["from_tf1", "from_torch"]
