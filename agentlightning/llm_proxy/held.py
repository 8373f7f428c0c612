"""Requests at a closed gate, and what their clients see meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentlightning.errors import CallHeld
from agentlightning.llm_proxy.answers import code_of, refusal
from agentlightning.llm_proxy.hold import Gate
from agentlightning.llm_proxy.reply import Reply
from agentlightning.serving import CLIENT_LEFT, while_connected

KEEPALIVE_SECONDS: Final = 2.0
"""How long a stream's client hears nothing while its call is held. Shorter holds leave the answer as it is."""
RETRY_SECONDS: Final = 5
"""When those whose calls were held for too long are asked to try again."""

_KEEPALIVE: Final = b": hold\n\n"  # a comment, which clients of every API skip
_STREAM_HEADERS: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

GoOn = Callable[[Reply | None, bool], Awaitable[Response]]


async def waited(
    gate: Gate, request: Request, opens: Callable[[float], Coroutine[Any, Any, bool]] | None = None
) -> Reply | None:
    """Wait until a call may go on; returns what the client gets if it may not.

    Args:
        gate: Where it waits; when this returns None, the gate is open until the caller awaits something.
        request: Whose client may leave.
        opens: Waits for the gate within so many seconds; None is the gate's own way, which sends nothing.
    """
    while gate.closed:
        patience = gate.patience
        try:
            opened = await while_connected(request, (opens or gate.opens)(patience))
            if opened is None:
                return refusal(CLIENT_LEFT, "the client left while its call was held; nothing was asked", "client_left")
            if not opened:
                raise CallHeld(f"model calls are held since more than {patience:g} s; try again")
        except CallHeld as error:
            reply = refusal(error.status, str(error), code_of(error))
            return replace(reply, headers={**reply.headers, "retry-after": str(RETRY_SECONDS)})
    return None


class HeldStream(Response):
    """Answers a call that is held and wants a stream: its client hears that there is more to come.

    Args:
        gate: Where the call waits.
        go_on: Returns the rest of the answer; called with what the client gets if the call may not go on, and whether
            the answer has begun, with status 200.
        timeout: How many seconds the client may take nothing.
        on_end: Told that the call is held no more.
    """

    def __init__(self, gate: Gate, go_on: GoOn, timeout: float, on_end: Callable[[], None]) -> None:
        # Not Starlette's constructor, which would make headers for a body.
        self.background = None
        self._gate = gate
        self._go_on = go_on
        self._timeout = timeout
        self._on_end = on_end
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see ASGI."""
        try:
            response = await self._go_on(await self._waited(scope, receive, send), self._begun)
        finally:
            self._on_end()
        await response(scope, receive, send)

    async def _waited(self, scope: Scope, receive: Receive, send: Send) -> Reply | None:
        try:
            return await waited(self._gate, Request(scope, receive), lambda seconds: self._opens(seconds, send))
        except TimeoutError:
            return refusal(CLIENT_LEFT, "the client took nothing while its call was held", "client_left")

    async def _opens(self, seconds: float, send: Send) -> bool:
        while not await self._gate.opens(min(seconds, KEEPALIVE_SECONDS)):
            seconds -= KEEPALIVE_SECONDS
            if seconds <= 0:
                return False
            async with asyncio.timeout(self._timeout):
                if not self._begun:
                    await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
                    self._begun = True
                await send({"type": "http.response.body", "body": _KEEPALIVE, "more_body": True})
        return True
