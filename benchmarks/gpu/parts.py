"""What a part of a run is, and the words of its command."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

SKIPPED = 77  # the exit status of a part that can't run here; its last line says why


@dataclass(frozen=True)
class Part:
    """One part of a run, in processes of its own.

    Args:
        name: its name in gpu.json, in log.txt, and for `--only`.
        limit: its time in seconds. It gets less if less is left of the run.
        command: its words. PLACES are replaced in them.
        least: it isn't started with fewer seconds than these.
        tests: whether pytest runs it, with the plugin, so each test's outcome is known.
        test_seconds: the time of each test.
        needed: whether no other part can run if it fails, unless it found out that CUDA runs.
        why_not: returns why it can't run here, or None.
        variables: environment variables to add.
    """

    PLACES = ("PYTHON", "RESULTS", "KEPT", "ATTEMPT")

    name: str
    limit: float
    command: tuple[str, ...]
    least: float = 5
    tests: bool = False
    test_seconds: float = 60
    needed: bool = False
    why_not: Callable[[], str | None] = lambda: None
    variables: Mapping[str, str] = field(default_factory=dict)

    def words(self, **places):
        """Return the command's words. `places` are the values of PLACES: {RESULTS} is a folder, for example."""
        words = list(self.command)
        for name in self.PLACES:
            words = [word.replace(f"{{{name}}}", str(places[name])) for word in words]
        return words
