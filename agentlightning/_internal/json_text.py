"""JSON read quickly."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json


def read_json(text: str | bytes) -> Any:
    """Return what `json.loads` returns, in half its time or less.

    Raises:
        ValueError: The text is no JSON.
        RecursionError: It is nested too deeply.
    """
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)  # which reads more, such as halves of surrogate pairs, and says what is wrong
