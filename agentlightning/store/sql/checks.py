"""Values from callers that no type checker saw; each refusal is an `InvalidValue` that names the field."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

from agentlightning.errors import InvalidValue

_LARGEST_COUNT: Final = 2**63 - 1
_LARGEST_TIME: Final = sys.float_info.max


def check_text(value: Any, name: str) -> None:
    """Refuse what is no string, has no UTF-8 form, or holds NUL, which not every database can keep in a text."""
    if not isinstance(value, str):
        raise InvalidValue(f"{name} is a {type(value).__name__}: make it a string")
    if "\0" in value:
        raise InvalidValue(f"{name} is {value!a}: take out the NUL character")
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue(f"{name} is {value!a}: replace its lone surrogates, UTF-8 has no form for them") from error


def are_plain(*values: Any) -> bool:
    """Whether all are ASCII strings without NUL, which `check_text` takes; one look at all of them costs less."""
    try:
        text = "".join(values)
    except TypeError:
        return False
    return text.isascii() and "\0" not in text


def check_id(value: Any, name: str) -> None:
    """Refuse what is no text that can be kept, or is empty: nothing is kept under such an id."""
    check_text(value, name)
    if not value:
        raise InvalidValue(f"{name} is empty: give it a name")


def check_optional_text(value: Any, name: str) -> None:
    """Refuse what is neither None nor a text that can be kept."""
    if value is not None:
        check_text(value, name)


def check_texts(values: Iterable[Any], name: str) -> None:
    """Refuse what is no collection of strings; a string is one string too few or many too many."""
    if isinstance(values, str):
        raise InvalidValue(f"{name} is the string {values!a}: make it a list")
    for value in values:
        check_text(value, name)


def check_integer(value: Any, name: str, largest: int = _LARGEST_COUNT) -> None:
    """Refuse what is no integer, or is further from 0 than `largest`."""
    if not isinstance(value, int) or abs(value) > largest:
        raise InvalidValue(f"{name} is {_shown(value)}: make it an integer of at most {largest.bit_length() + 1} bits")


def check_optional_time(value: Any, name: str) -> float | None:
    """Refuse what is neither None nor a finite number; returns it as the databases keep it."""
    if value is None:
        return None
    if not (isinstance(value, (int, float)) and abs(value) <= _LARGEST_TIME):
        raise InvalidValue(f"{name} is {_shown(value)}: make it a finite number of seconds")
    return float(value)


def _shown(value: Any) -> str:
    return ascii(value) if isinstance(value, (str, float)) else f"a {type(value).__name__} out of range"
