"""A model server that answers only those who have its key."""

from __future__ import annotations

import hmac
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from agentlightning.inference.sse import error_body

_OPEN: Final = "/health"


class ApiKeyGuard:
    """Passes on what presents the key as `Authorization: Bearer`; whether the server lives, it tells everybody.

    Args:
        app: The server.
        api_key: The key.
    """

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see ASGI."""
        presented = Headers(scope=scope).get("authorization", "").encode("latin-1")
        if scope["path"] == _OPEN or hmac.compare_digest(presented, self._expected):
            return await self._app(scope, receive, send)
        message = "this server wants its API key: Authorization: Bearer ..."
        refusal = JSONResponse(error_body(401, message, "invalid_api_key"), 401, {"www-authenticate": "Bearer"})
        await refusal(scope, receive, send)
