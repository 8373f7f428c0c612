"""The garbage collector beside large libraries."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

_RARELY: Final = (20_000, 20, 20)
"""Allocations before a collection, and collections before one of the next generation (CPython: 700, 10, 10)."""


@contextmanager
def settled_heap() -> Generator[None]:
    """Keep what exists now out of garbage collection inside the block.

    A model's libraries leave hundreds of thousands of objects that live as long as the process. Every full collection
    walks them all; beside event loops that make many short-lived objects that was a quarter of the time. Inside the
    block collections are rarer, too.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def begin_collecting() -> None:
    """Start garbage collection in a process that began without it, as imports take a sixth longer beside it.

    What was imported lives as long as the process, and is never looked at.
    """
    gc.freeze()
    gc.enable()
