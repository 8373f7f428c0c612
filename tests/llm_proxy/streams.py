"""Streamed answers in OpenAI's form, for the scripted backend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import StreamingResponse

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"


def event(chunk: Json) -> bytes:
    return f"data: {json.dumps(chunk)}\n\n".encode()


def chunk(delta: Json, index: int = 0, **fields: Any) -> bytes:
    """One chunk of a chat answer; `fields` belong to its choice."""
    choice = {"index": index, "delta": delta, "finish_reason": None} | fields
    return event({"id": "chatcmpl-s", "object": "chat.completion.chunk", "model": "org/net", "choices": [choice]})


def token_chunk(text: str, token: int, logprob: float, **fields: Any) -> bytes:
    logprobs = {"content": [{"token": text, "logprob": logprob, "bytes": None, "top_logprobs": []}]}
    return chunk({"content": text}, token_ids=[token], logprobs=logprobs, **fields)


HEAD = event(
    {
        "id": "chatcmpl-s",
        "object": "chat.completion.chunk",
        "model": "org/net",
        "prompt_token_ids": [1, 2],
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
    }
)
USAGE = event(
    {
        "id": "chatcmpl-s",
        "object": "chat.completion.chunk",
        "model": "org/net",
        "choices": [],
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
    }
)
ANSWER = (HEAD, token_chunk("a", 7, -0.5), token_chunk("b", 8, -0.25, finish_reason="stop"))


class Stream:
    """Sends pieces; after `before` of them it waits for its gate.

    Attributes:
        abandoned: Set when the client leaves before the end.
    """

    def __init__(self, pieces: Sequence[bytes], before: int | None = None, error: Exception | None = None) -> None:
        self._pieces = pieces
        self._before = before
        self._error = error
        self.gate = asyncio.Event()
        self.abandoned = asyncio.Event()

    def response(self) -> StreamingResponse:
        return StreamingResponse(self._send(), media_type="text/event-stream")

    async def _send(self) -> AsyncIterator[bytes]:
        try:
            for number, piece in enumerate(self._pieces):
                if number == self._before:
                    await self.gate.wait()
                yield piece
        except asyncio.CancelledError:
            self.abandoned.set()
            raise
        if self._error is not None:
            raise self._error
