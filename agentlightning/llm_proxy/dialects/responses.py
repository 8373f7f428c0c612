"""OpenAI's Responses API in front of a backend that speaks chat completions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from agentlightning.errors import InvalidAnswer, InvalidRequest
from agentlightning.llm_proxy.dialects.blocks import Block, blocks_of, message_of
from agentlightning.llm_proxy.dialects.memory import Attempt, Memory
from agentlightning.llm_proxy.dialects.responses_reply import from_chat
from agentlightning.llm_proxy.dialects.responses_request import input_messages, to_chat
from agentlightning.llm_proxy.dialects.responses_stream import ResponseStream
from agentlightning.llm_proxy.dialects.translated_view import OTHER_FORM, TranslatedView
from agentlightning.llm_proxy.reply import Reply

Json = dict[str, Any]

PATH: Final = "/responses"
AMBIGUOUS: Final = "ambiguous"
"""Stands for the conversation of an id that several answers have."""


class ResponsesCall:
    """A call of Responses; see `Call`.

    Args:
        payload: The client's request.
        attempt: The attempt that calls.
        memory: Knows the conversations that earlier responses ended.

    Raises:
        InvalidRequest: The request has not the form of Responses, asks for something that a chat has no form for, or
            goes on from a response that is not known.
    """

    path: str = "/chat/completions"
    translated: bool = True

    def __init__(self, payload: Json, attempt: Attempt, memory: Memory) -> None:
        self._payload = payload
        self._attempt = attempt
        self._memory = memory
        try:
            self._history, self._history_size = self._recall(payload.get("previous_response_id"))
            self.request: Json = to_chat(payload, self._history)
        except InvalidRequest:
            raise
        except OTHER_FORM as error:
            raise InvalidRequest(f"this is no request for a response: {type(error).__name__}: {error}") from error

    def answer(self, reply: Reply) -> Reply:
        """Return the backend's answer as a response; see `Call`."""
        if reply.status >= 400:
            return reply  # OpenAI's errors have one form
        try:
            chat = json.loads(reply.body)
            response = from_chat(self._payload, chat)
            self._remember(chat["id"], blocks_of(chat["choices"][0]["message"]))
        except OTHER_FORM as error:
            raise InvalidAnswer(f"the backend's answer is none of a chat: {type(error).__name__}: {error}") from error
        return Reply(reply.status, json.dumps(response).encode(), reply.headers)

    def view(self) -> TranslatedView:
        """Return how the client sees the backend's stream; see `Call`."""
        stream = ResponseStream(self._payload)
        return TranslatedView(stream, lambda: self._remember(stream.head["id"], stream.reader.blocks))

    def _recall(self, response_id: str | None) -> tuple[list[Json], int]:
        """Return the conversation that ended with a response, and its size."""
        if response_id is None:
            return [], 0
        history = self._memory.recall(self._attempt, name_of(response_id))
        if history == AMBIGUOUS:
            raise InvalidRequest(
                f"the backend gave several answers the id {response_id!r}: send the conversation as input instead"
            )
        if history is None:
            raise InvalidRequest(
                f"no response {response_id!r} of this attempt is known: send the conversation as input instead"
            )
        return history, self._memory.size_of(self._attempt, name_of(response_id))

    def _remember(self, response_id: str, blocks: Sequence[Block]) -> None:
        if self._payload.get("store") is False:
            return
        said = [*input_messages(self._payload), message_of(blocks)]
        known = self._memory.recall(self._attempt, name_of(response_id)) is not None
        conversation = AMBIGUOUS if known else [*self._history, *said]
        self._memory.keep(self._attempt, name_of(response_id), conversation, self._history_size + len(json.dumps(said)))


def name_of(response_id: str) -> str:
    """Return the name by which the memory knows the conversation that ended with a response."""
    return f"conversation of {response_id}"
