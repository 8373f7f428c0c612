"""What a backend's error says, in whatever form it says so."""

from __future__ import annotations

import json
from typing import Any, cast


def said_by(body: bytes) -> str:
    """Return the message of an error of OpenAI's form, of older vLLM's, of FastAPI's, or of none."""
    whole = body.decode(errors="replace")
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError):
        return whole
    while isinstance(said, dict):
        error = cast("dict[str, Any]", said)
        said = next((error[key] for key in ("error", "message", "detail") if error.get(key)), None)
    return said if isinstance(said, str) else whole
