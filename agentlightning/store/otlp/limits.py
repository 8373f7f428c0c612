"""Refuses a request whose objects would take far more memory than its bytes: two bytes can be a whole span."""

from __future__ import annotations

import functools
from typing import Final, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from agentlightning.errors import InvalidValue, TooLarge

MAX_OBJECTS: Final = 500_000
"""The most spans, attributes, values and so on of one request: a span with a dozen attributes has thirty."""

_HARMLESS: Final = 1024 * 1024
"""Bytes that cannot hold enough objects to matter."""

_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5


def check_json(plain: bytes) -> None:
    """Refuse JSON of too many objects and lists, in its texts too.

    Raises:
        TooLarge: There are too many.
    """
    if len(plain) > _HARMLESS and plain.count(b"{") + plain.count(b"[") > MAX_OBJECTS:
        raise _too_many()


def check_protobuf(plain: bytes, message: type[Message]) -> None:
    """Refuse protobuf of too many messages, before any is built.

    Raises:
        TooLarge: There are too many.
        InvalidValue: The bytes are no protobuf.
    """
    if len(plain) <= _HARMLESS:
        return
    found, waiting = 0, [(0, len(plain), cast("Descriptor", message.DESCRIPTOR))]
    while waiting:
        inner = _messages_in(plain, *waiting.pop(), MAX_OBJECTS - found)
        found += len(inner)
        waiting += inner


def _messages_in(plain: bytes, at: int, end: int, kind: Descriptor, most: int) -> list[tuple[int, int, Descriptor]]:
    """Return where the messages directly inside of one begin and end, and what they are."""
    kinds, inner = _kinds_in(kind), list[tuple[int, int, Descriptor]]()
    while at < end:
        tag, at = _varint(plain, at)
        size, at = _size_of(plain, at, tag & 7)
        if tag & 7 == _SIZED and tag >> 3 in kinds:
            inner.append((at, at + size, kinds[tag >> 3]))
            if len(inner) > most:
                raise _too_many()
        at += size
    if at > end:
        raise _broken()
    return inner


@functools.cache
def _kinds_in(kind: Descriptor) -> dict[int, Descriptor]:
    """Return which fields of a message are messages."""
    return {field.number: field.message_type for field in kind.fields if field.message_type is not None}


def _size_of(plain: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """Return a value's size and where it begins."""
    if wire_type == _SIZED:
        return _varint(plain, at)
    if wire_type == _VARINT:
        return 0, _varint(plain, at)[1]
    if wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
        return (8 if wire_type == _EIGHT_BYTES else 4), at
    raise _broken()


def _varint(plain: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(plain) and shift < 70:
        byte = plain[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _broken()


def _too_many() -> TooLarge:
    return TooLarge(f"the request holds more than {MAX_OBJECTS} objects: send fewer spans at once")


def _broken() -> InvalidValue:
    return InvalidValue("the body cannot be read as protobuf")
