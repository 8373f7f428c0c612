"""What LiteLLM's OpenTelemetry callback writes: a span in its own words, and one below it in the provider's.

The latter holds the text of Python values.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any, Final

from agentlightning.adapter.sources import agentops, gen_ai
from agentlightning.adapter.sources.nested import with_token_ids
from agentlightning.types import Attributes, LLMCall, Span
from agentlightning.types.chat_shape import Json, chat_calls, dicts, text
from agentlightning.types.llm_call_span import RESPONSE_ID

SOURCE: Final = "litellm"

_PROVIDER_KEY: Final = re.compile(r"llm\.[^.]+\.(?P<name>.+)")
_REPLY: Final = frozenset(
    {
        "id",
        "object",
        "created",
        "model",
        "system_fingerprint",
        "choices",
        "usage",
        "prompt_token_ids",
        "response_token_ids",
    }
)
_LONGEST_LITERAL: Final = 1_000_000  # Python takes about a second for it


def read(span: Span, below: Sequence[Span]) -> list[LLMCall] | None:
    """Read one of the two spans."""
    if span.name == "litellm_request":
        return chat_calls(span, SOURCE, *_own_words(span.attributes, below))
    if span.name == "raw_gen_ai_request":
        said = _provider_values(span.attributes)
        return chat_calls(span, SOURCE, _without(said, _REPLY - {"model"}), _reply(said, span.attributes))
    return None


def _own_words(attributes: Attributes, below: Sequence[Span]) -> tuple[Json, Json]:
    """Newer versions write OpenTelemetry's messages, older ones AgentOps' keys; token ids are under the same keys."""
    request, reply = agentops.request_of(attributes), agentops.reply_of(attributes, below)
    said = gen_ai.reply_of(attributes)
    if "gen_ai.output.messages" not in attributes or not said["choices"]:
        return request, reply
    tokens = {key: choice.get(key) for choice in dicts(reply, "choices")[:1] for key in ("token_ids", "logprobs")}
    choices = [tokens | said["choices"][0], *said["choices"][1:]]
    tools = {"tools": request["tools"]}
    return gen_ai.request_of(attributes) | tools, reply | said | {"choices": choices}


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
