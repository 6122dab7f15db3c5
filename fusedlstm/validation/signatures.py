"""The signatures of arguments that passed the checks, so that arguments like them needn't be checked again."""

from __future__ import annotations

from typing import Any

_MOST = 256


class Signatures(set[Any]):
    """A set of signatures that is cleared when it is full."""

    def add(self, signature: Any) -> None:
        """Remember a signature."""
        if len(self) >= _MOST:
            self.clear()
        super().add(signature)
