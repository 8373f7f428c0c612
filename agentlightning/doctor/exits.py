"""An agent that ends its process would take the report with it, and look like success."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def exits_raise() -> Generator[None]:
    """Let `os._exit` raise SystemExit inside the block, as `sys.exit` does; forked children end as they want to."""
    process, end = os.getpid(), os._exit

    def raising(status: int) -> NoReturn:
        if os.getpid() != process:
            end(status)
        raise SystemExit(f"os._exit({status})")

    setattr(os, "_exit", raising)  # noqa: B010  # type checkers allow no other way
    try:
        yield
    finally:
        setattr(os, "_exit", end)  # noqa: B010
