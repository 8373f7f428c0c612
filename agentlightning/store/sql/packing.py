"""Long lists of numbers, packed: token ids and log-probabilities are most of a model call's span.

A packed column begins with the length of its table of contents (4 bytes, little-endian like all that follows), a JSON
list of `[attribute, format, count]` in the order of the numbers behind it. Formats are those of `struct`: `i` and `q`
are integers of 4 and 8 bytes, `d` is a float of 8. In the span's JSON each packed list leaves null in its place.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple, cast

from pydantic_core import from_json, to_json

_WORTH_PACKING: Final = 16
"""Numbers; the text of fewer is about as short."""

_LENGTH: Final = struct.Struct("<I")


class _Packed(NamedTuple):
    format: str
    length: int
    body: bytes


def pack(attributes: dict[str, Any]) -> tuple[dict[str, Any], bytes | None]:
    """Return the attributes without their long lists of numbers, and these lists packed; None when there are none."""
    if list not in map(type, attributes.values()):
        return attributes, None
    rest: dict[str, Any] = {}
    contents: list[tuple[str, str, int]] = []
    parts: list[bytes] = []
    for key, value in attributes.items():
        # A key of another type is another one in JSON, where the list would not find its place again.
        packed = _packed(cast("list[Any]", value)) if type(value) is list and type(key) is str else None
        if packed is not None:
            contents.append((key, packed.format, packed.length))
            parts.append(packed.body)
            rest[key] = None
    if not parts:
        return attributes, None
    table = to_json(contents)
    return attributes | rest, b"".join((_LENGTH.pack(len(table)), table, *parts))


def unpack(numbers: bytes) -> dict[str, list[int] | list[float]]:
    """Return the lists in a packed column by attribute."""
    start = _LENGTH.size + _LENGTH.unpack_from(numbers)[0]
    lists: dict[str, list[int] | list[float]] = {}
    for key, number_format, count in from_json(numbers[_LENGTH.size : start]):
        layout = f"<{count}{number_format}"
        lists[key] = list(struct.unpack_from(layout, numbers, start))
        start += struct.calcsize(layout)
    return lists


def _packed(values: list[Any]) -> _Packed | None:
    """Pack a list; None if it is short or holds what would not come back the same."""
    if len(values) < _WORTH_PACKING:
        return None
    kinds = set(map(type, values))
    for number_format in "iq" if kinds == {int} else "d" if kinds == {float} else "":
        try:
            return _Packed(number_format, len(values), struct.pack(f"<{len(values)}{number_format}", *values))
        except struct.error:  # an integer is too large for it
            continue
    return None
