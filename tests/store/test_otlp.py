"""OTLP over HTTP: a stock exporter's spans are stored whole, and what cannot be stored costs nothing else."""

import asyncio
import base64
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc.status_pb2 import Status as RpcStatus
from hypothesis import given, settings, strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from agentlightning.errors import InvalidValue, TooBusy, TooLarge
from agentlightning.store import (
    InMemoryLightningStore,
    LightningStore,
    LightningStoreCapabilities,
    LightningStoreServer,
)
from agentlightning.store.forwarding import ForwardingStore
from agentlightning.store.limits import Limits
from agentlightning.store.operations import Operation
from agentlightning.store.otlp.answer import Answer
from agentlightning.store.otlp.handler import handle_other_signal, handle_traces
from agentlightning.store.otlp.limits import MAX_OBJECTS
from agentlightning.store.otlp.paths import OTHER_SIGNALS, TRACES_PATH
from agentlightning.store.otlp.spans import MAX_SPANS, parse_traces
from agentlightning.store.tokens import agent_token
from agentlightning.tracer.otlp_exporter import LightningStoreOTLPExporter
from agentlightning.types import AttemptedRollout, Span

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
SECRET = "secret-of-the-tests"
TRACE_ID, SPAN_ID = "0123456789abcdef0123456789abcdef", "fedcba9876543210"
ENOUGH = 2**26


class Watched(ForwardingStore):
    """Notes which operations are called, and refuses what it is told to."""

    def __init__(self, store: LightningStore) -> None:
        self.store = store
        self.called: list[str] = []
        self.refuse: Callable[[str, Mapping[str, Any]], Exception | None] = lambda _name, _arguments: None

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return self.store.capabilities

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        self.called.append(operation.name)
        error = self.refuse(operation.name, arguments)
        if error is not None:
            raise error
        return await getattr(self.store, operation.name)(**arguments)


@pytest.fixture
async def store() -> AsyncIterator[Watched]:
    memory = InMemoryLightningStore()
    yield Watched(memory)
    await memory.close()


@pytest.fixture
async def attempt(store: Watched) -> AttemptedRollout:
    started = await store.start_rollout({"task": 1})
    store.called.clear()
    return started


@pytest.fixture
async def server(store: Watched) -> AsyncIterator[LightningStoreServer]:
    serving = LightningStoreServer(store, port=0, token=SECRET)
    await serving.start()
    yield serving
    await serving.stop()


def exporter_to(server: LightningStoreServer, token: str = SECRET, **more: Any) -> OTLPSpanExporter:
    return OTLPSpanExporter(
        endpoint=server.otlp_traces_endpoint(), headers={"authorization": f"Bearer {token}"}, **more
    )


async def export(exporter: OTLPSpanExporter, *spans: ReadableSpan) -> SpanExportResult:
    try:
        return await asyncio.to_thread(exporter.export, spans)
    finally:
        exporter.shutdown()


def identity(rollout: AttemptedRollout, **more: Any) -> dict[str, Any]:
    ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id, **more}
    return {f"agentlightning.{name}": value for name, value in ids.items()}


def provider_of(attributes: Mapping[str, Any]) -> TracerProvider:
    return TracerProvider(
        resource=Resource(attributes, "https://schemas/resource"), span_limits=SpanLimits(max_events=1)
    )


def sdk_spans(attributes: Mapping[str, Any], count: int = 1) -> list[ReadableSpan]:
    tracer = provider_of(attributes).get_tracer("scope", "1.2", schema_url="https://schemas/scope")
    spans: list[Any] = [tracer.start_span(f"span {number}") for number in range(count)]
    for span in spans:
        span.end()
    return spans


def everything_span(attributes: Mapping[str, Any]) -> ReadableSpan:
    """A span that uses all that the SDK has."""
    tracer = provider_of(attributes).get_tracer("scope", "1.2", "https://schemas/scope", {"scope.key": 1})
    state = TraceState([("vendor", "x"), ("other", "y")])
    parent = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1), trace_state=state)
    elsewhere = SpanContext(1, 2, is_remote=True)
    values = {
        "text": "日本\n",
        "flag": True,
        "int": -(2**62),
        "float": 0.1,
        "texts": ["a", "b"],
        "numbers": [1, 2.5],
        "empty": [],
        "nothing": None,
        "bytes": b"\xff\x00",
        "nested": {"list": [1, {"deep": [b"\x01", None]}]},
    }
    span: Any = tracer.start_span(
        "everything",
        set_span_in_context(NonRecordingSpan(parent)),
        kind=SpanKind.CLIENT,
        attributes=values,
        links=[Link(elsewhere, {"why": "because"})],
        start_time=1_700_000_000_123_456_789,
    )
    span.add_event("dropped by the limit")
    span.add_event("kept", {"n": 1, "bytes": b"\x02"}, 1_700_000_000_200_000_001)
    span.set_status(Status(StatusCode.ERROR, "it broke"))
    span.end(1_700_000_001_000_000_001)
    return span


def protobuf(spans: Sequence[ReadableSpan]) -> bytes:
    return encode_spans(spans).SerializeToString()


def otlp_json(spans: Sequence[ReadableSpan]) -> bytes:
    """OTLP's JSON: protobuf's, with ids in hexadecimal and enums as numbers."""
    fields = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for group in fields["resourceSpans"]:
        for span in [span for scoped in group["scopeSpans"] for span in scoped["spans"]]:
            for holder in (span, *span.get("links", ())):
                for name in holder.keys() & {"traceId", "spanId", "parentSpanId"}:
                    holder[name] = base64.b64decode(holder[name]).hex()
    return json.dumps(fields).encode()


def bare_json(attributes: Mapping[str, str], **fields: Any) -> bytes:
    span = {"traceId": TRACE_ID, "spanId": SPAN_ID, "name": "bare"} | fields
    listed = [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
    resource_spans = {"resource": {"attributes": listed}, "scopeSpans": [{"spans": [span]}]}
    return json.dumps({"resourceSpans": [resource_spans]}).encode()


async def post(store: LightningStore, body: bytes, content_type: str = PROTOBUF, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await handle_traces(store, {"content-type": content_type, **named}, body, max_bytes=ENOUGH)


def partial_success(answer: Answer) -> tuple[int, str]:
    assert answer.status == 200
    assert answer.headers["content-type"] == PROTOBUF
    partial = ExportTraceServiceResponse.FromString(answer.body).partial_success
    return partial.rejected_spans, partial.error_message


def message_of(answer: Answer) -> str:
    return RpcStatus.FromString(answer.body).message


def comparable(span: Span) -> dict[str, Any]:
    """A span's fields, but for the flags, which only the wire has."""
    return {name: value for name, value in span.model_dump(warnings=False).items() if name != "flags"}


# -- the same span by either way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", list(Compression))
async def test_a_stock_exporter_stores_what_the_sdk_recorded(
    store: Watched, attempt: AttemptedRollout, server: LightningStoreServer, compression: Compression
) -> None:
    sent = everything_span(identity(attempt))
    assert await export(exporter_to(server, compression=compression), sent) is SpanExportResult.SUCCESS
    (stored,) = await store.query_spans(attempt.rollout_id)
    converted = Span.from_opentelemetry(sent, attempt.rollout_id, attempt.attempt.attempt_id, 1)
    # The exporter leaves out a link's trace state; the span's own and its parent's are equal here.
    assert comparable(stored) == comparable(converted)
    assert stored.model_extra is not None
    assert stored.model_extra["dropped_events_count"] == 1


def test_json_reads_as_protobuf_does() -> None:
    sent = [everything_span({"agentlightning.rollout_id": "r", "agentlightning.attempt_id": "a"})]
    assert parse_traces(otlp_json(sent), "Application/JSON; charset=utf-8", max_bytes=ENOUGH) == parse_traces(
        protobuf(sent), PROTOBUF, max_bytes=ENOUGH
    )


def test_a_bare_span_has_nothing_that_nobody_wrote() -> None:
    body = bare_json(
        {"agentlightning.rollout_id": "r", "agentlightning.attempt_id": "a"}, traceId="AbC", spanId="1", unknown={}
    )
    (span,) = parse_traces(body, JSON, max_bytes=ENOUGH).spans
    assert (span.trace_id, span.span_id) == ("abc".zfill(32), "1".zfill(16))
    assert (span.parent_id, span.parent, span.start_time, span.end_time_ns) == (None, None, None, None)
    assert span.status.status_code == "UNSET"
    assert span.status.description is None
    assert span.model_extra == {"kind": "INTERNAL", "instrumentation_scope": {"name": "", "version": None}}


# -- whose span it is ----------------------------------------------------------------------------------------------


def parsed(resource: Mapping[str, Any], attributes: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    (span,) = sdk_spans(resource)
    request = encode_spans([span])
    attribute_span: Any = provider_of({}).get_tracer("x").start_span("x", attributes=attributes)
    own = encode_spans([attribute_span]).resource_spans[0].scope_spans[0].spans[0]
    request.resource_spans[0].scope_spans[0].spans[0].attributes.extend(own.attributes)
    return [
        (span.rollout_id, span.attempt_id, span.sequence_id)
        for span in parse_traces(request.SerializeToString(), PROTOBUF, max_bytes=ENOUGH).spans
    ]


def ids(rollout_id: Any, attempt_id: Any, sequence_id: Any = None) -> dict[str, Any]:
    given = {"rollout_id": rollout_id, "attempt_id": attempt_id, "span_sequence_id": sequence_id}
    return {f"agentlightning.{name}": value for name, value in given.items() if value is not None}


@pytest.mark.parametrize(
    ("resource", "attributes", "expected"),
    [
        (ids("r", "a", 3), {}, ("r", "a", 3)),
        (ids("r", "a", 3), ids("R", "A", 0), ("R", "A", 0)),
        (ids("r", None), ids(None, "A"), ("r", "A", -1)),
        ({}, ids(7, 8, "12"), ("7", "8", 12)),
        (ids("r", "a", -5), {}, ("r", "a", -1)),
        (ids("r", "a", "twelve"), {}, ("r", "a", -1)),
        (ids("r", "a", True), {}, ("r", "a", -1)),
        (ids("r", "a", float("inf")), {}, ("r", "a", -1)),
        (ids("r", "a", str(2**63)), {}, ("r", "a", -1)),
        (ids("r", "a", 2**53), {}, ("r", "a", -1)),
        (ids("r", "a", 2**53 - 1), {}, ("r", "a", 2**53 - 1)),
    ],
)
def test_ids_stand_on_the_span_or_else_on_its_resource(
    resource: dict[str, Any], attributes: dict[str, Any], expected: tuple[str, str, int]
) -> None:
    assert parsed(resource, attributes) == [expected]


async def test_spans_without_a_number_get_the_next_ones_in_one_call(store: Watched, attempt: AttemptedRollout) -> None:
    other = await store.start_rollout(2)
    store.called.clear()
    spans = [
        *sdk_spans(identity(attempt), 3),
        *sdk_spans(identity(attempt, span_sequence_id=40)),
        *sdk_spans(identity(other), 2),
    ]
    assert partial_success(await post(store, protobuf(spans))) == (0, "")
    assert store.called == ["get_many_span_sequence_ids", "add_many_spans"]
    assert [span.sequence_id for span in await store.query_spans(attempt.rollout_id)] == [1, 2, 3, 40]
    assert [span.sequence_id for span in await store.query_spans(other.rollout_id)] == [1, 2]


# -- what cannot be stored -----------------------------------------------------------------------------------------


async def test_rejected_spans_are_counted_and_explained_and_cost_nothing_else(
    store: Watched, attempt: AttemptedRollout
) -> None:
    elsewhere = identity(attempt) | {"agentlightning.attempt_id": "nobody"}
    spans = [
        *sdk_spans(identity(attempt), 4),
        *sdk_spans({"agentlightning.rollout_id": "nowhere", "agentlightning.attempt_id": "at-1"}, 3),
        *sdk_spans(elsewhere, 2),
        *sdk_spans({}),
    ]
    rejected, message = partial_success(await post(store, protobuf(spans)))
    assert rejected == 6
    assert "3 rejected: attempt 'at-1' of rollout 'nowhere' does not exist" in message
    assert f"2 rejected: attempt 'nobody' of rollout '{attempt.rollout_id}' does not exist" in message
    assert "1 rejected: neither its attributes nor its resource's name both" in message
    assert len(await store.query_spans(attempt.rollout_id)) == 4


async def test_a_request_of_unknown_rollouts_alone_ends(store: Watched) -> None:
    spans = [span for number in range(20) for span in sdk_spans(ids(f"r{number}", "a"))]
    rejected, message = partial_success(await post(store, protobuf(spans)))
    assert rejected == 20
    assert message.endswith("and 10 other reasons")


async def test_spans_of_attempts_that_the_caller_may_not_write_are_rejected(
    store: Watched, attempt: AttemptedRollout
) -> None:
    other = await store.start_rollout(2)
    body = protobuf([*sdk_spans(identity(attempt)), *sdk_spans(identity(other))])
    answer = await handle_traces(
        store,
        {"content-type": PROTOBUF},
        body,
        max_bytes=ENOUGH,
        allow=lambda rollout_id, _: rollout_id == attempt.rollout_id,
    )
    rejected, message = partial_success(answer)
    assert rejected == 1
    assert "may not be written by this caller" in message
    assert (len(await store.query_spans(attempt.rollout_id)), len(await store.query_spans(other.rollout_id))) == (1, 0)


async def test_a_span_that_the_store_refuses_is_the_only_one_lost(store: Watched, attempt: AttemptedRollout) -> None:
    names = [f"span {number}" if number not in (2, 6) else "no \0 in names" for number in range(9)]
    tracer = provider_of(identity(attempt)).get_tracer("scope")
    spans: list[Any] = [tracer.start_span(name) for name in names]
    rejected, message = partial_success(await post(store, protobuf(spans)))
    assert rejected == 2
    assert message.startswith("2 rejected: ")
    assert "NUL" in message
    assert [span.name for span in await store.query_spans(attempt.rollout_id)] == [n for n in names if "\0" not in n]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"spanId": ""}, "span id"),
        ({"spanId": "0" * 16}, "span id"),
        ({"spanId": "1" * 18}, "span id"),
        ({"traceId": ""}, "trace id"),
        ({"traceId": "1" * 34}, "trace id"),
        ({"startTimeUnixNano": str(2**63)}, "2262"),
        ({"endTimeUnixNano": str(2**64 - 1)}, "2262"),
    ],
)
def test_a_span_without_a_proper_id_or_time_is_rejected(fields: dict[str, Any], reason: str) -> None:
    received = parse_traces(bare_json(ids("r", "a"), **fields), JSON, max_bytes=ENOUGH)
    assert received.spans == []
    assert received.rejected.total() == 1
    assert reason in next(iter(received.rejected))


async def test_sending_twice_stores_once(store: Watched, attempt: AttemptedRollout) -> None:
    body = protobuf(sdk_spans(identity(attempt), 3))
    assert partial_success(await post(store, body)) == (0, "")
    before = await store.query_spans(attempt.rollout_id)
    assert partial_success(await post(store, body)) == (0, "")
    assert await store.query_spans(attempt.rollout_id) == before


async def test_exporters_at_once_lose_nothing_and_share_no_number(
    store: Watched, attempt: AttemptedRollout, server: LightningStoreServer
) -> None:
    exports = [
        export(exporter_to(server, compression=Compression.Gzip), *sdk_spans(identity(attempt), 7)) for _ in range(24)
    ]
    assert set(await asyncio.gather(*exports)) == {SpanExportResult.SUCCESS}
    numbers = [span.sequence_id for span in await store.query_spans(attempt.rollout_id)]
    assert numbers == list(range(1, 24 * 7 + 1))


async def test_requests_read_in_threads_need_none_of_the_loops_own(store: Watched, attempt: AttemptedRollout) -> None:
    """Exporters that wait in the loop's executor must not keep the server in the same loop from answering them."""
    server = LightningStoreServer(store, port=0, launch_mode="asyncio", token=SECRET)
    await server.start()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    sent = sdk_spans(identity(attempt), 2)
    assert await export(exporter_to(server, compression=Compression.Gzip, timeout=5), *sent) is SpanExportResult.SUCCESS
    await server.stop()


async def test_an_agents_token_stores_its_own_attempts_spans_alone(
    store: Watched, attempt: AttemptedRollout, server: LightningStoreServer
) -> None:
    other = await store.start_rollout(2)
    token = agent_token(SECRET, attempt.rollout_id, attempt.attempt.attempt_id)
    sent = [*sdk_spans(identity(attempt)), *sdk_spans(identity(other))]
    assert await export(exporter_to(server, token), *sent) is SpanExportResult.SUCCESS
    assert await export(exporter_to(server, "nobody's"), *sent) is SpanExportResult.FAILURE
    assert (len(await store.query_spans(attempt.rollout_id)), len(await store.query_spans(other.rollout_id))) == (1, 0)


# -- bad requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"\xff\xff", {}),
        (b"{}", {"content_type": "text/plain"}),
        (b"", {"content_type": ""}),
        (b"", {"content_type": JSON}),
        (b"[]", {"content_type": JSON}),
        (b"[" * 100_000, {"content_type": JSON}),
        (b'{"resourceSpans": 3}', {"content_type": JSON}),
        (b'{"resourceSpans": {"scopeSpans": 3}}', {"content_type": JSON}),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}', {"content_type": JSON}),
        (b'{"resourceSpans": [{"schemaUrl": "\\ud800"}]}', {"content_type": JSON}),
        (b"9" * 5000, {"content_type": JSON}),
        (b"not gzip", {"content_encoding": "gzip"}),
        (gzip.compress(b"", mtime=0)[:-3], {"content_encoding": "gzip"}),
        (gzip.compress(b"", mtime=0) + b"more", {"content_encoding": "gzip"}),
        (b"", {"content_encoding": "br"}),
    ],
)
async def test_what_cannot_be_read_is_400(store: Watched, body: bytes, headers: dict[str, str]) -> None:
    answer = await post(store, body, **headers)
    assert answer.status == 400
    if answer.headers["content-type"] == JSON:
        status = json.loads(answer.body)
        assert (status["code"], bool(status["message"])) == (3, True)
    else:
        assert message_of(answer)
    assert store.called == []


@given(st.binary(max_size=200), st.sampled_from([PROTOBUF, JSON]), st.sampled_from([None, "gzip", "deflate"]))
@settings(max_examples=150, deadline=None)
def test_junk_is_read_or_refused(body: bytes, content_type: str, encoding: str | None) -> None:
    try:
        parse_traces(body, content_type, encoding, max_bytes=ENOUGH)
    except (InvalidValue, TooLarge) as error:
        assert str(error)  # noqa: PT017  # most junk is refused, but not all must be


NAMES = st.sampled_from(
    """resourceSpans scopeSpans spans resource attributes key value traceId spanId parentSpanId links events status
    code stringValue intValue doubleValue boolValue bytesValue arrayValue kvlistValue values name kind
    startTimeUnixNano trace_id""".split()
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("ab"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, VALUES, max_size=3), VALUES)
@settings(max_examples=150, deadline=None)
def test_json_of_any_shape_is_read_or_refused(request: dict[str, Any], span: Any) -> None:
    for fields in (request, {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}):
        try:
            parse_traces(json.dumps(fields).encode(), JSON, max_bytes=ENOUGH)
        except InvalidValue as error:
            assert str(error)  # noqa: PT017  # likewise


async def test_an_empty_request_is_fine(store: Watched) -> None:
    assert await post(store, b"") == Answer(200, b"", {"content-type": PROTOBUF})
    assert await post(store, b"{}", JSON) == Answer(200, b"{}", {"content-type": JSON})
    assert store.called == []


# -- limits --------------------------------------------------------------------------------------------------------


def bomb(gibibytes: int) -> bytes:
    """Zeros, gzipped: after a full flush a block's bytes can be repeated."""
    packer = zlib.compressobj(wbits=31)
    first, next_one = (packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + next_one * (64 * gibibytes - 1)


async def test_a_gzip_bomb_is_refused_within_the_memory_of_the_limit(store: Watched) -> None:
    body, limit = bomb(1), 1 << 24
    unpacker = zlib.decompressobj(31)
    assert len(unpacker.decompress(body, 2 << 24)) == 2 << 24
    tracemalloc.start()
    answer = await handle_traces(store, {"content-type": PROTOBUF, "content-encoding": "gzip"}, body, max_bytes=limit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status == 413
    assert str(limit) in message_of(answer)
    assert peak < 4 * limit


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_a_request_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(encoding: str | None) -> None:
    plain = protobuf(sdk_spans(ids("r", "a")))
    body = gzip.compress(plain) if encoding else plain
    assert len(parse_traces(body, PROTOBUF, encoding, max_bytes=len(plain)).spans) == 1
    with pytest.raises(TooLarge):
        parse_traces(body, PROTOBUF, encoding, max_bytes=len(plain) - 1)


def test_more_spans_than_the_limit_are_refused() -> None:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for _ in range(MAX_SPANS):
        spans.add()
    assert parse_traces(request.SerializeToString(), PROTOBUF, max_bytes=ENOUGH).rejected.total() == MAX_SPANS
    spans.add()
    with pytest.raises(TooLarge):
        parse_traces(request.SerializeToString(), PROTOBUF, max_bytes=ENOUGH)


def sized(field: int, value: bytes) -> bytes:
    """A field of protobuf that has a size."""
    size, encoded = len(value), b""
    while size > 127:
        size, encoded = size >> 7, encoded + bytes([size & 127 | 128])
    return bytes([field << 3 | 2]) + encoded + bytes([size]) + value


EMPTY_SPANS = sized(1, sized(2, sized(2, b"") * 700_000))
EMPTY_EVENTS = sized(1, sized(2, sized(2, sized(11, b"") * 700_000)))


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (EMPTY_SPANS, PROTOBUF),
        (EMPTY_EVENTS, PROTOBUF),
        (b'{"resourceSpans": [' + b"{}," * 700_000 + b"{}]}", JSON),
        (b"[" * 1_400_000, JSON),
    ],
    ids=["spans", "events", "json", "lists"],
)
def test_objects_that_fill_the_memory_are_refused_unbuilt(body: bytes, content_type: str) -> None:
    with pytest.raises(TooLarge, match=f"more than {MAX_OBJECTS}"):
        parse_traces(body, content_type, max_bytes=ENOUGH)


def test_a_large_request_is_read_like_a_small_one() -> None:
    sent = [everything_span(ids("r", "a"))] * 2600
    for body, content_type in ((protobuf(sent), PROTOBUF), (otlp_json(sent), JSON)):
        assert len(body) > 2**20
        received = parse_traces(body, content_type, max_bytes=ENOUGH)
        assert received.spans[-1] == parse_traces(protobuf(sent[-1:]), PROTOBUF, max_bytes=ENOUGH).spans[0]
        assert len(received.spans) == len(sent)


@pytest.mark.parametrize(
    "damage", [lambda body: body[:-1], lambda body: body + b"\x0b", lambda body: body + b"\x80" * 20]
)
def test_large_junk_is_refused(damage: Callable[[bytes], bytes]) -> None:
    body = protobuf([everything_span(ids("r", "a"))] * 2600)
    assert len(body) > 2**20
    with pytest.raises(InvalidValue):
        parse_traces(damage(body), PROTOBUF, max_bytes=ENOUGH)


async def test_a_servers_limit_on_bodies_holds_for_what_is_in_them(store: Watched, attempt: AttemptedRollout) -> None:
    server = LightningStoreServer(store, port=0, token=SECRET, limits=Limits(body_bytes=2000))
    await server.start()
    few = sdk_spans(identity(attempt))
    many = [everything_span(identity(attempt)), *(sdk_spans(identity(attempt) | {"padding": "x" * 3000}))]
    assert len(gzip.compress(protobuf(many))) < 2000 < len(protobuf(many))
    results = [await export(exporter_to(server, compression=Compression.Gzip), *spans) for spans in (few, many)]
    await server.stop()
    assert results == [SpanExportResult.SUCCESS, SpanExportResult.FAILURE]
    assert len(await store.query_spans(attempt.rollout_id)) == 1


# -- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "packed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("*;q=1, gzip; q=0.0", False),
        ("br", False),
        ("gzip;q=junk", False),
        ("", False),
    ],
)
async def test_the_answer_is_gzipped_where_that_is_welcome(store: Watched, accept: str, packed: bool) -> None:
    body = protobuf(sdk_spans({}))
    plain = await post(store, body)
    answer = await post(store, body, accept_encoding=accept)
    assert (answer.headers.get("content-encoding") == "gzip") is packed
    assert (gzip.decompress(answer.body) if packed else answer.body) == plain.body


async def test_json_is_answered_in_json(store: Watched) -> None:
    answer = await post(store, bare_json({}), JSON)
    assert answer.headers["content-type"] == JSON
    assert json.loads(answer.body)["partialSuccess"]["rejectedSpans"] == "1"


async def test_a_store_that_cannot_take_it_says_so_and_when_to_come_back(
    store: Watched, attempt: AttemptedRollout
) -> None:
    body = protobuf(sdk_spans(identity(attempt)))
    store.refuse = lambda _name, _arguments: TooBusy("come back")
    answer = await post(store, body)
    assert (answer.status, message_of(answer)) == (429, "come back")
    assert int(answer.headers["retry-after"]) >= 1
    store.refuse = lambda _name, _arguments: None
    await store.store.close()
    assert (await post(store, body)).status == 503


@pytest.mark.parametrize("path", OTHER_SIGNALS)
def test_other_signals_are_not_implemented(path: str) -> None:
    assert path.startswith("/v1/")
    answer = handle_other_signal({"content-type": PROTOBUF})
    assert answer.status == 501
    assert TRACES_PATH in message_of(answer)


# -- v0.3's exporter -----------------------------------------------------------------------------------------------


async def test_the_exporter_of_v03_sends_to_the_store_while_enabled(
    store: Watched, attempt: AttemptedRollout, server: LightningStoreServer
) -> None:
    url = server.otlp_traces_endpoint()
    exporter = LightningStoreOTLPExporter(
        endpoint="http://127.0.0.1:9/v1/traces", headers={"authorization": f"Bearer {SECRET}"}
    )
    first, second, third = sdk_spans({"service.name": "agent"}, 3)
    assert await asyncio.to_thread(exporter.export, [first]) is SpanExportResult.SUCCESS
    exporter.enable_store_otlp(url, attempt.rollout_id, attempt.attempt.attempt_id)
    assert (exporter.endpoint, exporter.rollout_id, exporter.attempt_id) == (
        url,
        attempt.rollout_id,
        attempt.attempt.attempt_id,
    )
    assert await asyncio.to_thread(exporter.export, [second]) is SpanExportResult.SUCCESS
    exporter.disable_store_otlp()
    assert exporter.rollout_id is None
    assert await asyncio.to_thread(exporter.export, [third]) is SpanExportResult.SUCCESS
    exporter.shutdown()
    (stored,) = await store.query_spans(attempt.rollout_id)
    assert stored.name == second.name
    assert stored.resource.attributes["service.name"] == "agent"
    assert "agentlightning.rollout_id" not in second.resource.attributes


async def test_large_requests_do_not_hold_up_the_loop(store: Watched, attempt: AttemptedRollout) -> None:
    """The loop runs other work while a large request is read."""
    body = protobuf(sdk_spans(identity(attempt), 500))
    request = asyncio.create_task(post(store, body))
    turns, deadline = 0, time.monotonic() + 10
    while "get_many_span_sequence_ids" not in store.called:
        await asyncio.sleep(0)
        turns += 1
        assert time.monotonic() < deadline
    assert turns > 2
    assert partial_success(await request) == (0, "")
