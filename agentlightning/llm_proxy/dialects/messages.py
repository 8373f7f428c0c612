"""Anthropic's Messages API in front of a backend that speaks chat completions."""

from __future__ import annotations

import json
from typing import Any, Final

from agentlightning.errors import InvalidAnswer, InvalidRequest
from agentlightning.llm_proxy.dialects.blocks import Block, blocks_of
from agentlightning.llm_proxy.dialects.memory import Attempt, Memory
from agentlightning.llm_proxy.dialects.messages_reply import MessageStream, from_chat, input_of
from agentlightning.llm_proxy.dialects.messages_request import to_chat, written_as
from agentlightning.llm_proxy.dialects.refusals import said_by
from agentlightning.llm_proxy.dialects.translated_view import OTHER_FORM, TranslatedView
from agentlightning.llm_proxy.reply import Reply

Json = dict[str, Any]

PATH: Final = "/messages"
_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class MessagesCall:
    """A call of Messages; see `Call`.

    Args:
        payload: The client's request.
        attempt: The attempt that calls.
        memory: Knows the arguments of earlier tool calls as the model wrote them: clients send them back parsed, and
            written in another way they would be other tokens than the model's.

    Raises:
        InvalidRequest: The request has not the form of Messages, or asks for something that a chat has no form for.
    """

    path: str = "/chat/completions"
    translated: bool = True

    def __init__(self, payload: Json, attempt: Attempt, memory: Memory) -> None:
        self._attempt = attempt
        self._memory = memory
        try:
            self.request: Json = to_chat(payload, self._arguments)
        except InvalidRequest:
            raise
        except OTHER_FORM as error:
            raise InvalidRequest(f"this is no request for a message: {type(error).__name__}: {error}") from error

    def answer(self, reply: Reply) -> Reply:
        """Return the backend's answer as a message; see `Call`."""
        if reply.status >= 400:
            return refusal(reply)
        try:
            chat = json.loads(reply.body)
            message = from_chat(chat)
            self._remember(blocks_of(chat["choices"][0]["message"]))
        except OTHER_FORM as error:
            raise InvalidAnswer(f"the backend's answer is none of a chat: {type(error).__name__}: {error}") from error
        return Reply(reply.status, json.dumps(message).encode(), reply.headers)

    def view(self) -> TranslatedView:
        """Return how the client sees the backend's stream; see `Call`."""
        stream = MessageStream()
        return TranslatedView(stream, lambda: self._remember(stream.reader.blocks))

    def _remember(self, blocks: list[Block]) -> None:
        for block in blocks:
            if block.kind == "tool" and block.text != written_as(input_of(block.text)):
                self._memory.keep(self._attempt, _name(block.call_id), block.text, len(block.text))

    def _arguments(self, call_id: str, arguments: Any) -> str:
        written: str | None = self._memory.recall(self._attempt, _name(call_id))
        return written if written is not None and input_of(written) == arguments else written_as(arguments)


def refusal(reply: Reply) -> Reply:
    """Return an error as Anthropic's clients understand it."""
    kind = _KINDS.get(reply.status, "api_error" if reply.status >= 500 else "invalid_request_error")
    error = {"type": "error", "error": {"type": kind, "message": said_by(reply.body)}}
    headers = {key: value for key, value in reply.headers.items() if key.lower() != "content-type"}
    return Reply(reply.status, json.dumps(error).encode(), headers | {"content-type": "application/json"})


def _name(call_id: str) -> str:
    return f"arguments of {call_id}"
