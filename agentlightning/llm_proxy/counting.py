"""How many tokens a conversation has, by the only one who knows: the backend with its chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentlightning.errors import InvalidAnswer
from agentlightning.llm_proxy.backends import Backend
from agentlightning.llm_proxy.reply import EventStream, Reply
from agentlightning.llm_proxy.upstream import Upstream
from agentlightning.types.chat_shape import mapping

Json = dict[str, Any]


async def count_tokens(
    upstream: Upstream, backend: Backend, request: Json, headers: Mapping[str, str]
) -> Reply | EventStream:
    """Return the count in Anthropic's form, or the backend's error.

    vLLM counts without generating. From any other backend the count comes with an answer of one token, which is no
    part of the attempt and is not recorded.

    Raises:
        BackendUnreachable: Nobody answers.
        BackendTimeout: No answer in time.
        InvalidAnswer: The answer names no count.
    """
    asked = {key: value for key, value in request.items() if key != "stream"} | {"model": backend.model}
    root = replace(backend, api_base=backend.api_base.removesuffix("/v1"))
    reply = await upstream.send(root, "POST", "/tokenize", json.dumps(asked).encode(), headers)
    if isinstance(reply, Reply) and reply.status == 200 and (count := _number(reply.body, "count")) is not None:
        return _counted(count)
    one = json.dumps(asked | {"max_tokens": 1}).encode()
    reply = await upstream.send(backend, "POST", "/chat/completions", one, headers)
    if isinstance(reply, EventStream):
        reply.close()
        raise InvalidAnswer(f"{backend.api_base} streams what was not asked for as a stream")
    if reply.status >= 400:
        return reply
    count = _number(reply.body, "usage", "prompt_tokens")
    if count is None:
        raise InvalidAnswer(f"{backend.api_base} does not say how many tokens the prompt has")
    return _counted(count)


def _number(body: bytes, *keys: str) -> int | None:
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for key in keys:
        value = mapping({"": value}, "").get(key)
    return value if type(value) is int else None


def _counted(count: int) -> Reply:
    return Reply(200, json.dumps({"input_tokens": count}).encode(), {"content-type": "application/json"})
