"""The APIs whose calls are recorded, by the path at which clients ask."""

from __future__ import annotations

from typing import Any, Final

from agentlightning.errors import InvalidRequest
from agentlightning.llm_proxy.dialects import chat, messages, responses
from agentlightning.llm_proxy.dialects.as_is import PlainCall
from agentlightning.llm_proxy.dialects.call import Call
from agentlightning.llm_proxy.dialects.memory import Attempt, Memory
from agentlightning.llm_proxy.reply import Reply

PATHS: Final = (*chat.PATHS, messages.PATH, responses.PATH)


def call_of(path: str, payload: dict[str, Any] | None, attempt: Attempt, memory: Memory) -> Call:
    """Return a request as a call of the API at `path`.

    Raises:
        InvalidRequest: It is none.
    """
    if payload is None:
        raise InvalidRequest("the request's body must be a JSON object")
    if path == messages.PATH:
        return messages.MessagesCall(payload, attempt, memory)
    if path == responses.PATH:
        return responses.ResponsesCall(payload, attempt, memory)
    return PlainCall(path, payload)


def refusal_in(path: str, reply: Reply) -> Reply:
    """Return an error, which has OpenAI's form, in that of the API at `path`."""
    return messages.refusal(reply) if path == messages.PATH else reply
