"""Log output of the package, for programs that have not set up logging of their own."""

from __future__ import annotations

import logging

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def setup_logging(level: int | str = "INFO", *, console: bool = True) -> None:
    """Let the loggers below `agentlightning` write to standard error; calling again changes the level.

    Args:
        level: The least severe level to show.
        console: Whether to write to standard error at all.
    """
    logger = logging.getLogger("agentlightning")
    logger.setLevel(level)
    if console and not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
