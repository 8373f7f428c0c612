"""What an OTLP exporter is answered, in the encoding of its request."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from agentlightning.store.otlp.payload import JSON, PROTOBUF, media_type

_RETRY_AFTER_SECONDS: Final = 1
_TOO_BUSY: Final = (429, 503)
_CODES: Final = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    408: Code.DEADLINE_EXCEEDED,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.RESOURCE_EXHAUSTED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
}
_REASONS_TOLD: Final = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    body: bytes
    headers: dict[str, str]


def success_answer(headers: Mapping[str, str], rejected: Counter[str]) -> Answer:
    """Say that the spans are stored, but for those that were rejected."""
    response = ExportTraceServiceResponse()
    if rejected:
        response.partial_success.rejected_spans = rejected.total()
        response.partial_success.error_message = explain(rejected)
    return _answer(headers, 200, response)


def error_answer(headers: Mapping[str, str], status: int, message: str) -> Answer:
    """Say why nothing of the request was stored, as the `google.rpc.Status` that OTLP asks for.

    Args:
        headers: Those of the request, by lower-case name.
        status: The HTTP status.
        message: What to tell the exporter's owner.
    """
    answer = _answer(headers, status, Status(code=_CODES.get(status, Code.UNKNOWN), message=message))
    if status in _TOO_BUSY:
        answer.headers["retry-after"] = str(_RETRY_AFTER_SECONDS)
    return answer


def explain(rejected: Counter[str]) -> str:
    """Return the reasons with their counts, the most frequent first."""
    reasons = [f"{count} rejected: {reason}" for reason, count in rejected.most_common(_REASONS_TOLD)]
    others = len(rejected) - len(reasons)
    return "; ".join([*reasons, *([f"and {others} other reasons"] if others else [])])


def _answer(headers: Mapping[str, str], status: int, message: Message) -> Answer:
    kind = JSON if media_type(headers.get("content-type")) == JSON else PROTOBUF
    body = MessageToJson(message, indent=None).encode() if kind == JSON else message.SerializeToString()
    answer = {"content-type": kind}
    if _takes_gzip(headers.get("accept-encoding", "")):
        body = gzip.compress(body)
        answer["content-encoding"] = "gzip"
    return Answer(status, body, answer)


def _takes_gzip(accept_encoding: str) -> bool:
    weights = dict(_weighted(part) for part in accept_encoding.lower().split(","))
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _weighted(part: str) -> tuple[str, float]:
    coding, _, parameter = part.partition(";")
    name, _, weight = parameter.partition("=")
    try:
        return coding.strip(), float(weight) if name.strip() == "q" else 1.0
    except ValueError:
        return coding.strip(), 0.0
