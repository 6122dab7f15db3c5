"""How fast a case could be: its work, what this machine can do, and the shortest time that follows.

`Work` counts the bytes, floating-point operations, special functions and launches of a case. `Constants` are the rates
that `calibrate` measured on a device in the same run. `limit` divides one by the other. It is a model, with rates that
good libraries reach. Don't expect a time below it, but a library with a faster tanh may beat it.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.constants import Constants

ITEMSIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Work:
    """The work that a case can't avoid.

    Attributes:
        flop: floating-point operations of the matrix products.
        bytes: bytes read and written.
        resident: bytes that each step touches. Where they fit in a cache, its bandwidth applies.
        special: evaluations of exp or tanh: 5 for each unit, for i, f, o, g and the new c.
        launches: kernels that must follow one another.
        arithmetic: the kind of the matrix products: "float64", "float32", "tf32", "float16" or "bfloat16".
    """

    flop: int
    bytes: int
    resident: int
    special: int
    launches: int
    arithmetic: str

    @classmethod
    def of(
        cls,
        *,
        B: int,
        I: int,
        N: int,
        T: int = 1,
        P: int | None = None,
        layers: int = 1,
        dtype: str = "float32",
        device: str = "cpu",
        precision: str = "highest",
        pool: bool = False,
    ) -> Work:
        """Count the work of T steps of B rows through layers.

        Args:
            B: rows.
            I: input size of the first layer. Each later layer takes the outputs of the one below.
            N: units.
            T: steps.
            P: size of the projection, or None.
            layers: the number of stacked layers.
            dtype: the dtype of x, h and the weights.
            device: on "cpu" the gates are written and read once; one kernel on a GPU keeps them in registers.
            precision: "high" lets a GPU multiply float32 as TF32.
            pool: whether states are rows of a table, by slot. Then another kernel gathers each h for its product. The
                output is written in addition to the scattered h. c is read and written in place.
        """
        on_cpu, width = device == "cpu", P or N
        item = ITEMSIZES[dtype]
        wide = max(item, 4)  # c, the bias and the gates of 16-bit types are float32
        flop = total = resident = 0
        for size in [I] + [width] * (layers - 1):
            flop += T * (8 * B * N * (size + width) + (2 * B * N * P if P else 0))
            # The inputs of all steps can be multiplied at once, so each step reads only the weights of h.
            once = 4 * N * size * item + 4 * N * wide
            each = 4 * N * width * item + (N * P * item if P else 0)
            each += B * (size + 2 * width) * item + 2 * B * N * wide
            each += 2 * 4 * B * N * wide if on_cpu else 0
            each += 2 * B * width * item if pool else 0
            total += once + T * each
            resident += once + each
        of_pool = B * width * item + 8 * B if pool else 0  # outputs, and int64 slots
        launches = (T + layers - 1) * (2 if P else 1) + int(pool)  # layers can run as a wavefront
        return cls(
            flop=flop,
            bytes=total + T * of_pool,
            resident=resident + of_pool,
            special=5 * T * B * N * layers,
            launches=0 if on_cpu else launches,
            arithmetic=_arithmetic(dtype, precision, on_cpu),
        )

    @property
    def intensity(self) -> float:
        """Flop a byte."""
        return self.flop / self.bytes


def _arithmetic(dtype: str, precision: str, on_cpu: bool) -> str:
    if on_cpu:
        return "float64" if dtype == "float64" else "float32"
    return "tf32" if dtype == "float32" and precision == "high" else dtype


@dataclass(frozen=True)
class Limit:
    """The shortest time of a case, in seconds, and what takes most of it."""

    seconds: float
    bound: str


def limit(work: Work, constants: Constants) -> Limit | None:
    """Return the limit, or None if a rate that it needs wasn't calibrated.

    Memory traffic overlaps with arithmetic. On a CPU, special functions and products take turns, because the same cores
    do both. On a GPU they overlap too, and the time of launches is added.
    """
    on_cpu = constants.device == "cpu"
    special_rate = constants.special.get(work.arithmetic if on_cpu else "float32")
    if work.arithmetic not in constants.matmul or special_rate is None:
        return None
    parts = {
        "matmul": work.flop / constants.matmul[work.arithmetic],
        "special functions": work.special / special_rate,
        "bytes": work.bytes / constants.bandwidth(work.resident),
    }
    longest = max(parts, key=parts.__getitem__)
    if not on_cpu:
        launches = work.launches * (constants.node or constants.launch)
        return Limit(launches + parts[longest], "launches" if launches > parts[longest] else longest)
    arithmetic = parts["matmul"] + parts["special functions"]
    if parts["bytes"] > arithmetic:
        return Limit(parts["bytes"], "bytes")
    return Limit(arithmetic, max(("matmul", "special functions"), key=parts.__getitem__))


@functools.cache
def calibrate(device: str = "cpu", threads: int = 1) -> Constants:
    """Measure a device, in less than two seconds, once in a process.

    Args:
        device: "cpu", "cuda" for the first GPU, or "cuda:<index>".
        threads: how many threads copy and evaluate functions on a CPU. Matrix products use the BLAS's own number.
    """
    if device == "cpu":
        from benchmarks import calibration_cpu

        return calibration_cpu.calibrate(threads)
    from benchmarks import calibration_cuda

    return calibration_cuda.calibrate(int(device.partition(":")[2] or 0), threads)


def machine_facts_limits(devices: tuple[str, ...] = ("cpu",), threads: int | None = None) -> dict[str, dict]:
    """Return the constants of each device, by name, for machine_info["facts"]["limits"] of a result.

    Args:
        devices: the devices to calibrate.
        threads: the number of threads of the CPU; None for OMP_NUM_THREADS, or else 1.
    """
    threads = threads or int(os.environ.get("OMP_NUM_THREADS", "1"))
    return {device: calibrate(device, threads).to_json() for device in devices}
