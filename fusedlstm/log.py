"""Log to the logger "fusedlstm". `logging` is imported at the first message, because it takes milliseconds."""

from __future__ import annotations

from typing import Any


def info(message: str, *values: Any) -> None:
    """Log a message at level INFO."""
    import logging

    logging.getLogger("fusedlstm").info(message, *values)


_said: set[str] = set()


def warn_once(message: str) -> None:
    """Log a warning, but each text only once in this process.

    The text is the whole key: all modules share one logger, and its records name none of them.
    """
    if message not in _said:
        _said.add(message)
        warning(message)


def warning(message: str, *values: Any) -> None:
    """Log a warning."""
    import logging

    logging.getLogger("fusedlstm").warning(message, *values)
