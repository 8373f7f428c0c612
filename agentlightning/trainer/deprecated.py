"""The trainer's arguments that v0.3 had renamed already."""

from __future__ import annotations

import warnings
from typing import Any


def renamed(new_name: str, new: Any, old_name: str, old: Any) -> Any:
    """Return the value of an argument that may have come under its old name, which earns a warning."""
    if old is None:
        return new
    if new is None or new == old:
        warnings.warn(f"Trainer({old_name}=...) is now {new_name}=...", DeprecationWarning, stacklevel=3)
        return old
    warnings.warn(
        f"Trainer got {new_name}={new!r} and, by its old name, {old_name}={old!r}: {new_name}={new!r} is used",
        DeprecationWarning,
        stacklevel=3,
    )
    return new


def warn_of_flags(dev: bool, daemon: bool) -> None:
    """Warn of flags that do nothing any more."""
    if dev:
        warnings.warn("Trainer(dev=True) does nothing: call Trainer.dev()", DeprecationWarning, stacklevel=3)
    if not daemon:
        warnings.warn(
            "Trainer(daemon=False) does nothing: all it starts ends with it", DeprecationWarning, stacklevel=3
        )
