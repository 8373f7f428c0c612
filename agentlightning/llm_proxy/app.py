"""The gateway's routes: model calls are answered by backends and recorded, the rest passes through."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, cast

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentlightning._internal.ids import generate_id
from agentlightning.errors import BackendTimeout, BackendUnreachable
from agentlightning.llm_proxy.exchange import Exchange
from agentlightning.llm_proxy.routing import Backend, RoutingTable
from agentlightning.llm_proxy.sequence import SequenceReserver
from agentlightning.llm_proxy.shipper import Shipper
from agentlightning.llm_proxy.upstream import RECORDED_PATHS, Reply, Upstream
from agentlightning.serving import CLIENT_LEFT, answer_nobody, while_connected

T = TypeVar("T")

_ATTEMPT: Final = "/rollout/{rollout_id}/attempt/{attempt_id}"
_METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_FLUSH_SECONDS: Final = 10.0
_PASSED_ON: Final = frozenset({b"content-type", b"accept", b"authorization"})


def create_app(
    get_table: Callable[[], RoutingTable], upstream: Upstream, sequences: SequenceReserver, shipper: Shipper
) -> Starlette:
    """Return the gateway's ASGI app."""
    endpoints = _Endpoints(get_table, upstream, sequences, shipper)
    calls = [
        Route(prefix + version + path, endpoints.call_at(path), methods=["POST"])
        for prefix in (_ATTEMPT, "")
        for version in ("/v1", "")
        for path in RECORDED_PATHS
    ]
    return Starlette(
        routes=[
            *calls,
            Route(f"{_ATTEMPT}/flush", endpoints.flush, methods=["POST"]),
            Route("/health", endpoints.health),
            Route(_ATTEMPT + "/v1/{path:path}", endpoints.pass_through, methods=_METHODS),
            Route(_ATTEMPT + "/{path:path}", endpoints.pass_through, methods=_METHODS),
            Route("/v1/{path:path}", endpoints.pass_through, methods=_METHODS),
        ],
        exception_handlers={ClientDisconnect: answer_nobody, Exception: _on_fault},
    )


class _Endpoints:
    def __init__(
        self,
        get_table: Callable[[], RoutingTable],
        upstream: Upstream,
        sequences: SequenceReserver,
        shipper: Shipper,
    ) -> None:
        self._get_table = get_table
        self._upstream = upstream
        self._sequences = sequences
        self._shipper = shipper

    def call_at(self, path: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the endpoint for model calls that go to `path` below the backend's base URL."""

        async def call(request: Request) -> Response:
            body = await request.body()
            rollout_id, attempt_id = request.path_params.get("rollout_id"), request.path_params.get("attempt_id")
            if rollout_id is None or attempt_id is None:
                return _response(await self._answer(request, path, body))
            start_ns, sequence_id = time.time_ns(), self._sequences.reserve(rollout_id, attempt_id)
            reply = await self._answer(request, path, body)
            exchange = Exchange(
                rollout_id=rollout_id,
                attempt_id=attempt_id,
                trace_id=generate_id(32),
                start_ns=start_ns,
                end_ns=time.time_ns(),
                status=reply.status,
                request=body,
                response=reply.body,
            )
            self._shipper.add(exchange, sequence_id)
            return _response(reply)

        return call

    async def pass_through(self, request: Request) -> Response:
        """Send a request that is no model call we know on to its backend, unrecorded."""
        body = await request.body()
        model = (_json_object(body) or {}).get("model")
        backend = self._backend(model) if model else next(iter(self._get_table().backends), None)
        if backend is None:
            return _response(self._unknown_model(model))
        path = "/" + request.path_params["path"] + (f"?{request.url.query}" if request.url.query else "")
        work = self._upstream.send(backend, request.method, path, body, _headers(request))
        return _response(await _guarded(request, work))

    async def flush(self, request: Request) -> Response:
        """Answer once the attempt's calls are in the store."""
        deadline = _seconds(request.query_params.get("deadline"))
        if deadline is None:
            return _response(_error(400, "deadline must be a number of seconds, 0 or more", "invalid_deadline"))
        rollout_id, attempt_id = request.path_params["rollout_id"], request.path_params["attempt_id"]
        if await self._shipper.flush(rollout_id, attempt_id, deadline):
            return JSONResponse({"status": "ok"})
        message = (
            f"calls of attempt {attempt_id} are not in the store after {deadline:g} s; they are safe in the journal"
        )
        return _response(_error(504, message, "flush_timeout"))

    async def health(self, _: Request) -> Response:
        """Say that the gateway serves."""
        return JSONResponse({"status": "ok"})

    async def _answer(self, request: Request, path: str, body: bytes) -> Reply:
        payload = _json_object(body)
        if payload is None:
            return _error(400, "the request's body must be a JSON object", "invalid_json")
        backend = self._backend(payload.get("model"))
        if backend is None:
            return self._unknown_model(payload.get("model"))
        if payload.get("stream"):
            return _error(400, "streaming comes with a later version: send stream=false", "streaming_unsupported")
        return await _guarded(request, self._upstream.ask(backend, path, payload, _headers(request)))

    def _backend(self, model: object) -> Backend | None:
        return self._get_table().next_backend(model)

    def _unknown_model(self, model: object) -> Reply:
        names = self._get_table().names
        return _error(404, f"no model {model!r} here: the gateway serves {names}", "model_not_found")


async def _guarded(request: Request, work: Coroutine[Any, Any, Reply]) -> Reply:
    """Await a backend's answer; whatever prevents it becomes a reply too, so that it can be recorded."""
    try:
        reply = await while_connected(request, work)
    except BackendUnreachable as error:
        return _error(error.status, str(error), "backend_unreachable")
    except BackendTimeout as error:
        return _error(error.status, str(error), "backend_timeout")
    return reply or _error(CLIENT_LEFT, "the client left before the answer was complete", "client_left")


def _headers(request: Request) -> dict[str, str]:
    """Return the headers that concern the backend, from one pass over the raw ones."""
    return {key.decode(): value.decode("latin-1") for key, value in request.scope["headers"] if key in _PASSED_ON}


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, reply.headers)


def _error(status: int, message: str, code: str) -> Reply:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Reply(status, json.dumps({"error": error}).encode(), {"content-type": "application/json"})


async def _on_fault(_: Request, error: Exception) -> Response:
    # Starlette raises the error again once this is sent, and the server logs it with its traceback.
    return _response(_error(500, f"the gateway failed: {error}", "gateway_failed"))


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return None  # for the caller to refuse, or to pass on
    return cast("dict[str, Any]", payload) if isinstance(payload, dict) else None


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text) if text is not None else _FLUSH_SECONDS
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
