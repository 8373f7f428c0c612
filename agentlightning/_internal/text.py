"""Text that can be kept: whatever an agent says, UTF-8 can encode it."""

from __future__ import annotations

from typing import Final

LONG: Final = 10_000
"""Characters of a text that people read, such as an error's message."""


def encodable(text: str) -> str:
    r"""Return the text with lone surrogates, as undecodable file names have them, written as `\udc80`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def storable(text: str) -> str:
    """Return encodable text with NUL, which databases refuse in a text, replaced by U+FFFD."""
    return encodable(text).replace("\0", "\ufffd")


def shortened(text: str) -> str:
    """Return the text, or its beginning and its end if it is longer than `LONG` characters."""
    left_out = len(text) - LONG
    half = LONG // 2
    return text if left_out <= 0 else f"{text[:half]} … {left_out} characters left out … {text[-half:]}"


def text_of(value: object) -> str:
    """Return `str(value)` as encodable text, also for a value whose `__str__` raises."""
    try:
        return encodable(str(value))
    except Exception as error:  # noqa: BLE001  # it is the value's own code, and its owner has other worries
        return f"<{type(value).__name__} whose str() raises {type(error).__name__}>"
