"""The gateway's endpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agentlightning.errors import InvalidValue, NotFound
from agentlightning.llm_proxy.answers import guarded, refusal, response_of
from agentlightning.llm_proxy.dialects.chat import wants_usage
from agentlightning.llm_proxy.dialects.chat_stream import without_usage_chunk
from agentlightning.llm_proxy.events import EVENTS_PATH, event_fields, read_event
from agentlightning.llm_proxy.recorder import Recorder
from agentlightning.llm_proxy.routing import Backend, RoutingTable
from agentlightning.llm_proxy.sequence import SequenceReserver
from agentlightning.llm_proxy.shipper import Shipper
from agentlightning.llm_proxy.stream import Received, StreamedResponse
from agentlightning.llm_proxy.upstream import EventStream, Reply, Upstream

_FLUSH_SECONDS: Final = 10.0
_PASSED_ON: Final = frozenset({b"content-type", b"accept", b"authorization"})

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]
Json = dict[str, Any]


class Endpoints:
    """Answers requests; see `create_app` for where.

    Args:
        get_table: Returns the models that are served now.
        upstream: The way to the backends.
        sequences: Gives calls their places among the spans.
        shipper: Takes the records.
    """

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

    def call_at(self, path: str) -> Endpoint:
        """Return the endpoint for model calls that go to `path` below the backend's base URL."""

        async def call(request: Request) -> Response:
            body = await request.body()
            payload = _json_object(body)
            recorder = self._recorder(request, path, body)
            reply = await self._answer(request, path, payload)
            if isinstance(reply, EventStream):
                return self._streamed(reply, wants_usage(payload or {}), recorder)
            if recorder is not None:
                recorder.take(reply.status, reply.body)
            return response_of(reply)

        return call

    async def pass_through(self, request: Request) -> Response:
        """Send a request that is no model call we know on to its backend, unrecorded."""
        body = await request.body()
        model = (_json_object(body) or {}).get("model")
        backend = self._backend(request, model) if model else next(iter(self._get_table().backends), None)
        if backend is None:
            return response_of(self._unknown_model(model))
        path = "/" + request.path_params["path"] + (f"?{request.url.query}" if request.url.query else "")
        reply = await guarded(request, self._upstream.send(backend, request.method, path, body, _headers(request)))
        return self._streamed(reply, True, None) if isinstance(reply, EventStream) else response_of(reply)

    async def event(self, request: Request) -> Response:
        """Take down what an attempt reports of itself, such as its reward."""
        body, (rollout_id, attempt_id) = await request.body(), _attempt(request)
        assert rollout_id is not None  # it is part of the route
        assert attempt_id is not None
        try:
            event_type, data = read_event(body)
            event_fields(event_type, data)
            sequence_id = await self._sequences.reserve_known(rollout_id, attempt_id)
        except InvalidValue as error:
            return response_of(refusal(error.status, str(error), "invalid_event"))
        except NotFound as error:
            return response_of(refusal(error.status, str(error), "not_found"))
        recorder = Recorder(
            shipper=self._shipper,
            sequence_id=sequence_id,
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            path=EVENTS_PATH,
            request=body,
        )
        recorder.take(200, b"")
        identity = {"event_type": event_type, "rollout_id": rollout_id, "attempt_id": attempt_id}
        return JSONResponse({**identity, "timestamp": time.time(), "data": data})

    async def flush(self, request: Request) -> Response:
        """Answer once the attempt's calls are in the store."""
        deadline = _seconds(request.query_params.get("deadline"))
        if deadline is None:
            return response_of(refusal(400, "deadline must be a number of seconds, 0 or more", "invalid_deadline"))
        rollout_id, attempt_id = request.path_params["rollout_id"], request.path_params["attempt_id"]
        if await self._shipper.flush(rollout_id, attempt_id, deadline):
            return JSONResponse({"status": "ok"})
        message = (
            f"calls of attempt {attempt_id} are not in the store after {deadline:g} s; they are safe in the journal"
        )
        return response_of(refusal(504, message, "flush_timeout"))

    async def health(self, _: Request) -> Response:
        """Say that the gateway serves."""
        return JSONResponse({"status": "ok"})

    async def _answer(self, request: Request, path: str, payload: Json | None) -> Reply | EventStream:
        if payload is None:
            return refusal(400, "the request's body must be a JSON object", "invalid_json")
        backend = self._backend(request, payload.get("model"))
        if backend is None:
            return self._unknown_model(payload.get("model"))
        return await guarded(request, self._upstream.ask(backend, path, payload, _headers(request)))

    def _streamed(self, stream: EventStream, whole: bool, recorder: Recorder | None) -> Response:
        """Return a stream as the client gets it: `whole`, or without the usage that only the gateway asked for."""
        keep = _everything if whole else without_usage_chunk
        if recorder is None:
            return StreamedResponse(stream, keep, None)
        recorded = self._shipper.expect(recorder.rollout_id, recorder.attempt_id)

        def record(received: Received) -> None:
            try:
                recorder.take(stream.status, b"".join(received.pieces), received)
            finally:
                recorded()

        return StreamedResponse(stream, keep, record)

    def _recorder(self, request: Request, path: str, body: bytes) -> Recorder | None:
        """Return what takes a call down; None for a call of no attempt, which is served and not recorded."""
        rollout_id, attempt_id = _attempt(request)
        if rollout_id is None or attempt_id is None:
            return None
        return Recorder(
            shipper=self._shipper,
            sequence_id=self._sequences.reserve(rollout_id, attempt_id),
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            path=path,
            request=body,
        )

    def _backend(self, request: Request, model: object) -> Backend | None:
        table = self._get_table()
        backend = table.next_backend(model)
        if backend is None and request.url.path.startswith("/proxy/") and len(table.names) == 1:
            return table.next_backend(table.names[0])  # v1.0 serves one model, under whatever name
        return backend

    def _unknown_model(self, model: object) -> Reply:
        names = self._get_table().names
        return refusal(404, f"no model {model!r} here: the gateway serves {names}", "model_not_found")


def _attempt(request: Request) -> tuple[str | None, str | None]:
    return request.path_params.get("rollout_id"), request.path_params.get("attempt_id")


def _headers(request: Request) -> dict[str, str]:
    """Return the headers that concern the backend, from one pass over the raw ones."""
    return {key.decode(): value.decode("latin-1") for key, value in request.scope["headers"] if key in _PASSED_ON}


def _everything(events: bytes) -> bytes:
    return events


def _json_object(body: bytes) -> Json | None:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return None  # for the caller to refuse, or to pass on
    return cast("Json", payload) if isinstance(payload, dict) else None


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text) if text is not None else _FLUSH_SECONDS
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
