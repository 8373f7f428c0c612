"""What LiteLLM's OpenTelemetry callback writes: a span of AgentOps' keys, and one below it with the provider's words.

The latter holds the text of Python values.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any, Final

from agentlightning.adapter.sources.agentops import reply_of, request_of
from agentlightning.adapter.sources.nested import with_token_ids
from agentlightning.types import Attributes, LLMCall, Span
from agentlightning.types.chat_shape import Json, chat_calls, dicts, text
from agentlightning.types.llm_call_span import RESPONSE_ID

SOURCE: Final = "litellm"

_PROVIDER_KEY: Final = re.compile(r"llm\.[^.]+\.(?P<name>.+)")
_REPLY: Final = frozenset({"id", "object", "created", "choices", "usage", "prompt_token_ids", "response_token_ids"})
_LONGEST_LITERAL: Final = 1_000_000  # Python takes about a second for it


def read(span: Span, below: Sequence[Span]) -> list[LLMCall] | None:
    """Read one of the two spans."""
    if span.name == "litellm_request":
        return chat_calls(span, SOURCE, request_of(span.attributes), reply_of(span.attributes, below))
    if span.name == "raw_gen_ai_request":
        said = _provider_values(span.attributes)
        return chat_calls(span, SOURCE, _without(said, _REPLY), _reply(said, span.attributes))
    return None


def _provider_values(attributes: Attributes) -> Json:
    matches = ((_PROVIDER_KEY.fullmatch(key), value) for key, value in attributes.items())
    return {match["name"]: literal(value) for match, value in matches if match}


def _reply(said: Json, attributes: Attributes) -> Json:
    choices = with_token_ids(dicts(said, "choices"), said.get("response_token_ids"))
    reply = {key: value for key, value in said.items() if key in _REPLY}
    return reply | {"id": attributes.get(RESPONSE_ID) or text(said, "id"), "choices": choices}


def _without(values: Json, names: frozenset[str]) -> Json:
    return {key: value for key, value in values.items() if key not in names}


def literal(value: Any) -> Any:
    """Return the value that a text stands for, in JSON or in Python; the text itself if it stands for none."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    if len(value) > _LONGEST_LITERAL or not value.startswith(("[", "{", "(", "None", "True", "False")):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
