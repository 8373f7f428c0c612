"""The keys of AgentOps, which OpenLLMetry's instrumentors share: messages spread over `gen_ai.prompt.{i}.…`.

Token ids and log-probabilities are what agent-lightning v0.3 adds to them. Tool calls of the answer are spans below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agentlightning.adapter.sources.nested import below as values_below, nested_object, objects
from agentlightning.types import Attributes, LLMCall, Span
from agentlightning.types.chat_shape import Json, chat_calls, load_dict, load_list, mapping
from agentlightning.types.llm_call_span import PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS

SOURCE: Final = "agentops"

_MESSAGES: Final = ("gen_ai.prompt.", "gen_ai.completion.")
_NOT_SENT: Final = frozenset({"type", "functions", "streaming", "headers"})


def read(span: Span, below: Sequence[Span]) -> list[LLMCall] | None:
    """Read a span that has messages or token ids under these keys, and is not an agent's or a session's."""
    if not is_call(span):
        return None
    attributes = span.attributes
    return chat_calls(span, SOURCE, request_of(attributes), reply_of(attributes, below))


def is_call(span: Span) -> bool:
    """Whether a span has messages or token ids under these keys."""
    attributes = span.attributes
    kind = str(attributes.get("agentops.span.kind", "llm"))
    if kind.rpartition(".")[2].lower() != "llm":  # some are written as the name of an enum's member
        return False
    return RESPONSE_TOKEN_IDS in attributes or any(key.startswith(_MESSAGES) for key in attributes)


def request_of(attributes: Attributes) -> Json:
    """Return the request in the chat shape."""
    said = nested_object(attributes, "gen_ai.request.")
    functions = objects(said.get("functions")) or objects(values_below(attributes, "llm.request.functions."))
    return {key: value for key, value in said.items() if key not in _NOT_SENT} | {
        "messages": [_message(each) for each in objects(values_below(attributes, "gen_ai.prompt."))],
        "tools": [_tool(function) for function in functions],
        "stream": said.get("streaming") is True,
    }


def reply_of(attributes: Attributes, below: Sequence[Span]) -> Json:
    """Return the answer in the chat shape."""
    choices: list[Json] = [
        {"message": _message(each), "finish_reason": each.get("finish_reason")}
        for each in objects(values_below(attributes, "gen_ai.completion."))
    ]
    token_ids = attributes.get(RESPONSE_TOKEN_IDS)
    if token_ids and not choices:
        choices = [{"message": {"role": "assistant", "content": None}}]
    for choice in choices[:1]:  # whoever wrote them kept those of the first choice only
        calls = [_called(span) for span in below if "tool.name" in span.attributes]
        choice["message"] |= {"tool_calls": calls} if calls and "tool_calls" not in choice["message"] else {}
        logprobs = {"content": load_list(attributes.get("logprobs.content"))}
        choice |= {"token_ids": token_ids, "logprobs": logprobs}
    said: Json = {
        "system_fingerprint": attributes.get("gen_ai.openai.system_fingerprint"),
        "usage": nested_object(attributes, "gen_ai.usage."),
    }
    said = nested_object(attributes, "gen_ai.response.") | {key: value for key, value in said.items() if value}
    return said | {"choices": choices, "prompt_token_ids": attributes.get(PROMPT_TOKEN_IDS)}


def _message(said: Json) -> Json:
    message: Json = {"role": said.get("role"), "content": _content(said.get("content"))}
    calls = [
        _tool_call(call.get("id"), call.get("name"), call.get("arguments")) for call in objects(said.get("tool_calls"))
    ]
    optional = {"tool_calls": calls, "tool_call_id": said.get("tool_call_id")}
    return message | {key: value for key, value in optional.items() if value}


def _content(content: Any) -> Any:
    """Return the parts of a message that was written as JSON; a text stays as it is."""
    if not isinstance(content, str) or not content.startswith("["):
        return content
    parts = objects(load_list(content))
    return parts if parts and all("type" in part for part in parts) else content


def _called(span: Span) -> Json:
    tool = nested_object(span.attributes, "tool.")
    return _tool_call(mapping(tool, "call").get("id"), tool.get("name"), tool.get("parameters"))


def _tool_call(call_id: Any, name: Any, arguments: Any) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments or "{}"}}


def _tool(function: Json) -> Json:
    said = function | {"parameters": load_dict(function.get("parameters")) or function.get("parameters")}
    return {"type": "function", "function": {key: value for key, value in said.items() if value is not None}}
