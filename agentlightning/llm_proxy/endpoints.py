"""The gateway's endpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agentlightning._internal.json_text import read_json, write_json
from agentlightning.errors import InvalidAnswer, InvalidRequest, InvalidValue, NotFound
from agentlightning.llm_proxy.answers import code_of, guarded, refusal, response_of
from agentlightning.llm_proxy.backends import Backend
from agentlightning.llm_proxy.base_urls import raw_below, tidy
from agentlightning.llm_proxy.bodies import body_of
from agentlightning.llm_proxy.counting import count_tokens
from agentlightning.llm_proxy.dialects import messages
from agentlightning.llm_proxy.dialects.as_is import PlainView
from agentlightning.llm_proxy.dialects.call import Call, View
from agentlightning.llm_proxy.dialects.memory import Memory
from agentlightning.llm_proxy.dialects.protocols import PATHS, call_of, refusal_in
from agentlightning.llm_proxy.dispatch import Dispatcher, Trail, Work
from agentlightning.llm_proxy.events import EVENTS_PATH, event_fields, read_event
from agentlightning.llm_proxy.held import HeldStream, waited
from agentlightning.llm_proxy.hold import Gate
from agentlightning.llm_proxy.metrics import Meter
from agentlightning.llm_proxy.models import MODELS, model_reply, models_reply
from agentlightning.llm_proxy.overrides import SamplingOverrides, override
from agentlightning.llm_proxy.recorder import Recorder, Recorders
from agentlightning.llm_proxy.replicas import Replicas
from agentlightning.llm_proxy.reply import EventStream, Reply
from agentlightning.llm_proxy.restore import Restorer
from agentlightning.llm_proxy.routing import RoutingTable
from agentlightning.llm_proxy.sequence import SequenceReserver
from agentlightning.llm_proxy.shipper import Shipper
from agentlightning.llm_proxy.stream import FailedStream, Received, StreamedResponse, refused_stream
from agentlightning.llm_proxy.upstream import Upstream
from agentlightning.llm_proxy.watch import Watch
from agentlightning.store.base import LightningStore

COUNT_PATH: Final = messages.PATH + "/count_tokens"
EMBEDDINGS_PATH: Final = "/embeddings"
_FLUSH_SECONDS: Final = 10.0
_PASSED_ON: Final = frozenset({b"content-type", b"accept", b"authorization", b"x-api-key"})

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]
Json = dict[str, Any]


class Endpoints:
    """Answers requests; see `create_app` for where.

    Args:
        get_table: Returns the models that are served now.
        upstream: The way to the backends.
        dispatcher: Chooses among them, and tries again.
        sequences: Gives calls their places among the spans.
        shipper: Takes the records.
        get_store: Returns the store, where they end.
        gate: Where calls wait while somebody holds them.
        overrides: What is set in calls, whatever they ask for.
        meter: Counts calls.
    """

    def __init__(
        self,
        get_table: Callable[[], RoutingTable],
        upstream: Upstream,
        dispatcher: Dispatcher,
        sequences: SequenceReserver,
        shipper: Shipper,
        get_store: Callable[[], LightningStore],
        gate: Gate,
        overrides: SamplingOverrides,
        meter: Meter,
    ) -> None:
        self._get_table = get_table
        self._upstream = upstream
        self._dispatcher = dispatcher
        self._sequences = sequences
        self._shipper = shipper
        self._gate = gate
        self._overrides = overrides
        self._meter = meter
        self._recorders = Recorders(shipper, sequences)
        self._memory = Memory()
        self._restorer = Restorer(get_store, shipper, self._memory)

    def call_at(self, path: str) -> Endpoint:
        """Return the endpoint for model calls that come to `path` below a base URL."""

        async def endpoint(request: Request) -> Response:
            body = await body_of(request)
            if isinstance(body, Reply):
                self._watch(request, path, None).answered(body)
                return _refused(path, body, None)
            recorder = self._recorder(request, path, body)
            payload, attempt = _json_object(body), _attempt(request)
            if unavailable := await self._restorer.restore(path, payload, attempt):
                self._watch(request, path, None).answered(unavailable)
                return _refused(path, unavailable, recorder)
            try:
                call = call_of(path, payload, attempt, self._memory)
            except InvalidRequest as error:
                reply = refusal(error.status, str(error), code_of(error))
                self._watch(request, path, None).answered(reply)
                return _refused(path, reply, recorder)
            overrides = await self._overrides.of(request.scope["path"], attempt[0])
            override(call.request, overrides)
            if recorder is not None:
                model = call.request.get("model")
                recorder.model = model if isinstance(model, str) else None
                if call.translated or overrides:
                    recorder.asked = json.dumps(call.request).encode()
            if self._gate.closed:
                return await self._held(request, path, call, recorder)
            return await self._respond(request, path, call, recorder)

        return endpoint

    async def count_tokens(self, request: Request) -> Response:
        """Count the tokens of a request to Messages as the model's own chat template makes them."""
        body = await body_of(request)
        if isinstance(body, Reply):
            return _refused(messages.PATH, body, None)
        try:
            payload = _json_object(body)
            call = call_of(messages.PATH, payload, _attempt(request), self._memory)
        except InvalidRequest as error:
            return _refused(messages.PATH, refusal(error.status, str(error), code_of(error)), None)
        if refused := await waited(self._gate, request):
            return _refused(messages.PATH, refused, None)
        replicas = self._replicas(request, call.request.get("model"))
        if replicas is None:
            return _refused(messages.PATH, self._unknown_model(call.request.get("model")), None)
        watch, headers = self._watch(request, COUNT_PATH, call.request.get("model")), _headers(request)
        reply = await self._asked(
            request, replicas, lambda backend: count_tokens(self._upstream, backend, call.request, headers)
        )
        assert isinstance(reply, Reply)  # counting reads no streams
        watch.answered(reply)
        if reply.status < 400:
            return response_of(reply)
        return _refused(messages.PATH, reply, None)

    async def pass_through(self, request: Request) -> Response:
        """Send a request that is no model call we know on to its backend, unrecorded."""
        below = raw_below(request.scope)
        if below is None:
            return response_of(refusal(404, "a path must not lead out of the backend's base URL", "not_found"))
        if (own := self._own_answer(request)) is not None:
            return response_of(own)
        body = await body_of(request)
        if isinstance(body, Reply):
            return response_of(body)
        payload = _json_object(body) or {}
        model = payload.get("model")
        if request.method == "POST" and (refused := await waited(self._gate, request)):
            return response_of(refused)
        replicas = self._replicas(request, model or next(iter(self._get_table().names), None))
        if replicas is None:
            return response_of(self._unknown_model(model))
        query: bytes = request.scope["query_string"]
        path = f"{below}?{query.decode('latin-1')}" if query else below
        known = path if path == EMBEDDINGS_PATH else "other"  # whatever paths agents make up
        watch, headers = self._watch(request, known, model), _headers(request)

        def send(backend: Backend) -> Coroutine[Any, Any, Reply | EventStream]:
            renamed = write_json(payload | {"model": backend.model}) if "model" in payload else body
            return self._upstream.send(backend, request.method, path, renamed, headers)

        repeatable = request.method == "GET" or path == EMBEDDINGS_PATH
        reply = await self._asked(request, replicas, send, repeatable=repeatable)
        if isinstance(reply, EventStream):

            def close() -> None:
                self._gate.leave()
                watch.answered(Reply(reply.status, b"", retries=reply.retries))

            return StreamedResponse(reply, PlainView(whole=True), None, close, self._upstream.timeout)
        watch.answered(reply)
        return response_of(reply)

    def _own_answer(self, request: Request) -> Reply | None:
        """Return what no backend is asked for: models have names of the gateway's, and no call passes unrecorded."""
        path = tidy(request.path_params["path"])
        first, _, rest = path[1:].partition("/")
        if request.method == "GET" and first == MODELS:
            names = self._get_table().names
            if not rest:
                return models_reply(names)
            return model_reply(rest) if rest in names else self._unknown_model(rest)
        if request.method == "POST" and (model_path := next((p for p in PATHS if path.startswith(f"{p}/")), None)):
            message = f"POST {path} is not served: what it asks of a model would not be recorded"
            return refusal_in(model_path, refusal(404, message, "not_found"))
        return None

    async def event(self, request: Request) -> Response:
        """Take down what an attempt reports of itself, such as its reward."""
        body, (rollout_id, attempt_id) = await body_of(request), _attempt(request)
        if isinstance(body, Reply):
            return response_of(body)
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
        if not recorder.take(Reply(200, b"")):
            return response_of(refusal(507, "the gateway's journal takes no more, its log says why", "journal_full"))
        identity = {"event_type": event_type, "rollout_id": rollout_id, "attempt_id": attempt_id}
        event = write_json({**identity, "timestamp": time.time(), "data": data})
        return Response(event, media_type="application/json")

    async def flush(self, request: Request) -> Response:
        """Answer once the attempt's calls are in the store."""
        deadline = _seconds(request.query_params.get("deadline"))
        if deadline is None:
            return response_of(refusal(400, "deadline must be a number of seconds, 0 or more", "invalid_deadline"))
        rollout_id, attempt_id = request.path_params["rollout_id"], request.path_params["attempt_id"]
        if await self._shipper.flush(rollout_id, attempt_id, deadline):
            lost = self._shipper.losses.of((rollout_id, attempt_id))
            if lost == 0:
                return JSONResponse({"status": "ok"})
            message = f"{lost} calls of attempt {attempt_id} are lost: they were answered and could not be recorded"
            return response_of(refusal(507, message, "calls_lost"))
        message = (
            f"calls of attempt {attempt_id} are not in the store after {deadline:g} s; they are safe in the journal"
        )
        return response_of(refusal(504, message, "flush_timeout"))

    async def health(self, _: Request) -> Response:
        """Say that the gateway serves."""
        return JSONResponse({"status": "ok"})

    async def _held(self, request: Request, path: str, call: Call, recorder: Recorder | None) -> Response:
        since = time.monotonic_ns()
        recorded = self._shipper.expect(recorder.rollout_id, recorder.attempt_id) if recorder else _nothing

        async def go_on(refused: Reply | None, begun: bool = False) -> Response:
            later = recorder and replace(recorder, held_ns=time.monotonic_ns() - since)
            return await self._respond(request, path, call, later, refused, begun)

        if call.request.get("stream"):
            return HeldStream(self._gate, go_on, self._upstream.timeout, recorded)
        try:
            return await go_on(await waited(self._gate, request))
        finally:
            recorded()

    async def _respond(
        self,
        request: Request,
        path: str,
        call: Call,
        recorder: Recorder | None,
        refused: Reply | None = None,
        begun: bool = False,
    ) -> Response:
        watch = self._watch(request, path, call.request.get("model"))
        streams = bool(call.request.get("stream"))
        reply = refused or await self._answer(request, call)
        if isinstance(reply, EventStream) and not streams:
            reply = self._unasked(reply)
        if isinstance(reply, EventStream):
            return self._streamed(reply, call.view(), self._at_end(reply, recorder, watch), begun=begun)
        if streams:
            reply = refused_stream(reply)
        watch.answered(reply)
        if recorder is not None:
            recorder.take(reply)
        return FailedStream(reply, call.view(), self._upstream.timeout) if begun else _answered(path, call, reply)

    async def _answer(self, request: Request, call: Call) -> Reply | EventStream:
        replicas = self._replicas(request, call.request.get("model"))
        if replicas is None:
            return self._unknown_model(call.request.get("model"))
        headers = _headers(request)
        answer = await self._asked(
            request, replicas, lambda backend: self._upstream.ask(backend, call.path, call.request, headers)
        )
        try:
            await self._sequences.settle(*_attempt(request))
        except BaseException:
            if isinstance(answer, EventStream):
                self._leave(answer)
            raise
        return answer

    def _unasked(self, stream: EventStream) -> Reply:
        self._leave(stream)
        status = stream.status if stream.status >= 400 else 502
        error = refusal(status, "the backend answered with a stream, for which nobody asked", "invalid_answer")
        return replace(error, backend=stream.backend, retries=stream.retries)

    def _leave(self, stream: EventStream) -> None:
        """End a stream that nobody is to read."""
        stream.close()
        self._gate.leave()

    async def _asked(
        self, request: Request, replicas: Replicas, work: Work, *, repeatable: bool = True
    ) -> Reply | EventStream:
        """Await a backend's answer; until it is complete the call is in flight."""
        rollout_id, trail = request.path_params.get("rollout_id"), Trail()
        self._gate.enter()
        streams = False
        try:
            answer = await guarded(
                request, self._dispatcher.answer(replicas, rollout_id, work, trail, repeatable=repeatable)
            )
            streams = isinstance(answer, EventStream)
        finally:
            if not streams:
                self._gate.leave()
        return trail.mark(answer)

    def _streamed(
        self, stream: EventStream, view: View, on_end: Callable[[Received], None], *, begun: bool = False
    ) -> Response:
        return StreamedResponse(stream, view, on_end, self._gate.leave, self._upstream.timeout, begun=begun)

    def _at_end(self, stream: EventStream, recorder: Recorder | None, watch: Watch) -> Callable[[Received], None]:
        if recorder is None:
            return partial(watch.ended, stream)
        recorded = self._shipper.expect(recorder.rollout_id, recorder.attempt_id)

        def record(received: Received) -> None:
            try:
                recorder.take_stream(stream, received)
            finally:
                recorded()
            watch.ended(stream, received)

        return record

    def _watch(self, request: Request, path: str, model: object) -> Watch:
        name = model if isinstance(model, str) and self._get_table().replicas(model) is not None else "unknown"
        return Watch(self._meter.of(name, path), path, _attempt(request))

    def _recorder(self, request: Request, path: str, body: bytes) -> Recorder | None:
        """Return what takes a call down; None for a call of no attempt, which is served and not recorded."""
        rollout_id, attempt_id = _attempt(request)
        if rollout_id is None or attempt_id is None:
            return None
        return self._recorders.begin((rollout_id, attempt_id), path, body, request.scope["headers"])

    def _replicas(self, request: Request, model: object) -> Replicas | None:
        table = self._get_table()
        replicas = table.replicas(model)
        if replicas is None and request.url.path.startswith("/proxy/") and len(table.names) == 1:
            return table.replicas(table.names[0])  # v1.0 serves one model, under whatever name
        return replicas

    def _unknown_model(self, model: object) -> Reply:
        names = self._get_table().names
        return refusal(404, f"no model {model!r} here: the gateway serves {names}", "model_not_found")


def _nothing() -> None:
    """Do nothing."""


def _attempt(request: Request) -> tuple[str | None, str | None]:
    return request.path_params.get("rollout_id"), request.path_params.get("attempt_id")


def _headers(request: Request) -> dict[str, str]:
    """Return the headers that concern the backend, from one pass over the raw ones."""
    headers = {key.decode(): value.decode("latin-1") for key, value in request.scope["headers"] if key in _PASSED_ON}
    if "x-api-key" in headers:  # Anthropic's clients send their key there
        headers.setdefault("authorization", f"Bearer {headers.pop('x-api-key')}")
    return headers


def _answered(path: str, call: Call, reply: Reply) -> Response:
    try:
        return response_of(call.answer(reply))
    except InvalidAnswer as error:
        return response_of(refusal_in(path, refusal(error.status, str(error), code_of(error))))


def _refused(path: str, reply: Reply, recorder: Recorder | None) -> Response:
    """Return an error of the gateway's own as the clients of an API get it."""
    if recorder is not None:
        recorder.take(reply)
    return response_of(refusal_in(path, reply))


def _json_object(body: bytes) -> Json | None:
    try:
        payload = read_json(body)
    except (ValueError, RecursionError):
        return None  # for the caller to refuse, or to pass on
    return cast("Json", payload) if isinstance(payload, dict) else None


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text) if text is not None else _FLUSH_SECONDS
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
