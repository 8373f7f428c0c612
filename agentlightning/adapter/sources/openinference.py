"""What OpenInference's instrumentors write.

Most keep request and answer whole, as JSON; token ids, log-probabilities and all choices are only there. LangChain and
the OpenAI Agents SDK keep objects of their own, beside which the messages stand in attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agentlightning.adapter.sources.nested import below as values_below, objects
from agentlightning.adapter.sources.provider_shape import to_chat
from agentlightning.adapter.sources.tool_schema import chat_tool
from agentlightning.types import Attributes, LLMCall, Span
from agentlightning.types.chat_shape import Json, chat_calls, dicts, load_dict, load_list, mapping, text

SOURCE: Final = "openinference"
_ASKS: Final = ("model", "messages", "prompt", "input")


def read(span: Span, below: Sequence[Span]) -> list[LLMCall] | None:
    """Read a span of the kind LLM that asks a model something; the OpenAI SDK's other requests are of that kind too."""
    attributes = span.attributes
    if attributes.get("openinference.span.kind") != "LLM":
        return None
    output = load_dict(attributes.get("output.value"))
    sent = _sent(attributes, output)
    bodies = to_chat(sent, _whole(output)) or (_request(attributes), _reply(attributes, output))
    calls = chat_calls(span, SOURCE, *bodies)
    if not calls and not any(request.get(key) for request in (sent, bodies[0]) for key in _ASKS):
        return None
    if any(call.streamed for call in calls) and not any(call.finish_reason for call in calls):
        return []  # nobody read the stream to its end
    return calls


def _sent(attributes: Attributes, output: Json) -> Json:
    """Return the request's body; the OpenAI Agents SDK keeps its input alone, the rest stands in the answer."""
    model = {"model": attributes.get("llm.model_name")}
    sent = load_dict(attributes.get("input.value"))
    if sent:
        return model | sent
    rest = {key: output.get(key) for key in ("instructions", "tools")}
    return model | rest | {"input": load_list(attributes.get("input.value"))}


def _whole(output: Json) -> Json:
    """Return the answer; in one put together from a stream, tool calls still have the index of their pieces."""
    if output.get("object") == "chat.completion.chunk":
        for choice in dicts(output, "choices"):
            for call in dicts(mapping(choice, "message"), "tool_calls"):
                call.pop("index", None)
    return output


def _request(attributes: Attributes) -> Json:
    parameters = load_dict(attributes.get("llm.invocation_parameters"))
    tools = [
        load_dict(mapping(tool, "tool").get("json_schema")) for tool in objects(values_below(attributes, "llm.tools."))
    ]
    return parameters | {
        "model": parameters.get("model") or attributes.get("llm.model_name"),
        "messages": _messages(attributes, "llm.input_messages."),
        "tools": [chat_tool(tool) for tool in tools if tool],
    }


def _reply(attributes: Attributes, output: Json) -> Json:
    finish_reason = attributes.get("llm.finish_reason")
    messages = _messages(attributes, "llm.output_messages.")
    usage = {
        "prompt_tokens": attributes.get("llm.token_count.prompt"),
        "completion_tokens": attributes.get("llm.token_count.completion"),
        "total_tokens": attributes.get("llm.token_count.total"),
    }
    return _langchain(output) | {
        "model": attributes.get("llm.model_name"),
        "choices": [{"message": message, "finish_reason": finish_reason} for message in messages],
        "usage": {key: value for key, value in usage.items() if value is not None},
    }


def _langchain(output: Json) -> Json:
    """Return what LangChain says of the answer beside its messages; nothing for others."""
    generations: list[Any] = output.get("generations") or []
    first = objects(generations[0]) if generations else []
    message = mapping(first[0], "message") if first else {}
    metadata = mapping(mapping(message, "kwargs"), "response_metadata")
    response_id = text(metadata, "id") or text(mapping(output, "llm_output"), "id")
    said = {"id": response_id, "system_fingerprint": text(metadata, "system_fingerprint")}
    return {key: value for key, value in said.items() if value}


def _messages(attributes: Attributes, prefix: str) -> list[Json]:
    return [_message(mapping(each, "message")) for each in objects(values_below(attributes, prefix))]


def _message(said: Json) -> Json:
    parts = [_part(mapping(part, "message_content")) for part in objects(said.get("contents"))]
    content = said.get("content", [part for part in parts if part["type"] != "tool_use"] or None)
    message: Json = {"role": said.get("role"), "content": content}
    calls = [_tool_call(mapping(call, "tool_call")) for call in objects(said.get("tool_calls"))]
    optional = {"tool_calls": calls, "tool_call_id": said.get("tool_call_id"), "name": said.get("name")}
    return message | {key: value for key, value in optional.items() if value}


def _part(part: Json) -> Json:
    url = mapping(mapping(part, "image"), "image").get("url")
    if url is not None:
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": part.get("type", "text")} | {key: value for key, value in part.items() if key == "text"}


def _tool_call(call: Json) -> Json:
    function = mapping(call, "function")
    return {
        "id": call.get("id"),
        "type": "function",
        "function": {"name": function.get("name"), "arguments": function.get("arguments", "{}")},
    }
