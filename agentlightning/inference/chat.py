"""Between chat messages and tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import jinja2

from agentlightning.errors import InvalidRequest
from agentlightning.inference.sampler import Completion
from agentlightning.inference.text_stream import stop_position
from agentlightning.inference.tokenizer import Tokenizer, decode_exactly

Message = dict[str, Any]


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message], tools: list[Message] | None) -> list[int]:
    """Return the tokens of a conversation, up to where the assistant speaks next.

    Raises:
        InvalidRequest: A message is not one that the tokenizer's chat template can render.
    """
    conversation = [_for_template(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(conversation, tools, add_generation_prompt=True, tokenize=False)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise InvalidRequest(f"the chat template cannot render these messages: {error}") from error
    return tokenizer.encode(text, add_special_tokens=False)


def answer_text(
    tokenizer: Tokenizer, completion: Completion, end_token_ids: frozenset[int], stop: Sequence[str]
) -> str:
    """Return the text of an answer without its end token, and up to the first of the stop strings."""
    token_ids = completion.token_ids
    if token_ids[-1] in end_token_ids:
        token_ids = token_ids[:-1]
    text = decode_exactly(tokenizer, token_ids)
    return text[: stop_position(text, stop)]


def _for_template(message: Message) -> Message:
    """The message with content as text and arguments as an object, which is what templates expect."""
    if not isinstance(message.get("role"), str):
        raise InvalidRequest("every message needs a role")
    rendered = {**message, "content": _text(message.get("content"))}
    if calls := message.get("tool_calls"):
        if not isinstance(calls, list):
            raise InvalidRequest("the tool_calls of a message must be a list")
        rendered["tool_calls"] = [_call_for_template(call) for call in cast("list[Any]", calls)]
    return rendered


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidRequest("the content of a message must be text or a list of parts")
    texts: list[str] = []
    for part in cast("list[Any]", content):
        text = cast("Message", part).get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise InvalidRequest('this server reads text only: every part must be {"type": "text", "text": ...}')
        texts.append(text)
    return "".join(texts)


def _call_for_template(call: Any) -> Message:
    function = cast("Message", call).get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise InvalidRequest('every tool call needs {"function": {"name": ..., "arguments": ...}}')
    fields = cast("Message", function)
    return {**call, "function": {**fields, "arguments": _arguments(fields.get("arguments"))}}


def _arguments(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return {} if arguments is None else arguments
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments  # not JSON: the model sees the text it once wrote
