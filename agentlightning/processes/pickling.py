"""What is sent to another process, and words for what cannot be."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import cloudpickle

from agentlightning.errors import ConfigurationError

_DEPTH: Final = 6
"""How deep a culprit is looked for."""


def dumps(thing: Any) -> bytes:
    """Pickle a thing, by value what `__main__` defines; `pickle.loads` reads it."""
    return cloudpickle.dumps(thing)  # pyright: ignore[reportUnknownMemberType]  # its signature is untyped


def pickled(thing: Any, what: str) -> bytes:
    """Return the thing as bytes.

    Args:
        thing: What to send.
        what: Its name, for the error.

    Raises:
        ConfigurationError: It cannot be pickled; the message names the part that cannot.
    """
    try:
        return dumps(thing)
    except Exception as error:
        raise ConfigurationError(
            f"{_culprit(thing, what, _DEPTH)} cannot be sent to a process of its own "
            f"({type(error).__name__}: {error}): make it where the agent uses it, or leave it out in __getstate__"
        ) from error


def _culprit(thing: Any, path: str, depth: int) -> str:
    """Return the way to the smallest part that cannot be pickled."""
    for name, part in _parts(thing) if depth else ():
        if not _can_be_pickled(part):
            return _culprit(part, f"{path}{name}", depth - 1)
    return f"{path}, a {type(thing).__qualname__},"


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    if inspect.isfunction(thing):
        found = inspect.getclosurevars(thing)
        yield from ((f"'s {name}", part) for name, part in {**found.nonlocals, **found.globals}.items())
    elif isinstance(thing, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in cast("Mapping[Any, Any]", thing).items())
    elif isinstance(thing, (list, tuple)):
        yield from ((f"[{index}]", part) for index, part in enumerate(cast("list[Any]", thing)))
    elif hasattr(thing, "__dict__"):
        yield from ((f".{name}", part) for name, part in cast("dict[str, Any]", vars(thing)).items())


def _can_be_pickled(thing: Any) -> bool:
    try:
        dumps(thing)
    except Exception:  # noqa: BLE001  # whatever it is, that is the answer
        return False
    return True
