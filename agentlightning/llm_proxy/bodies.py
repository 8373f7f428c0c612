"""Requests' bodies, with bounds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from starlette.requests import ClientDisconnect, Request

from agentlightning.llm_proxy.answers import refusal
from agentlightning.llm_proxy.reply import Reply
from agentlightning.serving import has_come

_LARGEST: Final = 64 << 20
"""Bytes: a conversation of a million tokens with several images is half of it."""
_SILENCE_SECONDS: Final = 30.0


async def body_of(request: Request) -> bytes | Reply:
    """Return a request's body, or what its client gets if it is too large or does not come.

    Raises:
        ClientDisconnect: The client left.
    """
    pieces: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None if has_come(request) else _SILENCE_SECONDS) as limit:
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                piece: bytes = message.get("body", b"")
                pieces.append(piece)
                size += len(piece)
                if size > _LARGEST:
                    return _last(refusal(413, f"a request has at most {_LARGEST} bytes", "request_too_large"))
                if not message.get("more_body", False):
                    return b"".join(pieces)
                limit.reschedule(loop.time() + _SILENCE_SECONDS)
    except TimeoutError:
        message = f"the rest of the request did not come within {_SILENCE_SECONDS:g} s"
        return _last(refusal(408, message, "request_timeout"))


def _last(reply: Reply) -> Reply:
    """Return an answer after which the connection, on which the rest of the request may still come, is closed."""
    return replace(reply, headers={**reply.headers, "connection": "close"})
