"""What is kept of an operation's inputs and outputs: flat attributes, bounded, and redacted first."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import BaseModel

from agentlightning._internal.text import encodable, text_of
from agentlightning.types import Attributes, AttributeValue
from agentlightning.types.attributes import is_leaf_list, sanitize_attribute_value

if TYPE_CHECKING:
    from agentlightning.tracer.base import Redact

logger = logging.getLogger(__name__)

LIMIT: Final = 64 * 1024
"""How many bytes of one input, or of one output, are kept."""
_DEPTH: Final = 64
_VISITED: Final = 20_000
_UNSEEN: Final = object()
_PREFIX: Final = "agentlightning.operation."


class Capture:
    """The attributes of one input or output.

    A text that finds no room is cut and says by how many bytes; the first value that finds none says how many values
    are left out from there on.

    Args:
        redact: Is given `(key, value)`, and returns what to keep instead; keys are such as `input.query` and
            `output.hits.0`. It sees each value before those inside it; with it, objects that have fields are kept by
            field.
    """

    def __init__(self, redact: Redact | None) -> None:
        self.attributes: Attributes = {}
        self._redact = redact
        self._room = LIMIT
        self._visits = 0
        self._cut_at: str | None = None
        self._cut_values = 0

    def add(self, key: str, value: Any) -> None:
        """Keep a value, or as much of it as there is room for."""
        leaves = self._leaves(key, value, ())
        for leaf_key, leaf in leaves:
            if self._room <= 0 or leaf is _UNSEEN:
                self._leave_out(leaf_key, 1 + sum(1 for _ in leaves))
                return
            kept = _attribute(leaf, self._room)
            self._room -= len(leaf_key) + _size(kept)
            self.attributes[encodable(leaf_key)] = kept

    def _leave_out(self, key: str, count: int) -> None:
        self._cut_at = self._cut_at or key
        self._cut_values += count
        more = " or more" if self._visits > _VISITED else ""
        self.attributes[encodable(self._cut_at)] = f"… [{self._cut_values}{more} values cut]"

    def _leaves(self, key: str, value: Any, around: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
        value = self._redacted(key, value)
        inner = _inner(value) if self._redact is None else _fields(value)
        if inner is None:
            yield key, value
            return
        if len(around) == _DEPTH or any(value is outer for outer in around):
            yield key, value if self._redact is None else "[too deep to be redacted]"
            return
        for name, item in inner:
            self._visits += 1
            if self._visits > _VISITED:
                yield f"{key}.{name}", _UNSEEN
                return
            yield from self._leaves(f"{key}.{name}", item, (*around, value))

    def _redacted(self, key: str, value: Any) -> Any:
        if self._redact is None:
            return value
        try:
            return self._redact(key.removeprefix(_PREFIX), value)
        except Exception as error:  # noqa: BLE001  # the user's own code; recording must not fail a call
            # A value that could not be judged may be a secret: neither the span nor the log gets it.
            logger.error("The redaction of %s raised %s: the value is left out", key, type(error).__name__)
            return f"[redaction raised {type(error).__name__}]"


def _inner(value: Any) -> Iterator[tuple[str, Any]] | None:
    """What lies inside a value; None if it is kept as one."""
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        return iter(mapping.items()) if all(isinstance(key, str) for key in mapping) else None
    if not isinstance(value, (list, tuple)) or is_leaf_list(cast("Sequence[Any]", value)[:LIMIT]):
        return None
    return ((str(index), item) for index, item in enumerate(cast("Sequence[Any]", value)))


def _fields(value: Any) -> Iterator[tuple[str, Any]] | None:
    """As `_inner`, and what an object keeps below names, which its text would give away."""
    if isinstance(value, Mapping):
        return ((text_of(key), item) for key, item in cast("Mapping[Any, Any]", value).items())
    if isinstance(value, BaseModel):
        return iter(value)
    if isinstance(value, (set, frozenset)):
        return ((str(index), item) for index, item in enumerate(cast("set[Any]", value)))
    names = _field_names(value)
    return _inner(value) if names is None else ((name, getattr(value, name)) for name in names)


def _field_names(value: Any) -> list[str] | None:
    """The names of a dataclass, of attrs, or of a named tuple."""
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    if isinstance(value, tuple):
        return getattr(cast("Any", value), "_fields", None)
    fields: Sequence[Any] | None = getattr(cast("Any", type(value)), "__attrs_attrs__", None)
    return None if fields is None else [field.name for field in fields]


def _attribute(value: Any, room: int) -> AttributeValue:
    """Return a value as an attribute of about `room` bytes at most."""
    if isinstance(value, (bytes, bytearray)) and len(value) > room:
        return f"{text_of(bytes(value[:room]))[:room]}… [{len(value) - room} bytes cut]"
    if isinstance(value, (list, tuple)) and len(cast("Sequence[Any]", value)) > LIMIT:
        items = cast("Sequence[Any]", value)
        return f"{_text(items[:LIMIT])[:room]}… [of {len(items)} values]"
    attribute = encodable(value) if isinstance(value, str) else _sanitized(value)
    if _size(attribute) <= room:
        return attribute
    return _cut(attribute if isinstance(attribute, str) else json.dumps(attribute), room)


def _sanitized(value: Any) -> AttributeValue:
    try:
        return sanitize_attribute_value(value)
    except (ValueError, RecursionError):  # it refers to itself, has keys that JSON does not know, or is too deep
        return text_of(value)


def _text(items: Sequence[Any]) -> str:
    attribute = _sanitized(items)
    return attribute if isinstance(attribute, str) else json.dumps(attribute)


def _cut(text: str, room: int) -> str:
    encoded = text.encode()
    kept = encoded[:room].decode("utf-8", "ignore")  # only the character that the cut goes through is ignored
    return f"{kept}… [{len(encoded) - len(kept.encode())} bytes cut]"


def _size(attribute: AttributeValue) -> int:
    if isinstance(attribute, str):
        return len(attribute) if attribute.isascii() else len(attribute.encode())
    if isinstance(attribute, (bool, int, float)):
        return 8
    return sum(_size(item) for item in attribute)
