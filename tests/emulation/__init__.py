"""CUDA on the CPU: runs the kernels of kernels/*.cu on NumPy arrays, and reports their mistakes.

See README.md for how it works, what a kernel must do to run here, and what it can't show.
"""

from .arguments import ByValue, Pointer
from .compiler import missing
from .errors import EmulationError
from .launch import Report
from .module import Function, Module
from .schedules import FORWARD, REVERSE, Schedule, preempting, shuffled

__all__ = [
    "FORWARD",
    "REVERSE",
    "ByValue",
    "EmulationError",
    "Function",
    "Module",
    "Pointer",
    "Report",
    "Schedule",
    "missing",
    "preempting",
    "shuffled",
]
