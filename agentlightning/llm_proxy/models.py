"""The models that a gateway serves, in the words of OpenAI's and Anthropic's APIs at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agentlightning._internal.json_text import write_json
from agentlightning.llm_proxy.reply import Reply

MODELS: Final = "models"


def models_reply(names: Sequence[str]) -> Reply:
    """Return the list of these models."""
    ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None, "has_more": False}
    return _json({"object": "list", "data": [_model(name) for name in names], **ends})


def model_reply(name: str) -> Reply:
    """Return one model."""
    return _json(_model(name))


def _model(name: str) -> dict[str, Any]:
    openai = {"id": name, "object": "model", "created": 0, "owned_by": "agentlightning"}
    return {**openai, "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def _json(value: dict[str, Any]) -> Reply:
    return Reply(200, write_json(value), {"content-type": "application/json"})
