"""Log to the logger "fusedlstm". The first line imports logging, which takes milliseconds."""

from __future__ import annotations

from typing import Any


def info(message: str, *values: Any) -> None:
    """Log a line for information."""
    import logging

    logging.getLogger("fusedlstm").info(message, *values)


def warning(message: str, *values: Any) -> None:
    """Log a warning."""
    import logging

    logging.getLogger("fusedlstm").warning(message, *values)
