"""One gateway at a time for each journal: a second one would take its files away while they are written."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agentlightning.errors import ConfigurationError
from agentlightning.unix import fcntl


@contextmanager
def alone_in(journal: Path) -> Generator[None]:
    """Keep others out of a journal's folder, which is made if it is missing, while the block runs.

    Raises:
        ConfigurationError: Another gateway is there, or the folder cannot be made.
    """
    try:
        journal.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(journal / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"the journal {journal} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(f"another gateway uses {journal}: give each a journal of its own") from error
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # forked processes may have the file open for longer
    finally:
        os.close(descriptor)
