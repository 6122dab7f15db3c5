"""The emulator's only exception."""

from __future__ import annotations


class EmulationError(RuntimeError):
    """A kernel did something wrong, or doesn't compile.

    Attributes:
        kind: such as "out of bounds", "race", "deadlock" or "does not compile".
        place: such as "file.cu:12", with the callers of a function's line: "a.cuh:3 <- b.cu:12". Empty if no line of
            the kernel is to blame.
        argument: the name of the parameter or shared array concerned, or None.
    """

    def __init__(self, kind: str, message: str, place: str = "", argument: str | None = None) -> None:
        at = f" at {place}" if place else ""
        super().__init__(f"{kind}{at}: {message}")
        self.kind, self.place, self.argument = kind, place, argument
