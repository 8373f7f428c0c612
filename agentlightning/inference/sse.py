"""An answer as server-sent events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentlightning.errors import AgentLightningError
from agentlightning.serving import while_connected

logger = logging.getLogger(__name__)

Json = dict[str, Any]


class EventStreamResponse(Response):
    """Sends objects as they come, and closes their source as soon as the client leaves.

    Nothing is sent before there is a first object: an error until then gets a status of its own, a later one is an
    event.

    Args:
        objects: What to send.
    """

    def __init__(self, objects: AsyncGenerator[Json]) -> None:
        # Not Starlette's constructor, which would promise the length of a body.
        self.status_code = 200
        self.background = None
        self.init_headers({"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"})
        self._objects = objects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see ASGI."""
        await while_connected(Request(scope, receive), self._answer(send))

    async def _answer(self, send: Send) -> None:
        async with aclosing(self._objects) as objects:
            first = await anext(objects)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send(send, dump_json(first))
            try:
                async for each in objects:
                    await _send(send, dump_json(each))
            except AgentLightningError as error:
                await _send(send, dump_json(error_body(error.status, str(error))))
            except Exception as error:
                logger.exception("an answer broke off while it was streamed")
                await _send(send, dump_json(error_body(500, f"the server failed: {type(error).__name__}")))
            else:
                await _send(send, "[DONE]")
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def dump_json(content: Json) -> str:
    """Return JSON in ASCII: half a surrogate pair, which a model may write in a call's arguments, has no UTF-8."""
    return json.dumps(content, allow_nan=False, separators=(",", ":"))


def error_body(status: int, message: str, code: str | None = None) -> Json:
    """Return an error as OpenAI's clients understand it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


async def _send(send: Send, data: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
