"""A conversion makes objects by the hundred thousand that all live until its end, so garbage is looked for afterwards.

The collector would go through them again and again, each token of each list, and find nothing: a third of the time.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def collected_afterwards() -> Generator[None]:
    """Put off the collection of garbage until the end of a conversion.

    Only what turned the collector off turns it on again: conversions may stand in one another and run beside each
    other, and a program that does without it is left as it is.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
