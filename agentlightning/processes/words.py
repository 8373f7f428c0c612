"""How a process ended, in words."""

from __future__ import annotations

import signal
from typing import Any


def words_for(exit_code: int) -> str:
    """Return what an exit code means; one below 0 is the number of the signal that ended the process."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    names: dict[int, Any] = {each.value: each.name for each in signal.Signals}
    return f"was killed by {names.get(-exit_code, f'signal {-exit_code}')}"
