"""Conversations that the gateway has forgotten, read again from the record of the calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from agentlightning.llm_proxy.answers import refusal
from agentlightning.llm_proxy.dialects import responses
from agentlightning.llm_proxy.dialects.blocks import blocks_of, message_of
from agentlightning.llm_proxy.dialects.memory import Attempt, Memory
from agentlightning.llm_proxy.reply import Reply
from agentlightning.llm_proxy.shipper import Shipper
from agentlightning.semconv import AGL_LLM_CALL
from agentlightning.store.base import LightningStore
from agentlightning.types import Span
from agentlightning.types.chat_shape import load_dict, load_list
from agentlightning.types.llm_call_span import CLIENT_REQUEST, MESSAGES, PROTOCOL, REQUEST, RESPONSE_ID

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS: Final = 3.0
_RETRY_SECONDS: Final = 5

Json = dict[str, Any]


class Restorer:
    """Brings back what a request goes on from, after a restart or when the memory was full.

    Args:
        get_store: Returns the store with the record.
        shipper: Has what is on its way there.
        memory: Takes what was found.
    """

    def __init__(self, get_store: Callable[[], LightningStore], shipper: Shipper, memory: Memory) -> None:
        self._get_store = get_store
        self._shipper = shipper
        self._memory = memory

    async def restore(self, path: str, payload: Json | None, attempt: Attempt) -> Reply | None:
        """Put the conversation that a request goes on from into the memory, if it is recorded and not there.

        Returns:
            What the client gets if the record cannot be read now; None if the call may go on.
        """
        previous = (payload or {}).get("previous_response_id")
        rollout_id, attempt_id = attempt
        if path != responses.PATH or not isinstance(previous, str) or rollout_id is None or attempt_id is None:
            return None
        name = responses.name_of(previous)
        if self._memory.recall(attempt, name) is not None:
            return None
        try:
            # A stream of the attempt, or a call that is held, may keep the flush waiting: what it ends may be there.
            flushed = await self._shipper.flush(rollout_id, attempt_id, _PATIENCE_SECONDS)
            async with asyncio.timeout(_PATIENCE_SECONDS):
                spans = await self._get_store().query_spans(rollout_id, attempt_id, name=AGL_LLM_CALL)
            found = [_conversation(span) for span in spans if _is_response(span, previous)]
            if not found and not flushed:
                raise TimeoutError("the store has not taken all calls of the attempt yet")
        except Exception as error:  # noqa: BLE001  # any store may fail in any way; the client is asked to try again
            logger.warning("the conversation before %s cannot be read again: %r", previous, error)
            return _try_again(previous)
        if found:
            conversation = found[0] if len(found) == 1 else responses.AMBIGUOUS
            self._memory.keep(attempt, name, conversation, sum(len(str(each)) for each in found))
        return None


def _try_again(response_id: str) -> Reply:
    message = f"the conversation before {response_id!r} cannot be read from the store now; try again"
    reply = refusal(503, message, "conversation_unavailable")
    return replace(reply, headers={**reply.headers, "retry-after": str(_RETRY_SECONDS)})


def _is_response(span: Span, response_id: str) -> bool:
    attributes = span.attributes
    if attributes.get(PROTOCOL) != responses.PATH.removeprefix("/") or attributes.get(RESPONSE_ID) != response_id:
        return False
    return MESSAGES in attributes and load_dict(attributes.get(CLIENT_REQUEST)).get("store") is not False


def _conversation(span: Span) -> list[Json]:
    """Return the messages of a call and its answer, without the instructions, which are not carried over."""
    messages: list[Json] = load_dict(span.attributes.get(REQUEST))["messages"]
    instructed = bool(load_dict(span.attributes.get(CLIENT_REQUEST)).get("instructions"))
    answer = message_of(blocks_of(load_list(span.attributes.get(MESSAGES))[0]))
    return [*messages[1 if instructed else 0 :], answer]
