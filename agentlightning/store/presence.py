"""Whether a file's store is open elsewhere, in any process, so that leases are re-armed only when it is not.

Every store that keeps the deadlines of a file holds a shared lock on a small file beside it, which the last one takes
away. A process that dies loses its lock and leaves an empty file behind; the next one uses it.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from functools import partial
from typing import Final

from agentlightning.unix import fcntl

logger = logging.getLogger(__name__)

_PATIENCE: Final = 10.0
_PAUSE: Final = 0.002


class Presence:
    """A store's place among those that have a file open.

    Args:
        path: The file of the store.
    """

    def __init__(self, path: str) -> None:
        self._path: Final = f"{path}-open"
        self._descriptor: int | None = None

    def arrive(self) -> bool:
        """Be there from now on; returns whether nobody was until now.

        Two may not arrive at the same time: it is for the transaction in which the leases are re-armed.

        Raises:
            OSError: The file beside the store's cannot be made or locked.
        """
        give_up = time.monotonic() + _PATIENCE
        while time.monotonic() < give_up:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                alone = _lock(descriptor, fcntl.LOCK_EX)
                # Asked again after an exclusive one, a shared lock takes its place.
                if _lock(descriptor, fcntl.LOCK_SH) and self._is_in_place(descriptor):
                    self._descriptor, descriptor = descriptor, None
                    os.register_at_fork(after_in_child=partial(_let_go, weakref.ref(self)))
                    return alone
            finally:
                if descriptor is not None:  # the last one is just taking the file away
                    os.close(descriptor)
            time.sleep(_PAUSE)
        raise TimeoutError(f"another program does not let go of {self._path}")

    def leave(self) -> None:
        """Be there no more; leaving twice is fine."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if _lock(descriptor, fcntl.LOCK_EX):
                os.unlink(self._path)  # noqa: PTH108  # a text like the rest
        except FileNotFoundError:
            pass  # whoever removed the whole folder did it
        except OSError as error:
            logger.warning("Could not take %s away: %s", self._path, error)
        finally:
            os.close(descriptor)

    def let_go(self) -> None:
        """This process is a child of the one that is there, and must not stay there in its stead."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _is_in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))  # noqa: PTH116
        except FileNotFoundError:
            return False


def _let_go(presence: weakref.ref[Presence]) -> None:
    there = presence()
    if there is not None:
        there.let_go()


def _lock(descriptor: int, kind: int) -> bool:
    """Take a lock unless somebody else has one; returns whether it was taken."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
