"""What the gateway itself answers."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from agentlightning.errors import (
    BackendTimeout,
    BackendUnreachable,
    CallHeld,
    InvalidAnswer,
    InvalidRequest,
    ModelError,
)
from agentlightning.llm_proxy.reply import EventStream, Reply
from agentlightning.serving import CLIENT_LEFT, while_connected

_CODES: Final[dict[type[ModelError], str]] = {
    BackendUnreachable: "backend_unreachable",
    BackendTimeout: "backend_timeout",
    InvalidAnswer: "invalid_answer",
    InvalidRequest: "invalid_request",
    CallHeld: "call_held",
}


def code_of(error: ModelError) -> str:
    """Return the name by which clients know an error."""
    return _CODES.get(type(error), "model_error")


def response_of(reply: Reply) -> Response:
    """Return a reply as the client gets it."""
    return Response(reply.body, reply.status, reply.headers)


def refusal(status: int, message: str, code: str) -> Reply:
    """Return an error as OpenAI's clients understand it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Reply(status, json.dumps({"error": error}).encode(), {"content-type": "application/json"})


async def guarded(request: Request, work: Coroutine[Any, Any, Reply | EventStream]) -> Reply | EventStream:
    """Await a backend's answer; whatever prevents it becomes a reply too, so that it can be recorded."""
    try:
        reply = await while_connected(request, work)
    except ModelError as error:
        return refusal(error.status, str(error), code_of(error))
    return reply or refusal(CLIENT_LEFT, "the client left before the answer was complete", "client_left")


async def on_fault(_: Request, error: Exception) -> Response:
    """Answer for a defect of the gateway."""
    # The error is raised again once this is sent, and the server logs it with its traceback.
    return response_of(refusal(500, f"the gateway failed: {error}", "gateway_failed"))
