"""Lines for the logger "fusedlstm"; logging is imported with the first of them, as it costs milliseconds."""

from __future__ import annotations

from typing import Any


def info(message: str, *values: Any) -> None:
    """Log what happened as it should."""
    import logging

    logging.getLogger("fusedlstm").info(message, *values)


def warning(message: str, *values: Any) -> None:
    """Log what somebody should look at."""
    import logging

    logging.getLogger("fusedlstm").warning(message, *values)
