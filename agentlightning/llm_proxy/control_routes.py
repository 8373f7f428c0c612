"""The routes by which trainers elsewhere hold a gateway's calls; v1.0's, with an owner and a lease."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentlightning.errors import ConfigurationError, Forbidden
from agentlightning.llm_proxy.answers import refusal, response_of
from agentlightning.llm_proxy.control import check_hold
from agentlightning.llm_proxy.held import RETRY_SECONDS
from agentlightning.llm_proxy.hold import LEASE_SECONDS, PATIENCE_SECONDS, Gate
from agentlightning.store.access import Access

_PAUSE, _RENEW, _RESUME, _DRAIN, _STATE = (f"/proxy/{name}" for name in ("pause", "renew", "resume", "drain", "state"))
CONTROL_PATHS: Final = frozenset({_PAUSE, _RENEW, _RESUME, _DRAIN, _STATE})
_NOBODY: Final = "somebody"
"""The owner where none is named, as v1.0's trainers do."""
_DRAIN_SECONDS: Final = 60.0

Json = dict[str, Any]


class ControlEndpoints:
    """Answers those who may hold calls.

    Args:
        gate: Where calls wait.
        access: Says who may where tokens do not; None where they do, see `TokenCheck`.
    """

    def __init__(self, gate: Gate, access: Access | None) -> None:
        self._gate = gate
        self._access = access

    def routes(self) -> list[Route]:
        """Return the routes."""
        acts = {_PAUSE: self._pause, _RENEW: self._renew, _RESUME: self._resume, _DRAIN: self._drain}
        return [
            *(Route(path, self._guarded(act), methods=["POST"]) for path, act in acts.items()),
            Route(_STATE, self._guarded(self._state), methods=["GET"]),
        ]

    def _guarded(self, act: Callable[[Json], Awaitable[Json]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                if self._access is not None:
                    self._access.caller_of(dict(request.scope["headers"]))
                answer = await act(_json_object(await request.body()))
            except Forbidden as error:
                return response_of(refusal(error.status, str(error), "forbidden"))
            except ConfigurationError as error:
                return response_of(refusal(400, str(error), "invalid_request"))
            return JSONResponse(answer)

        return endpoint

    async def _pause(self, body: Json) -> Json:
        self._gate.close(*_read(body, PATIENCE_SECONDS))
        return self._shown()

    async def _renew(self, body: Json) -> Json:
        return {"done": self._gate.renew(_owner(body))} | self._shown()

    async def _resume(self, body: Json) -> Json:
        return {"done": self._gate.open(_owner(body))} | self._shown()

    async def _drain(self, body: Json) -> Json:
        return {"done": await self._gate.drain(_read(body, _DRAIN_SECONDS)[2])} | self._shown()

    async def _state(self, _: Json) -> Json:
        return self._shown()

    def _shown(self) -> Json:
        status = self._gate.status()
        return {
            "paused": status.paused,
            "retry_after_seconds": RETRY_SECONDS,
            "reason": None,  # v1.0 has one; here the owner says who and why
            "inflight": status.in_flight,
            "held": status.held,
            "owners": status.owners,
        }


def _owner(body: Json) -> str:
    return str(body.get("owner", _NOBODY))


def _read(body: Json, deadline: float) -> tuple[str, float, float]:
    """Return owner, lease and deadline."""
    try:
        wish = _owner(body), float(body.get("lease", LEASE_SECONDS)), float(body.get("deadline", deadline))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"lease and deadline are numbers of seconds: {error}") from error
    check_hold(*wish)
    return wish


def _json_object(body: bytes) -> Json:
    if not body:
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the request's body is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError("the request's body must be a JSON object")
    return cast("Json", value)
