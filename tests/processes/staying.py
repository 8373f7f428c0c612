"""A process that does not end by itself."""

from __future__ import annotations

import time


def main(_descriptor: int) -> None:
    """Stay."""
    time.sleep(300)
