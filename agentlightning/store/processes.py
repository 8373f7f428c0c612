"""A store's threads belong to the process that started them: a forked child has the store, but nobody who works."""

from __future__ import annotations

import os

from agentlightning.errors import StoreError


def require_process(process: int) -> None:
    """Refuse to go on in another process than the one with this id, which has the threads.

    Raises:
        StoreError: With what to do instead.
    """
    if process != os.getpid():
        raise StoreError(
            f"the store belongs to process {process}: serve it to its children, or open it in each of them"
        )
