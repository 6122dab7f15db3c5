"""The one exception of the emulator."""

from __future__ import annotations


class EmulationError(RuntimeError):
    """A kernel did something wrong, or does not compile.

    Attributes:
        kind: "out of bounds", "race", "deadlock", ...; "does not compile".
        place: "file.cu:12", and where that line is a function's, who called it: "a.cuh:3 <- b.cu:12";
            empty where the kernel has no line to blame.
        argument: the name of the kernel's parameter, or of the shared array, that it is about, or None.
    """

    def __init__(self, kind: str, message: str, place: str = "", argument: str | None = None) -> None:
        at = f" at {place}" if place else ""
        super().__init__(f"{kind}{at}: {message}")
        self.kind, self.place, self.argument = kind, place, argument
