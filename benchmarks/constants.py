"""The measured rates of a device, by which `limits` divides a case's work."""

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
