"""JSON read and written quickly."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json, to_json


def read_json(text: str | bytes) -> Any:
    """Return what `json.loads` returns, in half its time or less.

    Raises:
        ValueError: The text is no JSON.
        RecursionError: It is nested too deeply.
    """
    try:
        return from_json(text)
    except (ValueError, TypeError):  # a text with half a surrogate pair is no text to it
        return json.loads(text)  # which reads more, such as those halves, and says what is wrong


def write_json(value: Any) -> bytes:
    """Return what `read_json` returned as JSON."""
    try:
        return to_json(value)
    except ValueError:  # half a surrogate pair, which has no UTF-8
        return json.dumps(value, separators=(",", ":")).encode()
