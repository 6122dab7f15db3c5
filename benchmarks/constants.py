"""The rates of a device: measured ones, by which `limits` divides a case's work, and those of the model of a GPU."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Constants:
    """The measured rates of a device.

    Attributes:
        device: "cpu" or "cuda:<index>".
        threads: the number of threads of the CPU.
        copy: pairs of the bytes that a copy reads and writes, and its bytes a second.
        matmul: the flop a second of the best large product, by arithmetic.
        special: evaluations a second, of which three in five are exp and two tanh, by arithmetic.
        launch: seconds from one launch to the next on a GPU, if they are launched one by one.
        node: seconds from one launch to the next within a CUDA graph.
    """

    device: str
    threads: int
    copy: tuple[tuple[int, float], ...]
    matmul: dict[str, float]
    special: dict[str, float]
    launch: float = 0.0
    node: float = 0.0

    def bandwidth(self, resident: int) -> float:
        """Return the best bytes a second of the copies of about this size, or larger ones."""
        sizes = sorted(size for size, _ in self.copy)
        at_least = max([size for size in sizes if size <= resident], default=sizes[0])
        return max(rate for size, rate in self.copy if size >= at_least)

    def to_json(self) -> dict:
        """Return what `from_json` takes."""
        return dataclasses.asdict(self) | {"copy": [list(pair) for pair in self.copy]}

    @classmethod
    def from_json(cls, values: dict) -> Constants:
        """Return the constants in a result's machine_info["facts"]["limits"][device]."""
        names = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in values.items() if name in names}
        return cls(**values | {"copy": tuple((int(size), float(rate)) for size, rate in values["copy"])})


@dataclass(frozen=True)
class Gpu:
    """The constants of a GPU in the model of `predictions`, by default of an H200. Rates are per second.

    Attributes:
        sms: multiprocessors.
        clock: hertz.
        l2: bytes that all multiprocessors read from the L2.
        port: bytes per clock from the L2 to one multiprocessor.
        l2_size: bytes that stay in the L2 from step to step.
        hbm: bytes that a copy reads and writes.
        library: flop of a library's products, by arithmetic: wgmma, at the rate that is reached, below the data
            sheet's.
        own: flop of our products: mma.sync, which reaches 63 % of the data sheet's, and fma. A quarter of a
            multiprocessor takes 6.3 clocks for an m16n8k16.
        shared: bytes per clock of a multiprocessor's shared memory, which has 32 banks of 4 bytes.
        shared_size: bytes of a multiprocessor's shared memory.
        issue: instructions per clock of a multiprocessor, each of a warp. It has four schedulers.
        special: special functions per clock of a multiprocessor.
        node: seconds from one empty kernel to the next within a graph.
        fill: seconds of a kernel in which nothing is busy. From its first load, which misses the L2, to the first
            K-tile it is 0.6 us. That tile takes 0.15 us through barrier, shared memory and products. From the last
            product through five dependent functions to the stored h it is 0.25 us.
        trip: seconds from a load that hits the L2 until its K-tile has been multiplied.
        latency: seconds of a load that hits the L2, which is assumed to take 290 clocks.
        chain: seconds from the sums of a unit to its h in shared memory, as in `fill`.
        mma: seconds from one mma to the next one that adds to its sums, which is assumed to take 33 clocks.
        barrier: seconds of a barrier of a block, which is assumed to take 40 clocks.
    """

    sms: int = 132
    clock: float = 1.7e9
    l2: float = 6.5e12
    port: float = 64
    l2_size: float = 50e6
    hbm: float = 4.3e12
    library: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"bfloat16": 790e12, "tf32": 395e12, "float32": 55e12, "float64": 60e12}
    )
    own: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"bfloat16": 584e12, "tf32": 292e12, "float32": 55e12, "float64": 30e12}
    )
    shared: float = 128
    shared_size: float = 228 << 10
    issue: float = 4
    special: float = 16
    node: float = 1.4e-6
    fill: float = 1.0e-6
    trip: float = 0.3e-6
    latency: float = 0.17e-6
    chain: float = 0.25e-6
    mma: float = 19e-9
    barrier: float = 24e-9
